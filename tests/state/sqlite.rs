//! Promise: a service with `[sqlite]` has SQL databases of its own. Nothing that its SQL does reaches another service, another
//! request's transaction or the host, and what is committed outlives the process.

use crate::harness::{Process, TestHost, get, host, until, until_metric, wasm};

/// The path of a request that runs `statements`.
pub(super) fn path(at: &str, statements: &str) -> String {
    let encode = |byte: u8| {
        if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02x}") }
    };
    format!("/{at}?{}", statements.bytes().map(encode).collect::<String>())
}

pub(super) async fn run(host: &TestHost, at: &str, statements: &str) -> (u16, String) {
    let response = host.get(&path(at, statements)).await;
    (response.status, response.text())
}

/// The rows of statements that must succeed.
pub(super) async fn ok(host: &TestHost, at: &str, statements: &str) -> String {
    let (status, text) = run(host, at, statements).await;
    assert_eq!(status, 200, "{statements}: {text}");
    text
}

/// The error of statements that must fail.
pub(super) async fn error(host: &TestHost, at: &str, statements: &str) -> String {
    let (status, text) = run(host, at, statements).await;
    assert_eq!(status, 500, "{statements}: {text}");
    text
}

const ENDLESS: &str = "WITH RECURSIVE c(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c";

#[tokio::test(flavor = "multi_thread")]
async fn interfaces_have_the_same_rows_of_every_type() {
    let setup = host(&["sqlite", "sqlite3"]).manifest("sqlite", "sqlite = true").manifest("sqlite3", "sqlite = true");
    let host = setup.start().await;
    ok(&host, "sqlite/v3/default", "CREATE TABLE t (id INTEGER PRIMARY KEY, v)").await;
    for interface in ["v2", "v3"] {
        let at = format!("sqlite/{interface}/default");
        for value in ["i:-9223372036854775808", "r:0.1", "t:'; DROP TABLE t; --", "t:grün", "b:00ff", "b:", "n"] {
            ok(&host, &at, &format!("INSERT INTO t (v) VALUES (?)^{value}")).await;
            for reader in ["v2", "v3"] {
                let last = "SELECT v FROM t ORDER BY id DESC LIMIT 1";
                assert_eq!(ok(&host, &format!("sqlite/{reader}/default"), last).await, value);
            }
        }
    }
    assert_eq!(
        ok(&host, "sqlite/v2/default", "SELECT id, v FROM t WHERE id < 3").await,
        "i:1,i:-9223372036854775808;i:2,r:0.1"
    );
    let updated = "UPDATE t SET v = 'x' WHERE id > 10|!changes";
    assert_eq!(ok(&host, "sqlite/v3/default", updated).await, "4");
    assert_eq!(ok(&host, "sqlite/v3/default", "INSERT INTO t (v) VALUES (1)|!rowid").await, "15");
    assert_eq!(ok(&host, "sqlite/v3/default", "DELETE FROM t WHERE id = 15|SELECT count(*) FROM t").await, "i:14");
    assert_eq!(
        error(&host, "sqlite/v3/default", "INSERT INTO t (id) VALUES (1)").await,
        r#"Error::Io("UNIQUE constraint failed: t.id")"#
    );
    for interface in ["sync", "async"] {
        let at = format!("sqlite3/{interface}/default");
        ok(&host, &at, "DROP TABLE IF EXISTS t|CREATE TABLE t (a, b)|INSERT INTO t VALUES (1, 'x'), (2, NULL)").await;
        let rows = ok(&host, &at, "INSERT INTO t VALUES (3, x'00')|SELECT * FROM t").await;
        assert_eq!(rows, "a,b 3 [Value::Integer(1), Value::Text(\"x\")] 3 1");
        let many = "WITH RECURSIVE c(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c WHERE n < 20000) SELECT n FROM c";
        assert_eq!(ok(&host, &at, many).await, "n 20000 [Value::Integer(1)] 0 0");
        assert!(error(&host, &at, "SELECT absent").await.contains("no such column: absent"));
    }
}

