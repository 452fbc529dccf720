//! The tables of the database, and opening connections to it.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::sqlite::{Durability, OpenError};

/// Marks a database as Lodge's: "LoSt".
const APPLICATION: i32 = 0x4c6f_5374;

/// The schema, as the steps from one version to the next. `user_version` counts the steps that a file has.
pub(super) const STEPS: &[&str] = &[
    "
    CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1), last INTEGER NOT NULL) STRICT;
    INSERT INTO meta VALUES (1, 0);
    CREATE TABLE namespace (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, keys INTEGER NOT NULL, bytes INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE entry (
        id INTEGER PRIMARY KEY, namespace INTEGER NOT NULL, bucket TEXT NOT NULL, name TEXT NOT NULL,
        version INTEGER NOT NULL, expires INTEGER, value BLOB NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX entry_key ON entry (namespace, bucket, name);
    CREATE INDEX entry_expires ON entry (namespace, expires) WHERE expires IS NOT NULL;
",
    "
    CREATE TABLE consumer (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, patterns TEXT NOT NULL, max_deliver INTEGER NOT NULL,
        dead_letter TEXT, max_messages INTEGER NOT NULL, max_bytes INTEGER NOT NULL, seen INTEGER NOT NULL,
        messages INTEGER NOT NULL, bytes INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE message (
        id INTEGER PRIMARY KEY, consumer INTEGER NOT NULL, number INTEGER NOT NULL, published INTEGER NOT NULL,
        due INTEGER NOT NULL, attempt INTEGER NOT NULL, lease INTEGER, subject TEXT NOT NULL, origin TEXT, reply_to TEXT,
        headers TEXT NOT NULL, size INTEGER NOT NULL, body BLOB NOT NULL
    ) STRICT;
    CREATE INDEX message_due ON message (consumer, due, id);
    CREATE INDEX message_published ON message (consumer, published);
    CREATE INDEX message_lease ON message (consumer, lease) WHERE lease IS NOT NULL;
    CREATE TABLE dead_message (
        id INTEGER PRIMARY KEY, consumer INTEGER NOT NULL, number INTEGER NOT NULL, published INTEGER NOT NULL,
        died INTEGER NOT NULL, attempt INTEGER NOT NULL, subject TEXT NOT NULL, origin TEXT, reply_to TEXT,
        headers TEXT NOT NULL, size INTEGER NOT NULL, body BLOB NOT NULL
    ) STRICT;
    CREATE INDEX dead_message_consumer ON dead_message (consumer, id, size);
",
    "
    ALTER TABLE dead_message ADD COLUMN fault TEXT;
",
];

/// Versions and tokens that every start skips. A power cut can lose the last writes of `Durability::Process`, with the versions
/// that they used; in the seconds until the system writes them to disk there are far fewer writes than this. 2³¹ starts
/// are possible.
const SKIP: i64 = 1 << 32;

/// Settings of every connection: never `mmap`, in which a file that is cut off kills the process, and no trust in the file.
const SETTINGS: &str = "
    PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY;
    PRAGMA busy_timeout = 2000; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON; PRAGMA journal_size_limit = 67108864;
";

/// Opens the connection of the writer, and creates or migrates the database.
pub(super) fn open(path: &Path, durability: Durability, steps: &[&str]) -> Result<Connection, OpenError> {
    let failed = |error| failure(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    // Whatever the durability: the start itself must survive a power cut, because of SKIP.
    let wal = "PRAGMA cache_size = -16384; PRAGMA synchronous = FULL;";
    connection.execute_batch(SETTINGS).and_then(|()| connection.execute_batch(wal)).map_err(failed)?;
    check(&connection, path, steps.len(), true)?;
    connection.execute_batch("PRAGMA journal_mode = WAL;").map_err(failed)?;
    migrate(&mut connection, steps).map_err(failed)?;
    if durability == Durability::Process {
        connection.execute_batch("PRAGMA synchronous = NORMAL;").map_err(failed)?;
    }
    Ok(connection)
}

/// Opens a connection that only reads.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.execute_batch(SETTINGS)?;
    connection.execute_batch("PRAGMA cache_size = -4096; PRAGMA query_only = ON;")?;
    Ok(connection)
}

/// Checks that the database is one of Lodge, and its version.
fn check(connection: &Connection, path: &Path, known: usize, may_be_new: bool) -> Result<(), OpenError> {
    let number = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(|error| failure(path, error));
    let application = number("PRAGMA application_id")?;
    let version = number("PRAGMA user_version")?;
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    let path = path.to_owned();
    if may_be_new && application == 0 && tables == 0 && version == 0 {
        return Ok(());
    }
    if application != i64::from(APPLICATION) {
        return Err(OpenError::Foreign { path });
    }
    if version > known as i64 || version < 0 {
        return Err(OpenError::Newer { path, version, known });
    }
    Ok(())
}

fn migrate(connection: &mut Connection, steps: &[&str]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let done: usize = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for step in steps.iter().skip(done) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", steps.len())?;
    transaction.execute("UPDATE meta SET last = last + ?1", [SKIP])?;
    transaction.commit()
}

/// Checks all of a database that no host is using, such as a backup: structure, indexes, and the counts of the quotas.
///
/// # Errors
/// What is wrong with it. Reads the whole file.
pub fn verify(path: &Path) -> Result<(), OpenError> {
    let failed = |error| failure(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.execute_batch(SETTINGS).map_err(failed)?;
    check(&connection, path, STEPS.len(), false)?;
    sound(&connection, path)
}

/// Runs SQLite's check and compares the counts of the quotas with the entries.
pub(super) fn sound(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let text = |sql| connection.query_row(sql, [], |row| row.get::<_, String>(0)).map_err(|error| failure(path, error));
    let report = text("PRAGMA integrity_check(1)")?;
    if report != "ok" {
        return Err(OpenError::Damaged { path: path.to_owned(), detail: report });
    }
    let wrong = "SELECT count(*) FROM namespace n WHERE (n.keys, n.bytes) IS NOT (
        SELECT count(*), ifnull(sum(octet_length(bucket) + octet_length(name) + octet_length(value)), 0)
        FROM entry WHERE namespace = n.id)";
    match connection.query_row(wrong, [], |row| row.get::<_, i64>(0)).map_err(|error| failure(path, error))? {
        0 => {}
        count => {
            let detail = format!("the counts of {count} namespaces do not fit their entries");
            return Err(OpenError::Damaged { path: path.to_owned(), detail });
        }
    }
    let wrong = "SELECT count(*) FROM consumer c WHERE (c.messages, c.bytes) IS NOT (
        SELECT count(*), ifnull(sum(octet_length(subject) + octet_length(headers) + octet_length(body)), 0)
        FROM message WHERE consumer = c.id)";
    match connection.query_row(wrong, [], |row| row.get::<_, i64>(0)).map_err(|error| failure(path, error))? {
        0 => Ok(()),
        count => {
            let detail = format!("the counts of {count} consumers do not fit their messages");
            Err(OpenError::Damaged { path: path.to_owned(), detail })
        }
    }
}

/// Converts an error of SQLite to a reason why the database at `path` cannot be used.
pub(super) fn failure(path: &Path, error: rusqlite::Error) -> OpenError {
    let path: PathBuf = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::Foreign { path },
        Some(ErrorCode::DatabaseCorrupt) => OpenError::Damaged { path, detail: error.to_string() },
        _ => OpenError::Unusable { path, detail: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_schema_is_migrated_and_a_newer_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        let open = |steps: &[&str]| open(&path, Durability::Process, steps);
        let first = open(STEPS).unwrap();
        first.execute("INSERT INTO namespace VALUES (1, 'one', 0, 0)", []).unwrap();
        drop(first);
        let steps = [STEPS, &["ALTER TABLE namespace ADD COLUMN note TEXT NOT NULL DEFAULT 'none'"]].concat();
        for _ in 0..2 {
            let note = open(&steps).unwrap().query_row("SELECT name || note FROM namespace", [], |row| row.get(0));
            assert_eq!(note, Ok("onenone".to_owned()));
        }
        assert_eq!(
            open(STEPS).unwrap_err(),
            OpenError::Newer { path: path.clone(), version: STEPS.len() as i64 + 1, known: STEPS.len() }
        );
        // A migration that fails changes nothing.
        let broken = [steps.as_slice(), &["CREATE TABLE extra (x)", "CREATE TABLE namespace (x)"]].concat();
        assert!(matches!(open(&broken), Err(OpenError::Unusable { .. })));
        assert_eq!(
            open(&steps)
                .unwrap()
                .query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'extra'", [], |row| row.get(0)),
            Ok(0)
        );
    }
}
