//! Promise: the database survives restarts, is backed up while in use, and says what is wrong with a file.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lodge_conformance::soon;
use lodge_state::{
    Backend, Error, Expiry, Key, ManualClock, Namespace, OpenError, Quota, Set, Sqlite, Store, SystemClock, Timestamp,
    Ttl, Usage, Value, verify,
};
use rusqlite::Connection;
use tokio::time::Instant;

use crate::sqlite::options;

fn open(directory: &Path) -> Result<Sqlite, OpenError> {
    Sqlite::open(options(directory, Arc::new(SystemClock::new())))
}

async fn store(sqlite: &Sqlite, name: &str) -> Arc<dyn Store> {
    sqlite.open(&Namespace::new(name).unwrap(), Quota::default(), soon()).await.unwrap()
}

fn key(name: &str) -> Key<'_> {
    Key::new("b", name).unwrap()
}

fn value(size: usize) -> Value {
    Value::new(vec![b'1'; size]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_everything() {
    let directory = tempfile::tempdir().unwrap();
    let sqlite = open(directory.path()).unwrap();
    let one = store(&sqlite, "one").await;
    let version = one.set(key("a"), value(9), Set::default(), soon()).await.unwrap();
    store(&sqlite, "other").await.set(key("a"), value(5), Set::default(), soon()).await.unwrap();
    sqlite.close().await;
    assert!(matches!(one.get(key("b"), soon()).await, Err(Error::Unavailable { .. })));
    assert!(matches!(one.delete(key("a"), soon()).await, Err(Error::Unavailable { .. })));
    assert!(!directory.path().join("state.db-wal").exists(), "the log is merged into the file");
    let mode = fs::metadata(directory.path().join("state.db")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others cannot read it");

    let sqlite = open(directory.path()).unwrap();
    let one = store(&sqlite, "one").await;
    let entry = one.get(key("a"), soon()).await.unwrap().unwrap();
    assert_eq!((entry.value, entry.version), (value(9), version));
    assert_eq!(one.usage(soon()).await, Ok(Usage { keys: 1, bytes: 11 }));
    let next = one.set(key("a"), value(9), Set::default(), soon()).await.unwrap();
    assert!(
        next.number() > version.number() + (1 << 31),
        "numbers of a start that was lost in a power cut are skipped"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_belongs_to_one_process() {
    let directory = tempfile::tempdir().unwrap();
    let sqlite = open(directory.path()).unwrap();
    let error = open(directory.path()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("state.db is in use by another Lodge"), "{error}");
    sqlite.close().await;
    open(directory.path()).unwrap();
}

/// Two hosts on one file would lose each other's writes.
#[tokio::test(flavor = "multi_thread")]
async fn other_names_of_the_file_lead_to_the_same_database() {
    let [directory, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (path, link) = (directory.path().join("state.db"), other.path().join("state.db"));
    // It creates the file that a link leads to.
    symlink(&path, &link).unwrap();
    let sqlite = open(other.path()).unwrap();
    assert!(path.is_file() && fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(matches!(open(directory.path()).unwrap_err(), OpenError::InUse { .. }));
    let folder = other.path().join("folder");
    symlink(directory.path(), &folder).unwrap();
    assert!(matches!(open(&folder).unwrap_err(), OpenError::InUse { .. }));
    sqlite.close().await;
    let sqlite = open(directory.path()).unwrap();
    let error = open(other.path()).unwrap_err();
    assert_eq!(error, OpenError::InUse { path: link });
    sqlite.close().await;
}

/// A write to a file that nobody can find any more would be lost with the process.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_confirmed_while_the_file_is_not_at_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let sqlite = open(directory.path()).unwrap();
    let one = store(&sqlite, "one").await;
    one.set(key("a"), value(1), Set::default(), soon()).await.unwrap();
    for name in ["state.db", "state.db-wal", "state.db-lock"] {
        let (path, away) = (directory.path().join(name), directory.path().join("away"));
        fs::rename(&path, &away).unwrap();
        for _ in 0..2 {
            let refused = one.set(key("a"), value(2), Set::default(), soon()).await;
            let told =
                refused.as_ref().is_err_and(|error| error.to_string().contains("removed or replaced while in use"));
            assert!(told, "{name}: {refused:?}");
            // Another file in its place is not the same.
            fs::copy(&away, &path).unwrap();
        }
        assert_eq!(one.get(key("a"), soon()).await.unwrap().unwrap().value, value(1), "{name}");
        fs::rename(&away, &path).unwrap();
        one.set(key("a"), value(1), Set::default(), soon()).await.unwrap();
    }
    sqlite.close().await;
    assert_eq!(verify(&directory.path().join("state.db")), Ok(()));
}

/// Opening a FIFO waits for a reader, for ever.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_refused() {
    for name in ["state.db", "state.db-lock"] {
        let directory = tempfile::tempdir().unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, directory.path().join(name), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let path = directory.path().to_owned();
        let opened = tokio::task::spawn_blocking(move || open(&path).map(drop));
        let opened = tokio::time::timeout(Duration::from_secs(10), opened).await.expect("it does not wait").unwrap();
        assert!(matches!(opened, Err(OpenError::Unusable { .. })), "{opened:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_files_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let error = || open(directory.path()).unwrap_err();

    fs::write(&path, "not a database, but long enough to be looked at ".repeat(100)).unwrap();
    assert!(matches!(error(), OpenError::Foreign { .. }));
    fs::remove_file(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(matches!(error(), OpenError::Foreign { .. }));
    assert_eq!(verify(&path), Err(OpenError::Foreign { path: path.clone() }));
    fs::remove_file(&path).unwrap();

    let sqlite = open(directory.path()).unwrap();
    let one = store(&sqlite, "one").await;
    for number in 0..500 {
        one.set(key(&format!("key-{number}")), value(200), Set::default(), soon()).await.unwrap();
    }
    sqlite.close().await;
    assert_eq!(verify(&path), Ok(()));
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 7").unwrap();
    assert_eq!(error(), OpenError::Newer { path: path.clone(), version: 7, known: 3 });
    Connection::open(&path)
        .unwrap()
        .execute_batch("PRAGMA user_version = 3; UPDATE namespace SET bytes = bytes + 1")
        .unwrap();
    assert!(verify(&path).unwrap_err().to_string().contains("do not fit their entries"));

    // A few pages are overwritten, as by a faulty disk.
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() / 2;
    bytes[at..at + 8192].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    let damaged = verify(&path).unwrap_err();
    assert!(matches!(damaged, OpenError::Damaged { .. }), "{damaged}");
    // It opens, and operations on the damaged pages say so.
    let sqlite = open(directory.path()).unwrap();
    let one = store(&sqlite, "one").await;
    let mut failures = 0;
    for number in 0..500 {
        match one.get(key(&format!("key-{number}")), soon()).await {
            Err(error) => failures += usize::from(error.to_string().contains("damaged: restore a backup")),
            Ok(entry) => assert_eq!(entry.unwrap().value, value(200)),
        }
    }
    assert!(failures > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_consistent_and_made_while_serving() {
    let directory = tempfile::tempdir().unwrap();
    let sqlite = Arc::new(open(directory.path()).unwrap());
    let one = store(&sqlite, "one").await;
    for number in 0..2000 {
        one.set(key(&format!("fill-{number}")), value(8000), Set::default(), soon()).await.unwrap();
    }
    // Two keys are always written together, with equal values.
    let writer = tokio::spawn({
        let one = one.clone();
        async move {
            for number in 0.. {
                let pair = vec![(key("x"), Value::number(number)), (key("y"), Value::number(number))];
                if one.set_many(pair, soon()).await.is_err() {
                    return number;
                }
            }
            0
        }
    });
    let mut last = -1;
    for number in 0..3 {
        let to = directory.path().join(format!("backup-{number}"));
        while one.get(key("y"), soon()).await.unwrap().is_none_or(|entry| entry.value.to_number().unwrap() <= last) {
            tokio::task::yield_now().await;
        }
        // It does not begin anew with every write.
        tokio::time::timeout(Duration::from_secs(30), sqlite.backup(&to)).await.unwrap().unwrap();
        assert!(matches!(sqlite.backup(&to).await, Err(OpenError::Unusable { .. })), "does not overwrite");
        verify(&to).unwrap();
        let copy = Connection::open(&to).unwrap();
        let read = |name: &str| {
            let sql = "SELECT CAST(value AS TEXT) FROM entry WHERE name = ?1";
            copy.query_row(sql, [name], |row| row.get::<_, String>(0)).unwrap().parse::<i64>().unwrap()
        };
        assert_eq!(read("x"), read("y"));
        assert!(read("x") > last, "the writer goes on");
        last = read("x");
    }
    sqlite.close().await;
    assert!(writer.await.unwrap() > last);
    let leftovers = fs::read_dir(directory.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("partial"));
    assert_eq!(leftovers.count(), 0);

    // A backup is a database.
    let restored = tempfile::tempdir().unwrap();
    fs::copy(directory.path().join("backup-2"), restored.path().join("state.db")).unwrap();
    let sqlite = open(restored.path()).unwrap();
    assert_eq!(store(&sqlite, "one").await.get(key("x"), soon()).await.unwrap().unwrap().value, Value::number(last));
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_entries_are_removed_from_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(Timestamp::new(1_000_000)));
    let sqlite = Sqlite::open(options(directory.path(), clock.clone())).unwrap();
    let (one, other) = (store(&sqlite, "one").await, store(&sqlite, "other").await);
    let expiry = Expiry::After(Ttl::new(Duration::from_secs(10)).unwrap());
    for number in 0..600 {
        let store = if number % 2 == 0 { &one } else { &other };
        store.set(key(&number.to_string()), value(10), Set { expiry, if_absent: false }, soon()).await.unwrap();
    }
    one.set(key("stays"), value(10), Set::default(), soon()).await.unwrap();
    clock.advance(Duration::from_secs(10));
    let file = Connection::open(directory.path().join("state.db")).unwrap();
    let rows = || file.query_row("SELECT count(*) FROM entry", [], |row| row.get::<_, i64>(0)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while rows() > 1 {
        assert!(Instant::now() < deadline, "{} rows are left", rows());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(one.usage(soon()).await, Ok(Usage { keys: 1, bytes: 16 }));
    assert_eq!(other.usage(soon()).await, Ok(Usage::default()));
}

/// A clock that was set back between two starts, or that shows 1970 until it is set, lets no entry live on or end early.
#[tokio::test(flavor = "multi_thread")]
async fn time_does_not_go_back() {
    let directory = tempfile::tempdir().unwrap();
    let at = |time| Arc::new(ManualClock::new(Timestamp::new(time)));
    let expiry = Expiry::After(Ttl::new(Duration::from_secs(10)).unwrap());
    let set = Set { expiry, if_absent: false };
    let sqlite = Sqlite::open(options(directory.path(), at(1_000_000_000))).unwrap();
    store(&sqlite, "one").await.set(key("before"), value(1), set, soon()).await.unwrap();
    sqlite.close().await;

    let clock = at(7);
    let sqlite = Sqlite::open(options(directory.path(), clock.clone())).unwrap();
    let one = store(&sqlite, "one").await;
    one.set(key("after"), value(1), set, soon()).await.unwrap();
    clock.advance(Duration::from_secs(9));
    let both = [key("before"), key("after")];
    for key in both {
        assert!(one.exists(key, soon()).await.unwrap());
    }
    clock.advance(Duration::from_secs(1));
    for key in both {
        assert!(!one.exists(key, soon()).await.unwrap());
    }
    one.set(key("later"), value(1), set, soon()).await.unwrap();
    sqlite.close().await;

    // Set right again, it is that of the system.
    let sqlite = Sqlite::open(options(directory.path(), at(1_000_000_000 + 19_999))).unwrap();
    assert!(store(&sqlite, "one").await.exists(key("later"), soon()).await.unwrap());
    sqlite.close().await;
    let sqlite = Sqlite::open(options(directory.path(), at(1_000_000_000 + 20_000))).unwrap();
    assert!(!store(&sqlite, "one").await.exists(key("later"), soon()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_database_fails_in_time_with_a_bounded_queue() {
    let directory = tempfile::tempdir().unwrap();
    let sqlite = open(directory.path()).unwrap();
    let (one, other) = (store(&sqlite, "one").await, store(&sqlite, "other").await);
    one.set(key("a"), value(1), Set::default(), soon()).await.unwrap();
    let file = Connection::open(directory.path().join("state.db")).unwrap();
    file.execute_batch("BEGIN IMMEDIATE").unwrap();

    let in_time = || Instant::now() + Duration::from_millis(300);
    let mut tasks = Vec::new();
    for number in 0..10 {
        let one = one.clone();
        let deadline = in_time();
        tasks.push(tokio::spawn(async move {
            let name = format!("large-{number}");
            one.set(key(&name), value(1 << 20), Set::default(), deadline).await.unwrap_err()
        }));
    }
    let (mut late, mut full) = (0, 0);
    for task in tasks {
        match task.await.unwrap() {
            Error::Timeout => late += 1,
            Error::Unavailable { reason } if reason.contains("the queue of writes is full") => full += 1,
            error => panic!("{error}"),
        }
    }
    // The queue has 4 MiB for a service, and 16 MiB for all.
    assert_eq!((late, full), (3, 7));
    // Another service waits for the writer, not for the queue.
    assert_eq!(other.set(key("a"), value(1), Set::default(), in_time()).await, Err(Error::Timeout));
    assert!(one.exists(key("a"), soon()).await.unwrap(), "reads go on");
    // The writer gets the lock while it still waits for it: what was given up in the queue is not written.
    file.execute_batch("COMMIT").unwrap();
    one.set(key("c"), value(1), Set::default(), soon()).await.unwrap();
    for number in 0..10 {
        assert!(!one.exists(key(&format!("large-{number}")), soon()).await.unwrap());
    }
    assert!(!other.exists(key("a"), soon()).await.unwrap());

    // A write whose deadline is later than that of the writer fails with the reason.
    file.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = one.set(key("b"), value(1), Set::default(), soon()).await;
    assert!(refused.as_ref().is_err_and(|error| error.to_string().contains("close it")), "{refused:?}");
    file.execute_batch("COMMIT").unwrap();
    one.set(key("b"), value(1), Set::default(), soon()).await.unwrap();
}
