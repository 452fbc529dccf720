//! Files of databases, and opening them.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::authorizer::{LastDenial, authorize};
use super::{MAX_STATEMENT, MAX_VALUE, SqlError};
use crate::closing::close;
use crate::file_name::file_name;
use crate::key::Namespace;
use crate::mutex::lock;
use crate::sqlite::Durability;

/// Statements that run at the same time, of all services and of one.
const RUNNING: (usize, usize) = (32, 8);

/// Bytes of a page.
const PAGE: u64 = 4096;

/// Bytes of the log beyond the quota, after which nothing is written until readers let it shrink.
const LOG: u64 = 16 << 20;

/// The longest wait of the host itself for the lock of a file.
const PATIENCE: Duration = Duration::from_secs(2);

/// Settings of every connection, before those of [`Durability`]: no `mmap`, in which a file that is cut off kills the process, no
/// trust in the file, and nothing temporary on disk.
const SETTINGS: &str = "
    PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY;
    PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON; PRAGMA journal_size_limit = 16777216;
    PRAGMA cache_size = -2048; PRAGMA temp.max_page_count = 4096; PRAGMA foreign_keys = ON;
";

/// Limits of every connection, below SQLite's own: <https://sqlite.org/security.html>.
const LIMITS: &[(Limit, i32)] = &[
    (Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE as i32),
    (Limit::SQLITE_LIMIT_SQL_LENGTH, MAX_STATEMENT as i32),
    (Limit::SQLITE_LIMIT_COLUMN, 500),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 100),
    (Limit::SQLITE_LIMIT_VDBE_OP, 100_000),
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1_000),
    (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 10_000),
    (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 100),
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
];

/// How the databases of a host are opened.
#[derive(Clone, Debug)]
pub struct SqlOptions {
    /// The directory with a directory for each service. It is made when the first database is.
    pub directory: PathBuf,
    /// What a confirmed write survives.
    pub durability: Durability,
    /// Bytes that SQLite may use in this process. Beyond it, statements that run for long are stopped.
    pub memory: u64,
}

/// The databases of all services of a host.
pub struct SqlDatabases {
    options: SqlOptions,
    running: Arc<Semaphore>,
}

/// A database of a service.
pub struct SqlDatabase {
    path: PathBuf,
    pub(super) options: SqlOptions,
    /// Its most pages.
    pages: u64,
    /// The places of running statements: of the host and of the service.
    running: [Arc<Semaphore>; 2],
    /// A connection that stays open: when the last one of a file is closed, SQLite writes its log back, which waits for the disk.
    keeper: Mutex<Option<Connection>>,
}

/// An open connection.
pub(super) struct OpenConnection {
    pub(super) connection: Connection,
    pub(super) denied: LastDenial,
}

impl SqlDatabases {
    /// Creates the databases of a host. Nothing is opened before the first statement.
    pub fn new(options: SqlOptions) -> Self {
        Self { options, running: Arc::new(Semaphore::new(RUNNING.0)) }
    }

    /// Returns the databases `names` of `service`, each with up to `quota` bytes.
    pub fn of(&self, service: &Namespace, names: &[String], quota: u64) -> BTreeMap<String, Arc<SqlDatabase>> {
        let running = Arc::new(Semaphore::new(RUNNING.1));
        let database = |name: &String| {
            let directory = self.options.directory.join(file_name(service.as_str()));
            let database = SqlDatabase {
                path: directory.join(format!("{}.db", file_name(name))),
                options: self.options.clone(),
                pages: (quota / PAGE).max(1),
                running: [Arc::clone(&self.running), Arc::clone(&running)],
                keeper: Mutex::default(),
            };
            (name.clone(), Arc::new(database))
        };
        names.iter().map(database).collect()
    }
}

impl SqlDatabase {
    /// Waits for places to run a statement: first of the service, so that no service waits in the queue of the host with more
    /// statements than it could run.
    pub(super) async fn places(&self) -> [Option<OwnedSemaphorePermit>; 2] {
        let [host, service] = &self.running;
        // They are never closed.
        let service = Arc::clone(service).acquire_owned().await.ok();
        [service, Arc::clone(host).acquire_owned().await.ok()]
    }