/// A request that ends with an open transaction, however it ends, leaves nothing locked and nothing half done.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_ends_with_its_request() {
    for isolation in ["request", "service"] {
        let manifest = format!("isolation = '{isolation}'\nlimits.wall = '2s'\n[sqlite]\ntimeout = '1s'");
        let host = host(&["sqlite"]).manifest("sqlite", &manifest).start().await;
        let at = "sqlite/kept/default";
        ok(&host, at, "CREATE TABLE t (x)").await;
        for end in ["", "|!trap", &format!("|{ENDLESS}"), "|SELECT absent"] {
            let (status, _) = run(&host, at, &format!("BEGIN IMMEDIATE|INSERT INTO t VALUES (1){end}")).await;
            assert!([200, 500, 502].contains(&status), "{status}");
            // A lock that was left would hold this up until its timeout.
            assert_eq!(ok(&host, at, "INSERT INTO t VALUES (2)|SELECT sum(x) FROM t").await, "i:2", "{isolation}{end}");
            ok(&host, at, "DELETE FROM t").await;
        }
        // Another connection of the same request sees what is committed.
        assert_eq!(ok(&host, at, "BEGIN IMMEDIATE|INSERT INTO t VALUES (1)|!other").await, "i:0");
        assert_eq!(ok(&host, at, "BEGIN|INSERT INTO t VALUES (1)|COMMIT|!other").await, "i:1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_end_at_the_deadline() {
    let setup = host(&["sqlite", "hello"]).named("sqlite", "short").named("sqlite", "cpu");
    let setup = setup.manifest("sqlite", "limits.wall = '3s'\nlimits.cpu = '2s'\nsqlite = true");
    let setup = setup.manifest("short", "[sqlite]\ntimeout = '100ms'");
    let host = setup.manifest("cpu", "sqlite = true\nlimits.cpu = '100ms'").start().await;
    // Each has been stopped by one limit, long before the others.
    for (service, words) in [
        ("sqlite", "stopped"),
        ("short", "the statement was stopped at its deadline"),
        ("cpu", "the CPU time of the request"),
    ] {
        let (status, text) = run(&host, &format!("{service}/v3/default"), ENDLESS).await;
        // Where the limit is one of the request, the guest may have nothing left of it to say so.
        let of_request = service != "short" && status == 504;
        assert!(status == 500 && text.contains(words) || of_request, "{service}: {status} {text}");
        // What it ran on is free again.
        ok(&host, &format!("{service}/v3/default"), "SELECT 1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_reaches_no_other_file() {
    let setup = host(&["sqlite"]).named("sqlite", "other").manifest("sqlite", "sqlite = true");
    let host = setup.manifest("other", "[sqlite]\ndatabases = ['default', 'second']").start().await;
    ok(&host, "sqlite/v3/default", "CREATE TABLE secret (x)|INSERT INTO secret VALUES (7)").await;
    let file = host.directory().join(".lodge/sqlite/sqlite/default.db");
    assert!(file.is_file());
    let file = file.display();
    for statement in
        [format!("ATTACH '{file}' AS a"), format!("VACUUM INTO '{file}2'"), "PRAGMA journal_mode = OFF".into()]
    {
        let text = error(&host, "other/v2/default", &statement).await;
        assert!(text.contains("not authorized"), "{text}");
    }
    for database in ["default", "second"] {
        let at = format!("other/v3/{database}");
        assert!(error(&host, &at, "SELECT * FROM secret").await.contains("no such table"));
        ok(&host, &at, &format!("CREATE TABLE t (x)|INSERT INTO t VALUES ('{database}')")).await;
    }
    assert_eq!(ok(&host, "other/v3/second", "SELECT x FROM t").await, "t:second");
    for database in ["third", "Default", ":memory:", ""] {
        assert_eq!(
            error(&host, &format!("other/v3/{database}"), "SELECT 1").await,
            "Error::AccessDenied",
            "{database}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn denials_name_the_manifest() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["sqlite", "some"] {
        std::fs::copy(wasm("sqlite"), directory.path().join(format!("{name}.wasm"))).unwrap();
    }
    std::fs::write(directory.path().join("some.toml"), "[sqlite]\ndatabases = 'a'").unwrap();
    let process = Process::serve(directory.path(), &[]).await;
    for at in ["sqlite/v2/default", "sqlite/v3/default", "some/v3/default"] {
        let response = get(process.address, &path(at, "SELECT 1")).await;
        assert_eq!((response.status, response.text().as_str()), (500, "Error::AccessDenied"));
    }
    assert_eq!(get(process.address, &path("some/v3/a", "SELECT 1")).await.text(), "i:1");
    until("the denials are in the log", || {
        let log = process.log();
        log.contains("add `sqlite = true` to sqlite.toml") && log.contains("in [sqlite] of some.toml")
    })
    .await;
    assert_eq!(process.log().matches("denied a SQL database, which").count(), 1);
    assert!(!directory.path().join(".lodge/sqlite/sqlite").exists());
    until_metric(process.admin, r#"lodge_sql_statements_total{service="some",outcome="ok"}"#, 1).await;
    until_metric(process.admin, r#"lodge_sql_statement_seconds_count{service="some"}"#, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_and_connections_are_bounded() {
    let host = host(&["sqlite"]).manifest("sqlite", "[sqlite]\nbytes = '64KiB'").start().await;
    let at = "sqlite/v3/default";
    ok(&host, at, "CREATE TABLE t (x)").await;
    let fill = "INSERT INTO t VALUES (zeroblob(30000))";
    assert_eq!(error(&host, at, &[fill; 3].join("|")).await, "Error::DatabaseFull");
    assert_eq!(ok(&host, at, &format!("DELETE FROM t|{fill}|SELECT count(*) FROM t")).await, "i:1");
    host.edit("sqlite", "sqlite = true").await;
    ok(&host, at, &[fill; 3].join("|")).await;
    let opened = ok(&host, at, "!open").await;
    assert!(opened.starts_with("15 Error::Io(\"a request has at most 16 connections"), "{opened}");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_lose_nothing() {
    let manifest = "[sqlite]\ntimeout = '1m'\n[limits]\nwall = '2m'";
    let host = host(&["sqlite"]).manifest("sqlite", manifest).start().await;
    ok(&host, "sqlite/v3/default", "CREATE TABLE t (x)|INSERT INTO t VALUES (0)").await;
    let transaction = "BEGIN IMMEDIATE|SELECT x FROM t|UPDATE t SET x = x + 1|COMMIT";
    let address = host.address;
    let clients = (0..32).map(|_| {
        tokio::spawn(async move {
            for _ in 0..5 {
                let response = get(address, &path("sqlite/v3/default", transaction)).await;
                assert_eq!(response.status, 200, "{}", response.text());
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    assert_eq!(ok(&host, "sqlite/v2/default", "SELECT x FROM t").await, "i:160");
}

/// What was committed is there after the process was killed, and what was not is not. A version uses the database of its service.
#[tokio::test(flavor = "multi_thread")]
async fn commits_outlive_the_process() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(wasm("sqlite"), directory.path().join("sqlite.wasm")).unwrap();
    std::fs::copy(wasm("sqlite"), directory.path().join("sqlite@2.wasm")).unwrap();
    std::fs::write(directory.path().join("sqlite.toml"), "sqlite = true").unwrap();
    std::fs::write(directory.path().join("sqlite@2.toml"), "percent = 50").unwrap();
    let create = "CREATE TABLE IF NOT EXISTS t (n)|INSERT INTO t VALUES (1)|SELECT sum(n) FROM t";
    let mut expected = 0;
    for _ in 0..5 {
        let process = Process::serve(directory.path(), &[]).await;
        for _ in 0..10 {
            expected += 1;
            let response = get(process.address, &path("sqlite/v3/default", create)).await;
            assert_eq!((response.status, response.text()), (200, format!("i:{expected}")));
        }
        let open = get(process.address, &path("sqlite/v3/default", "BEGIN|INSERT INTO t VALUES (100)")).await;
        assert_eq!(open.status, 200);
        // Dropped, it is killed.
        drop(process);
    }
}
