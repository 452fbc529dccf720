//! State in one SQLite file, for all services of a host. Nothing to install, and one file to back up.
//!
//! * One thread writes and some threads read; tasks never wait for the disk themselves. Entries that were read or written
//!   recently are read from memory.
//! * The file belongs to one process at a time. Other programs may read it; `sqlite3` shows it.
//! * Namespaces are rows, and every statement names one.

mod backup;
mod messages;
mod path;
mod possession;
mod queue;
mod reader;
mod recent;
mod restore;
mod schema;
mod store;
mod transaction;
mod writer;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use rusqlite::{OptionalExtension, params};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::{Clock, ResumedClock};
use crate::error::Error;
use crate::key::Namespace;
use crate::limits::{Quota, Usage};
use crate::locks::{Leases, Locks, Numbers};
use crate::messages::MessageQueue;
use crate::mutex::lock;
use crate::sqlite::messages::{Arrivals, SqliteQueue};
use crate::sqlite::path::Id;
use crate::sqlite::possession::Possession;
use crate::sqlite::queue::{JobQueue, QueueShare};
use crate::sqlite::reader::ReadJob;
use crate::sqlite::recent::RecentEntries;
use crate::sqlite::store::SqliteStore;
use crate::sqlite::writer::{WriteJob, WriteThread};
use crate::store::{Backend, Pending, Store};

pub use possession::is_in_use;
pub use restore::restore;
pub use schema::verify;

/// Bytes of writes that may wait, of all services and of one.
const WRITE_QUEUE: (usize, usize) = (16 << 20, 4 << 20);
/// Reads that may wait, of all services and of one.
const READ_QUEUE: (usize, usize) = (4096, 1024);
/// Threads that read, at most.
const MAX_READERS: usize = 16;

/// The failures that a confirmed write survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The end of the process, however it ends. A power cut or a crash of the system can undo the last writes, but does not
    /// damage the database.
    Process,
    /// A power cut as well. Every group of writes waits for the disk.
    Power,
}

/// How a database is opened.
#[derive(Clone)]
pub struct Options {
    /// The file. SQLite makes `-wal` and `-shm` beside it, and this crate `-lock`.
    pub path: PathBuf,
    /// The failures that confirmed writes survive.
    pub durability: Durability,
    /// Threads that read, from 1 to 16.
    pub readers: usize,
    /// Bytes of memory for entries that were read or written recently; 0 for none.
    pub recent: u64,
    /// The clock that entries expire by.
    pub clock: Arc<dyn Clock>,
}

/// Why a database cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{path} is in use by another Lodge: stop it, or give this one a directory of its own for its data")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It exists, and was not to be replaced.
    #[error("{path} exists, and nothing was restored")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// It is something else.
    #[error("{path} is not a database of Lodge: move it away, or set another path")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It was written by a later version of Lodge.
    #[error(
        "{path} has schema {version}, and this version of Lodge knows up to {known}: use the later version of Lodge, or \
             restore a backup from before"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        version: i64,
        /// The latest schema that this version knows.
        known: usize,
    },
    /// Its content is not consistent.
    #[error("{path} is damaged ({detail}): restore a backup, or move the file away to begin without data")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The error message of SQLite.
        detail: String,
    },
    /// It cannot be read or written.
    #[error("{path} cannot be used: {detail}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The error message of SQLite or of the system.
        detail: String,
    },
}

impl OpenError {
    /// The same problem of another file, of which the file of this error is a copy.
    fn at(self, original: &Path) -> OpenError {
        let path = original.to_owned();
        match self {
            OpenError::InUse { .. } => OpenError::InUse { path },
            OpenError::Exists { .. } => OpenError::Exists { path },
            OpenError::Foreign { .. } => OpenError::Foreign { path },
            OpenError::Newer { version, known, .. } => OpenError::Newer { path, version, known },
            OpenError::Damaged { detail, .. } => OpenError::Damaged { path, detail },
            OpenError::Unusable { detail, .. } => OpenError::Unusable { path, detail },
        }
    }
}

/// State in a SQLite file. Dropping it closes the file soon after; [`close`](Sqlite::close) waits for that.
pub struct Sqlite {
    shared: Arc<Shared>,
    /// Ends when the threads have ended.
    open: watch::Receiver<()>,
}

/// The state that tasks and threads share.
struct Shared {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    recent: RecentEntries,
    /// The numbers of versions and tokens.
    numbers: Arc<Numbers>,
    writes: JobQueue<WriteJob>,
    reads: JobQueue<ReadJob>,
    write_budget: QueueShare,
    read_budget: QueueShare,
    spaces: Mutex<HashMap<Namespace, Arc<Space>>>,
    /// What receivers of messages wait for.
    arrivals: Arrivals,
}

/// A namespace.
struct Space {
    id: Id,
    quota: Mutex<Quota>,
    /// As of the last commit. Only the writer changes it.
    usage: Mutex<Usage>,
    write_budget: QueueShare,
    read_budget: QueueShare,
    leases: Arc<Leases>,
}

