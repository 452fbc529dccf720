//! Tests of databases without guests.

use std::time::{Duration, Instant};

use super::*;
use crate::file_name::file_name;
use crate::key::Namespace;
use crate::sqlite::Durability;

struct Host {
    databases: SqlDatabases,
    directory: tempfile::TempDir,
}

fn host_with(memory: u64) -> Host {
    let directory = tempfile::tempdir().unwrap();
    let options = SqlOptions { directory: directory.path().join("sqlite"), durability: Durability::Process, memory };
    Host { databases: SqlDatabases::new(options), directory }
}

fn host() -> Host {
    host_with(1 << 30)
}

impl Host {
    fn database(&self, service: &str, quota: u64) -> std::sync::Arc<SqlDatabase> {
        let names = ["default".to_owned()];
        self.databases.of(&Namespace::new(service).unwrap(), &names, quota).remove("default").unwrap()
    }

    fn connect(&self) -> SqlConnection {
        SqlConnection::new(self.database("users", 16 << 20))
    }
}

fn within(time: Duration) -> Allowance {
    Allowance { deadline: Instant::now() + time, cpu: Duration::from_secs(60) }
}

async fn run(connection: &SqlConnection, text: &str, parameters: &[SqlValue]) -> Result<SqlResult, SqlError> {
    connection.execute(text.into(), parameters.to_vec(), within(Duration::from_secs(30))).await.0
}

async fn ok(connection: &SqlConnection, text: &str) -> Vec<Vec<SqlValue>> {
    run(connection, text, &[]).await.unwrap_or_else(|error| panic!("{text}: {error}")).rows
}