    /// Opens a connection. Waits for the disk.
    pub(super) fn open(&self) -> Result<OpenConnection, SqlError> {
        self.keep()?;
        self.connect().map_err(|error| unavailable(&error))
    }

    fn connect(&self) -> rusqlite::Result<OpenConnection> {
        let mut connection = self.connect_plain(Duration::ZERO)?;
        let pages = self.pages;
        connection.execute_batch(&format!("PRAGMA max_page_count = {pages}"))?;
        for config in [DbConfig::SQLITE_DBCONFIG_DEFENSIVE, DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE] {
            connection.set_db_config(config, true)?;
        }
        for (limit, most) in LIMITS {
            connection.set_limit(*limit, *most)?;
        }
        let denied = authorize(&mut connection)?;
        Ok(OpenConnection { connection, denied })
    }

    fn connect_plain(&self, patience: Duration) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(patience)?;
        connection.execute_batch(SETTINGS)?;
        connection.execute_batch(match self.options.durability {
            Durability::Process => "PRAGMA synchronous = NORMAL",
            Durability::Power => "PRAGMA synchronous = FULL",
        })?;
        Ok(connection)
    }

    /// Opens the connection that stays open, and makes the file.
    fn keep(&self) -> Result<(), SqlError> {
        let mut keeper = lock(&self.keeper);
        if keeper.is_some() {
            return Ok(());
        }
        if let Some(directory) = self.path.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.map_err(|error| SqlError::Unavailable(format!("its directory cannot be created: {error}")))?;
        }
        let open = || {
            let connection = self.connect_plain(PATIENCE)?;
            self.restrict();
            let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
            // Recovers the log of a process that was killed.
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
            Ok((connection, mode))
        };
        let (connection, mode) = open().map_err(|error| unavailable(&error))?;
        if mode != "wal" {
            return Err(SqlError::Unavailable(format!("its file system does not support WAL (mode is {mode})")));
        }
        // From here on it waits for nobody.
        connection.busy_timeout(Duration::ZERO).map_err(|error| unavailable(&error))?;
        *keeper = Some(connection);
        Ok(())
    }

    /// Lets only the owner read and write the files. By their names: closing another handle would release the locks of SQLite. The
    /// directory permits nobody else either, unless somebody has changed that.
    fn restrict(&self) {
        for suffix in ["", "-wal", "-shm"] {
            let mut file = self.path.clone().into_os_string();
            file.push(suffix);
            // Files that are not there yet get the mode of the first one.
            let _ = std::fs::set_permissions(Path::new(&file), Permissions::from_mode(0o600));
        }
    }

    /// Whether the log has grown beyond the quota, because a long transaction reads what was there before.
    pub(super) fn log_is_full(&self) -> bool {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        let size = std::fs::metadata(Path::new(&log)).map_or(0, |metadata| metadata.len());
        size > self.pages.saturating_mul(PAGE).saturating_mul(2).saturating_add(LOG)
    }
}

impl SqlDatabase {
    /// Writes the log back and empties it, unless a transaction still reads from it. Returns whether it did.
    pub(super) fn empty_log(&self) -> bool {
        let empty = |keeper: &Connection| {
            keeper
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
                .is_ok_and(|busy| busy == 0)
        };
        lock(&self.keeper).as_ref().is_some_and(empty)
    }
}

impl Drop for SqlDatabase {
    fn drop(&mut self) {
        close(lock(&self.keeper).take());
    }
}

/// The error for a file that cannot be opened. SQLite's texts contain no paths.
pub(super) fn unavailable(error: &rusqlite::Error) -> SqlError {
    match error {
        rusqlite::Error::SqliteFailure(code, text) => {
            SqlError::Unavailable(text.clone().unwrap_or_else(|| code.to_string()))
        }
        other => SqlError::Unavailable(other.to_string()),
    }
}