impl Sqlite {
    /// Opens the database, and creates it if it does not exist. Blocks until it is ready.
    ///
    /// # Errors
    /// If the file cannot be used as a database of Lodge.
    pub fn open(options: Options) -> Result<Sqlite, OpenError> {
        let Options { path, durability, readers, recent, clock } = options;
        let (mut possession, path) = Possession::take(&path)?;
        let unusable = |error: std::io::Error| OpenError::Unusable { path: path.clone(), detail: error.to_string() };
        let connection = schema::open(&path, durability, schema::STEPS)?;
        possession.opened(&path).map_err(unusable)?;
        let clock = ResumedClock::resume(clock, possession.last_time());
        let failed = |error| schema::failure(&path, error);
        let last = connection.query_row("SELECT last FROM meta", [], |row| row.get(0)).map_err(failed)?;
        let shared = Arc::new(Shared {
            path: path.clone(),
            clock,
            recent: RecentEntries::new(recent),
            numbers: Arc::new(Numbers::after(last)),
            writes: JobQueue::new(),
            reads: JobQueue::new(),
            write_budget: QueueShare::new("writes", WRITE_QUEUE.0, WRITE_QUEUE.1),
            read_budget: QueueShare::new("reads", READ_QUEUE.0, READ_QUEUE.1),
            spaces: Mutex::default(),
            arrivals: Arrivals::default(),
        });
        shared.load(&connection).map_err(failed)?;
        messages::recover(&connection, shared.clock.now()).map_err(failed)?;
        let connections: Result<Vec<_>, _> = (0..readers.clamp(1, MAX_READERS)).map(|_| reader::open(&path)).collect();
        // Readers that run already end when another thread cannot be started.
        let stop = |error| {
            shared.reads.close();
            unusable(error)
        };
        let mut threads = Vec::new();
        for connection in connections? {
            let shared = shared.clone();
            let read = move || reader::run(&shared, &connection);
            threads.push(thread::Builder::new().name("state-read".into()).spawn(read).map_err(stop)?);
        }
        let (send, open) = watch::channel(());
        let writer = WriteThread { shared: shared.clone(), connection, readers: threads, possession, open: send };
        thread::Builder::new().name("state-write".into()).spawn(|| writer.run()).map_err(stop)?;
        Ok(Sqlite { shared, open })
    }

    /// Returns the file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Returns all namespaces that have ever been opened, in the order of their names, and what each stores.
    pub fn namespaces(&self) -> Vec<(Namespace, Usage)> {
        let spaces = lock(&self.shared.spaces);
        let mut all: Vec<_> = spaces.iter().map(|(name, space)| (name.clone(), *lock(&space.usage))).collect();
        all.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
        all
    }

    /// Does the writes that wait and closes the file. Later operations fail.
    pub async fn close(&self) {
        self.shared.writes.close();
        // Ends with an error, since the sender is dropped.
        let _ = self.open.clone().changed().await;
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.shared.writes.close();
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl Shared {
    /// Reads the namespaces that exist, whose quota is that of the services that open them.
    fn load(&self, connection: &rusqlite::Connection) -> rusqlite::Result<()> {
        let mut statement = connection.prepare("SELECT id, name, keys, bytes FROM namespace")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if let Ok(namespace) = Namespace::new(row.get_ref(1)?.as_str()?) {
                self.space(&namespace, row.get(0)?, Usage { keys: row.get(2)?, bytes: row.get(3)? });
            }
        }
        Ok(())
    }

    /// The namespace `id`, with this usage if it was not known.
    fn space(&self, namespace: &Namespace, id: Id, usage: Usage) -> Arc<Space> {
        let new = || {
            Arc::new(Space {
                id,
                quota: Mutex::default(),
                usage: Mutex::new(usage),
                write_budget: self.write_budget.share(WRITE_QUEUE.1),
                read_budget: self.read_budget.share(READ_QUEUE.1),
                leases: Arc::new(Leases::new(self.clock.clone(), self.numbers.clone())),
            })
        };
        lock(&self.spaces).entry(namespace.clone()).or_insert_with(new).clone()
    }
}

impl Sqlite {
    /// The namespace `namespace`, which is created if it does not exist.
    async fn space(&self, namespace: &Namespace, deadline: Instant) -> Result<Arc<Space>, Error> {
        if let Some(space) = lock(&self.shared.spaces).get(namespace) {
            return Ok(space.clone());
        }
        let name = namespace.clone();
        let budget = &self.shared.write_budget;
        let (id, usage) = store::submit(&self.shared, budget, 0, deadline, move |transaction| {
            let name = name.as_str();
            transaction.execute("INSERT OR IGNORE INTO namespace (name, keys, bytes) VALUES (?1, 0, 0)", [name])?;
            let select = "SELECT id, keys, bytes FROM namespace WHERE name = ?1";
            let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, Usage { keys: row.get(1)?, bytes: row.get(2)? }));
            let found = transaction.connection.query_row(select, params![name], row).optional();
            transaction.changed(found)?.ok_or_else(|| Error::unavailable("the namespace was not created"))
        })
        .await?;
        Ok(self.shared.space(namespace, id, usage))
    }
}

impl Backend for Sqlite {
    fn open<'a>(&'a self, namespace: &'a Namespace, quota: Quota, deadline: Instant) -> Pending<'a, Arc<dyn Store>> {
        Box::pin(async move {
            let space = self.space(namespace, deadline).await?;
            *lock(&space.quota) = quota;
            Ok(Arc::new(SqliteStore::new(self.shared.clone(), space)) as Arc<dyn Store>)
        })
    }

    fn locks<'a>(&'a self, namespace: &'a Namespace, deadline: Instant) -> Pending<'a, Arc<dyn Locks>> {
        Box::pin(async move { Ok(self.space(namespace, deadline).await?.leases.clone() as Arc<dyn Locks>) })
    }

    fn close(&self) -> Pending<'_, ()> {
        Box::pin(async {
            Sqlite::close(self).await;
            Ok(())
        })
    }

    fn messages(&self) -> Result<Arc<dyn MessageQueue>, Error> {
        Ok(Arc::new(SqliteQueue::new(self.shared.clone())))
    }
}