async fn number(connection: &SqlConnection, text: &str) -> i64 {
    match ok(connection, text).await[0][0] {
        SqlValue::Integer(number) => number,
        ref other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn values_are_exact() {
    let host = host();
    let connection = host.connect();
    ok(&connection, "CREATE TABLE t (id INTEGER PRIMARY KEY, v)").await;
    let values = [
        SqlValue::Integer(i64::MIN),
        SqlValue::Integer(i64::MAX),
        SqlValue::Real(0.1),
        SqlValue::Real(f64::MIN_POSITIVE),
        SqlValue::Real(f64::INFINITY),
        SqlValue::Text(String::new()),
        SqlValue::Text("'; DROP TABLE t; -- \0 grün \u{1f980}".into()),
        SqlValue::Blob(Vec::new()),
        SqlValue::Blob((0..=255).collect()),
        SqlValue::Null,
    ];
    for value in &values {
        run(&connection, "INSERT INTO t (v) VALUES (?)", std::slice::from_ref(value)).await.unwrap();
    }
    assert_eq!(connection.last_insert_rowid(), values.len() as i64);
    let result = run(&connection, "SELECT v, typeof(v) AS kind FROM t ORDER BY id", &[]).await.unwrap();
    assert_eq!(result.columns, ["v", "kind"]);
    let kinds = ["integer", "integer", "real", "real", "real", "text", "text", "blob", "blob", "null"];
    for ((row, value), kind) in result.rows.iter().zip(&values).zip(kinds) {
        assert_eq!(row, &[value.clone(), SqlValue::Text(kind.into())]);
    }
    ok(&connection, "UPDATE t SET v = 1 WHERE id < 4").await;
    ok(&connection, "SELECT 1").await;
    assert_eq!(connection.changes(), 3);
    // What has no exact form is refused.
    let nan = run(&connection, "SELECT ?", &[SqlValue::Real(f64::NAN)]).await.unwrap_err();
    assert!(matches!(&nan, SqlError::Invalid(text) if text.contains("NaN")), "{nan}");
    let text = run(&connection, "SELECT 1, CAST(x'ff' AS TEXT)", &[]).await.unwrap_err();
    assert!(matches!(&text, SqlError::Invalid(text) if text.contains("column 2 is text that is not UTF-8")), "{text}");
}

#[tokio::test]
async fn wrong_calls_are_named() {
    let host = host();
    let connection = host.connect();
    for (text, parameters, expected) in [
        ("SELECT ?, ?", vec![SqlValue::Null], "the statement has 2 parameters, and 1 were given"),
        ("SELECT 1", vec![SqlValue::Null], "the statement has 0 parameters, and 1 were given"),
        ("CREATE TABLE a (x); CREATE TABLE b (x)", vec![], "there is more than one statement"),
        ("CREATE TABLE a (x); INSERT INTO a VALUES (1)", vec![], "there is more than one statement"),
        ("SELEC 1", vec![], "near \"SELEC\": syntax error (at byte 0)"),
        ("SELECT * FROM absent", vec![], "no such table: absent"),
    ] {
        let error = run(&connection, text, &parameters).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    assert_eq!(number(&connection, "SELECT count(*) FROM sqlite_schema").await, 0);
    assert_eq!(run(&connection, " -- nothing\n", &[]).await.unwrap(), SqlResult::default());
    assert_eq!(number(&connection, "SELECT 7; -- and no more\n").await, 7);
}

/// A statement reaches no other file and changes nothing that the host has set up.
#[tokio::test]
async fn the_database_is_all_that_it_reaches() {
    let host = host();
    let connection = host.connect();
    ok(&connection, "CREATE TABLE t (x)").await;
    let outside = host.directory.path().join("outside.db");
    let path = outside.display();
    for text in [
        format!("ATTACH '{path}' AS other"),
        "ATTACH ':memory:' AS other".into(),
        "DETACH main".into(),
        format!("VACUUM INTO '{path}'"),
        "VACUUM".into(),
        "PRAGMA journal_mode = DELETE".into(),
        "PRAGMA synchronous = OFF".into(),
        "PRAGMA main.max_page_count = 1000000".into(),
        "PRAGMA mmap_size = 1000000".into(),
        "PRAGMA cache_size = 1000000".into(),
        "PRAGMA writable_schema = ON".into(),
        "PRAGMA trusted_schema = ON".into(),
        "PRAGMA temp_store_directory = '/tmp'".into(),
        "PRAGMA hard_heap_limit = 1".into(),
        "PRAGMA soft_heap_limit = 1".into(),
        "PRAGMA wal_checkpoint(TRUNCATE)".into(),
        "PRAGMA locking_mode = EXCLUSIVE".into(),
        "PRAGMA page_size = 512".into(),
        "PRAGMA shrink_memory".into(),
        "SELECT load_extension('x.so')".into(),
        "SELECT fts3_tokenizer('simple')".into(),
        "CREATE VIRTUAL TABLE d USING dbstat".into(),
        "CREATE VIRTUAL TABLE d USING fts3(x)".into(),
    ] {
        let error = run(&connection, &text, &[]).await.unwrap_err();
        assert!(matches!(error, SqlError::Denied(_)), "{text}: {error}");
    }
    assert!(!outside.exists());
    let schema = run(&connection, "UPDATE sqlite_schema SET sql = 'x'", &[]).await.unwrap_err();
    assert!(schema.to_string().contains("may not be modified"), "{schema}");
    // What libraries and migrations need works.
    for text in [
        "PRAGMA journal_mode = WAL",
        "PRAGMA foreign_keys = ON",
        "PRAGMA user_version = 7",
        "PRAGMA table_info(t)",
        "PRAGMA integrity_check",
        "SELECT * FROM pragma_table_info('t')",
        "CREATE VIRTUAL TABLE f USING fts5(body)",
        "INSERT INTO f VALUES ('some words')",
        "SELECT * FROM f WHERE f MATCH 'words'",
        "CREATE VIRTUAL TABLE r USING rtree(id, x0, x1)",
        "INSERT INTO r VALUES (1, 0.0, 1.0)",
        "SELECT json_extract('{\"a\":[1,2]}', '$.a[1]')",
        "WITH RECURSIVE c(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c WHERE n < 10) SELECT sum(n) FROM c",
        "CREATE TEMP TABLE scratch (x)",
        "EXPLAIN QUERY PLAN SELECT * FROM t",
        "ANALYZE",
        "REINDEX",
    ] {
        ok(&connection, text).await;
    }
    assert_eq!(number(&connection, "PRAGMA user_version").await, 7);
}

/// What a connection has not committed ends with it, and blocks nobody.
#[tokio::test]
async fn open_transactions_end_with_their_connection() {
    let host = host();
    let database = host.database("users", 16 << 20);
    let (first, second) = (SqlConnection::new(database.clone()), SqlConnection::new(database.clone()));
    ok(&first, "CREATE TABLE t (x)").await;
    ok(&first, "BEGIN IMMEDIATE").await;
    ok(&first, "INSERT INTO t VALUES (1)").await;
    // While it is open, others wait, and get an error at their deadline.
    let late = second.execute("INSERT INTO t VALUES (2)".into(), vec![], within(Duration::from_millis(100))).await.0;
    assert_eq!(late, Err(SqlError::Locked));
    assert_eq!(number(&second, "SELECT count(*) FROM t").await, 0);
    first.reset();
    ok(&second, "INSERT INTO t VALUES (3)").await;
    assert_eq!(number(&first, "SELECT x FROM t").await, 3);
    ok(&first, "BEGIN IMMEDIATE").await;
    drop(first);
    ok(&second, "INSERT INTO t VALUES (4)").await;
    assert_eq!(number(&second, "SELECT sum(x) FROM t").await, 7);
    // One that has read what was changed since cannot write, and is told so at once.
    let third = SqlConnection::new(database);
    ok(&third, "BEGIN").await;
    ok(&third, "SELECT * FROM t").await;
    ok(&second, "INSERT INTO t VALUES (5)").await;
    assert_eq!(run(&third, "INSERT INTO t VALUES (6)", &[]).await, Err(SqlError::Outdated));
}

/// More writers than there are places, of which each holds the lock while it waits for a place.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_of_many_requests_all_end() {
    let host = host();
    let database = host.database("users", 16 << 20);
    ok(&SqlConnection::new(database.clone()), "CREATE TABLE t (x)").await;
    let writers = (0..40).map(|_| {
        let connection = SqlConnection::new(database.clone());
        tokio::spawn(async move {
            ok(&connection, "BEGIN IMMEDIATE").await;
            let before = number(&connection, "SELECT count(*) FROM t").await;
            run(&connection, "INSERT INTO t VALUES (?)", &[SqlValue::Integer(before)]).await.unwrap();
            ok(&connection, "COMMIT").await;
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let connection = SqlConnection::new(database);
    assert_eq!(number(&connection, "SELECT count(DISTINCT x) FROM t").await, 40);
}

const ENDLESS: &str = "WITH RECURSIVE c(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c";

#[tokio::test]
async fn time_is_bounded() {
    let host = host();
    let connection = host.connect();
    let start = Instant::now();
    let (late, _) = connection.execute(ENDLESS.into(), vec![], within(Duration::from_millis(200))).await;
    assert_eq!(late, Err(SqlError::Timeout));
    // The connection is usable as soon as the statement has stopped.
    ok(&connection, "SELECT 1").await;
    let cpu = Allowance { cpu: Duration::from_millis(50), ..within(Duration::from_secs(60)) };
    let (over, used) = connection.execute(ENDLESS.into(), vec![], cpu).await;
    assert_eq!(over, Err(SqlError::CpuTime));
    assert!(used >= Duration::from_millis(50), "{used:?}");
    // One that nobody waits for stops as well.
    let running = connection.execute(ENDLESS.into(), vec![], within(Duration::from_secs(60)));
    assert!(tokio::time::timeout(Duration::from_millis(100), running).await.is_err());
    ok(&connection, "SELECT 1").await;
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[tokio::test]
async fn sizes_are_bounded() {
    let host = host();
    let connection = host.connect();
    let large = SqlValue::Blob(vec![0; MAX_VALUE + 1]);
    for (text, parameters, what) in [
        (format!("SELECT '{}'", "x".repeat(MAX_STATEMENT)), vec![], "the statement"),
        ("SELECT length(?)".into(), vec![large.clone()], "a value or a row"),
        (
            "SELECT ?, ?, ?, ?".into(),
            vec![large.clone(), large.clone(), large.clone(), large],
            "the list of parameters",
        ),
        (format!("SELECT zeroblob({})", MAX_VALUE + 1), vec![], "a value or a row"),
        (ENDLESS.replace("count(*)", "n"), vec![], "the result"),
        (ENDLESS.replace("count(*)", "zeroblob(1000000)"), vec![], "the result"),
    ] {
        let error = run(&connection, &text, &parameters).await.unwrap_err();
        assert!(matches!(error, SqlError::TooLarge { what: is, .. } if is == what), "{what}: {error}");
    }
}

/// A statement that sorts or collects too much is stopped before it harms the host.
#[tokio::test]
async fn memory_is_bounded() {
    let host = host_with(64 << 20);
    let connection = host.connect();
    for text in [
        // Collects rows for sorting.
        ENDLESS.replace("count(*)", "zeroblob(100000), n") + " ORDER BY n DESC",
        // Collects distinct rows.
        "WITH RECURSIVE c(n, b) AS (VALUES (1, zeroblob(1)) UNION SELECT n + 1, zeroblob(10000) FROM c) \
         SELECT count(*) FROM c"
            .into(),
    ] {
        assert_eq!(run(&connection, &text, &[]).await, Err(SqlError::Memory), "{text}");
    }
    ok(&connection, "CREATE TEMP TABLE t (x)").await;
    let full =
        run(&connection, &format!("INSERT INTO t {}", ENDLESS.replace("count(*)", "zeroblob(10000)")), &[]).await;
    assert_eq!(full, Err(SqlError::Full));
    ok(&connection, "SELECT 1").await;
}

#[tokio::test]
async fn quotas_hold() {
    let host = host();
    let connection = SqlConnection::new(host.database("users", 256 << 10));
    ok(&connection, "CREATE TABLE t (x)").await;
    let fill = "INSERT INTO t VALUES (zeroblob(50000))";
    let mut rows = 0;
    let end = loop {
        match run(&connection, fill, &[]).await {
            Ok(_) => rows += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((end, rows), (SqlError::Full, 5));
    ok(&connection, "DELETE FROM t").await;
    ok(&connection, fill).await;
    // A larger quota holds for the connections that begin then.
    let larger = SqlConnection::new(host.database("users", 1 << 20));
    for _ in 0..8 {
        ok(&larger, fill).await;
    }
    // A reader that keeps the log from being written back does not let it grow for ever.
    let reader = SqlConnection::new(host.database("users", 1 << 20));
    ok(&reader, "BEGIN").await;
    ok(&reader, "SELECT count(*) FROM t").await;
    let mut written = 0_u64;
    let end = loop {
        match run(&larger, "UPDATE t SET x = randomblob(50000)", &[]).await {
            Ok(_) => written += 9 * 50_000,
            Err(error) => break error,
        }
        assert!(written < 100 << 20, "the log grows without a bound");
    };
    assert_eq!(end, SqlError::Full);
    reader.reset();
    // Its connection is closed on another thread.
    while run(&larger, "UPDATE t SET x = 1", &[]).await == Err(SqlError::Full) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(number(&larger, "SELECT sum(x) FROM t").await, 9);
}

#[tokio::test]
async fn databases_are_apart() {
    assert_eq!(file_name("users-1_a"), "users-1_a");
    assert_eq!(file_name("Users"), "%55sers");
    assert_eq!(file_name("../etc/passwd%"), "%2e%2e%2fetc%2fpasswd%25");
    let host = host();
    let (users, orders) = (host.database("users", 1 << 20), host.database("orders", 1 << 20));
    let (users, orders) = (SqlConnection::new(users), SqlConnection::new(orders));
    ok(&users, "CREATE TABLE t (x)").await;
    assert!(run(&orders, "SELECT * FROM t", &[]).await.unwrap_err().to_string().contains("no such table"));
    for service in ["users", "orders"] {
        for suffix in ["", "-wal", "-shm"] {
            let file = host.directory.path().join(format!("sqlite/{service}/default.db{suffix}"));
            let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
        }
    }
}
