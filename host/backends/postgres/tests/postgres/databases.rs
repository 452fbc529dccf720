//! Databases for the SQL of services.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lodge_postgres::PostgresDatabases;
use lodge_remote::testing::TestServer;
use lodge_state::postgres::{
    PostgresAddress, PostgresError, PostgresPool, PostgresRows, PostgresServers, PostgresSession, PostgresValue,
};
use tokio::runtime::Handle;

use crate::server;

fn pool(server: &TestServer, connections: usize) -> Arc<dyn PostgresPool> {
    let address = PostgresAddress { url: server::url(server), authorities: None, connections };
    PostgresDatabases::new(Handle::current()).pool(&address).unwrap()
}

async fn within(
    connection: &Arc<dyn PostgresSession>,
    text: &str,
    parameters: &[PostgresValue],
    time: Duration,
) -> Result<PostgresRows, PostgresError> {
    connection.run(text.to_owned(), parameters.to_vec(), Instant::now() + time).await
}

async fn run(
    connection: &Arc<dyn PostgresSession>,
    text: &str,
    parameters: &[PostgresValue],
) -> Result<PostgresRows, PostgresError> {
    within(connection, text, parameters, Duration::from_secs(20)).await
}

/// The only value of a statement.
async fn value(connection: &Arc<dyn PostgresSession>, text: &str) -> PostgresValue {
    run(connection, text, &[]).await.unwrap().rows.remove(0).remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_exact_or_unsupported() {
    let Some(server) = server::start(&[]) else { return };
    let connection = pool(&server, 2).connection();
    let text = |text: &str| PostgresValue::Text(text.to_owned());
    let enumeration = "CREATE TYPE mood AS ENUM ('happy', 'sad')";
    run(&connection, enumeration, &[]).await.unwrap();
    run(&connection, "CREATE DOMAIN age AS smallint CHECK (value >= 0)", &[]).await.unwrap();
    // There and back: as a parameter of the type, and by what the server writes of it.
    for (of, parameter, read, written) in [
        ("boolean", PostgresValue::Bool(true), PostgresValue::Bool(true), "true"),
        ("smallint", PostgresValue::Int64(-32_768), PostgresValue::Int16(-32_768), "-32768"),
        ("integer", PostgresValue::Int8(7), PostgresValue::Int32(7), "7"),
        ("bigint", PostgresValue::Int64(i64::MIN), PostgresValue::Int64(i64::MIN), "-9223372036854775808"),
        ("oid", PostgresValue::Unsigned(u32::MAX.into()), PostgresValue::Int64(u32::MAX.into()), "4294967295"),
        ("real", PostgresValue::Float32(0.1), PostgresValue::Float32(0.1), "0.1"),
        ("double precision", PostgresValue::Float64(0.1), PostgresValue::Float64(0.1), "0.1"),
        ("numeric(40,20)", PostgresValue::Int64(3), text("3.00000000000000000000"), "3.00000000000000000000"),
        (
            "numeric",
            text("-123456789012345678901234.000000012"),
            text("-123456789012345678901234.000000012"),
            "-123456789012345678901234.000000012",
        ),
        ("numeric", text("0.00001"), text("0.00001"), "0.00001"),
        ("numeric", text("NaN"), PostgresValue::Unsupported, "NaN"),
        ("text", text("'; DROP TABLE t; --"), text("'; DROP TABLE t; --"), "'; DROP TABLE t; --"),
        ("varchar(9)", text("grün"), text("grün"), "grün"),
        ("mood", text("sad"), text("sad"), "sad"),
        ("age", PostgresValue::Int64(42), PostgresValue::Int16(42), "42"),
        ("bytea", PostgresValue::Bytes(vec![0, 255]), PostgresValue::Bytes(vec![0, 255]), "\\x00ff"),
        (
            "uuid",
            text("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"),
            text("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        ),
        ("json", text("{ \"a\":1}"), text("{ \"a\":1}"), "{ \"a\":1}"),
        ("jsonb", text("{ \"a\":1}"), text("{\"a\": 1}"), "{\"a\": 1}"),
        ("date", PostgresValue::Date(2024, 2, 29), PostgresValue::Date(2024, 2, 29), "2024-02-29"),
        ("date", text("infinity"), PostgresValue::Unsupported, "infinity"),
        (
            "time",
            PostgresValue::Time(23, 59, 59, 999_999_000),
            PostgresValue::Time(23, 59, 59, 999_999_000),
            "23:59:59.999999",
        ),
        ("time", text("24:00"), PostgresValue::Unsupported, "24:00:00"),
        (
            "timestamp",
            PostgresValue::DateTime((1969, 12, 31), (23, 59, 59, 1_000)),
            PostgresValue::DateTime((1969, 12, 31), (23, 59, 59, 1_000)),
            "1969-12-31 23:59:59.000001",
        ),
        (
            "timestamptz",
            PostgresValue::Timestamp(0),
            PostgresValue::DateTime((1970, 1, 1), (0, 0, 0, 0)),
            "1970-01-01 02:00:00+02",
        ),
        ("inet", text("10.0.0.0/8"), PostgresValue::Unsupported, "10.0.0.0/8"),
        ("text", PostgresValue::Null, PostgresValue::Null, ""),
    ] {
        run(&connection, "SET timezone = 'Etc/GMT-2'", &[]).await.unwrap();
        let statement = format!("SELECT v, coalesce(v::text, '') FROM (SELECT $1::{of} AS v) AS one");
        let rows = run(&connection, &statement, std::slice::from_ref(&parameter)).await;
        let rows = rows.unwrap_or_else(|error| panic!("{of} of {parameter:?}: {error}"));
        assert_eq!(rows.rows, [vec![read, text(written)]], "{of} of {parameter:?}");
    }
    let wrong = run(&connection, "SELECT $1::smallint", &[PostgresValue::Int64(32_768)]).await.unwrap_err();
    assert_eq!(wrong.to_string(), "parameter 1: 32768 does not fit into `int2`");
    let few = run(&connection, "SELECT $1::text", &[]).await.unwrap_err();
    assert_eq!(few.to_string(), "parameter 1: the statement has 1, and 0 were given");
    let failed = run(&connection, "SELECT 1/0", &[]).await.unwrap_err();
    assert_eq!(failed.to_string(), "division by zero (SQLSTATE 22012)");
    assert_eq!(run(&connection, "SELECT 1; SELECT 2", &[]).await.unwrap_err().outcome(), "failed");
}

/// What a request leaves in a connection does not reach the next one, whatever it did.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_in_a_connection() {
    let Some(server) = server::start(&[]) else { return };
    let pool = pool(&server, 1);
    run(&pool.connection(), "CREATE TABLE t (v integer)", &[]).await.unwrap();
    let mut of_first = None;
    for left in [
        &["SELECT 1"][..],
        &["BEGIN", "INSERT INTO t VALUES (1)"],
        &["BEGIN", "INSERT INTO t VALUES (1)", "SELECT 1/0"],
        &["SET statement_timeout = 0", "SET ROLE pg_read_all_data"],
        &["SET SESSION AUTHORIZATION pg_read_all_data"],
        &["CREATE TEMP TABLE t (v integer)", "INSERT INTO t VALUES (1)"],
        &["SELECT pg_advisory_lock(1)", "LISTEN everything", "PREPARE mine AS SELECT 1"],
        &["BEGIN", "DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 9)", "COMMIT"],
    ] {
        let connection = pool.connection();
        for statement in left {
            let _ = run(&connection, statement, &[]).await;
        }
        connection.reset();
        let next = pool.connection();
        let of = value(&next, "SELECT pg_backend_pid()").await;
        assert_eq!(*of_first.get_or_insert(of.clone()), of, "{left:?} has cost a connection");
        let state = "SELECT current_user || current_setting('statement_timeout') || (SELECT count(*) FROM t) || \
            (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') || (SELECT count(*) FROM pg_listening_channels()) || \
            (SELECT count(*) FROM pg_prepared_statements WHERE from_sql) || (SELECT count(*) FROM pg_cursors WHERE is_holdable)";
        assert_eq!(value(&next, state).await, PostgresValue::Text("me1min00000".into()), "{left:?}");
        drop(next);
    }
    // The driver relies on statements of its own.
    let connection = pool.connection();
    let _ = run(&connection, "DEALLOCATE ALL", &[]).await;
    connection.reset();
    assert_eq!(value(&pool.connection(), "SELECT 1").await, PostgresValue::Int32(1));
}

/// A statement that is not waited for any more ends in the server as well, and its connection is free again.
#[tokio::test(flavor = "multi_thread")]
async fn abandoned_statements_are_cancelled() {
    let Some(server) = server::start(&[]) else { return };
    let other = server::other(&server).await;
    let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'";
    let pool = pool(&server, 1);
    for by_deadline in [true, false] {
        let connection = pool.connection();
        let time = Duration::from_millis(if by_deadline { 300 } else { 20_000 });
        let slow = within(&connection, "SELECT pg_sleep(50)", &[], time);
        if by_deadline {
            assert_eq!(slow.await, Err(PostgresError::Timeout));
        } else {
            assert!(tokio::time::timeout(Duration::from_millis(300), slow).await.is_err());
        }
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let count: i64 = other.query_one(running, &[]).await.unwrap().get(0);
            if count == 0 {
                break;
            }
            assert!(Instant::now() < end, "it still runs");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(value(&connection, "SELECT 1").await, PostgresValue::Int32(1));
    }
    // A connection that is given back while its statement runs does not reach another request.
    let connection = pool.connection();
    let slow = within(&connection, "SELECT pg_sleep(50)", &[], Duration::from_secs(1));
    let reset = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        connection.reset();
        within(&pool.connection(), "SELECT 1", &[], Duration::from_millis(100)).await
    };
    let (slow, next) = tokio::join!(slow, reset);
    assert_eq!((slow, next.unwrap_err()), (Err(PostgresError::Timeout), PostgresError::Busy));
}

#[tokio::test(flavor = "multi_thread")]
async fn results_and_connections_are_bounded() {
    let Some(server) = server::start(&[]) else { return };
    let pool = pool(&server, 2);
    let [one, two, three] = [pool.connection(), pool.connection(), pool.connection()];
    for connection in [&one, &two] {
        value(connection, "SELECT 1").await;
    }
    let refused = within(&three, "SELECT 1", &[], Duration::from_millis(200)).await;
    assert_eq!(refused, Err(PostgresError::Busy));
    two.reset();
    assert_eq!(value(&three, "SELECT 1").await, PostgresValue::Int32(1));
    for endless in [
        "SELECT repeat('x', 1000) FROM generate_series(1, 100000000)",
        "SELECT repeat('x', 100000000)",
        "SELECT null FROM generate_series(1, 100000000)",
        "DO $$ BEGIN SET client_min_messages = notice; LOOP RAISE NOTICE '%', repeat('x', 1000); END LOOP; END $$",
    ] {
        let error = run(&one, endless, &[]).await.unwrap_err();
        assert_eq!(error.outcome(), "too-large", "{endless}: {error}");
        assert_eq!(value(&one, "SELECT 1").await, PostgresValue::Int32(1));
    }
    // What speaks another protocol within a statement ends the connection, and not the service.
    for copy in ["COPY (SELECT 1) TO STDOUT", "CREATE TEMP TABLE c (v integer)", "COPY c FROM STDIN"] {
        let _ = within(&one, copy, &[], Duration::from_secs(1)).await;
    }
    assert_eq!(value(&one, "SELECT 1").await, PostgresValue::Int32(1));
    let large = PostgresValue::Bytes(vec![0; 4 << 20]);
    assert_eq!(run(&one, "SELECT $1::bytea", &[large]).await.unwrap_err().outcome(), "too-large");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_found_again() {
    let Some(mut server) = server::start(&[]) else { return };
    let pool = pool(&server, 2);
    let connection = pool.connection();
    value(&connection, "SELECT 1").await;
    server.kill();
    let error = within(&connection, "SELECT 1", &[], Duration::from_secs(3)).await.unwrap_err();
    assert_eq!(error.outcome(), "unavailable", "{error}");
    let error = within(&pool.connection(), "SELECT 1", &[], Duration::from_secs(3)).await.unwrap_err();
    assert!(error.to_string().contains("connection refused"), "{error}");
    server.restart();
    assert_eq!(value(&connection, "SELECT 1").await, PostgresValue::Int32(1));
    let wrong = server::url(&server).replace("hunter2", "canary");
    let address = PostgresAddress { url: wrong, authorities: None, connections: 1 };
    let pool = PostgresDatabases::new(Handle::current()).pool(&address).unwrap();
    let error = run(&pool.connection(), "SELECT 1", &[]).await.unwrap_err().to_string();
    assert!(error.contains("user or password is wrong") && !error.contains("canary"), "{error}");
}

/// A service may define what it likes, and no result of it takes the memory or the stack of the host.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_types_and_numbers_are_bounded() {
    let Some(server) = server::start(&[]) else { return };
    let pool = pool(&server, 2);
    let connection = pool.connection();
    let domains = "DO $$ BEGIN CREATE DOMAIN d0 AS int; FOR i IN 1..3000 LOOP \
        EXECUTE format('CREATE DOMAIN d%s AS d%s', i, i - 1); END LOOP; END $$";
    run(&connection, domains, &[]).await.unwrap();
    let numbers = format!("SELECT {}", vec!["1e131071"; 1_600].join(","));
    for text in ["SELECT NULL::d3000[]", "SELECT $1::d3000[] IS NULL", &numbers] {
        let error = run(&connection, text, &[PostgresValue::Null][..text.matches('$').count()]).await.unwrap_err();
        assert_eq!(error.outcome(), "too-large", "{text:.40}: {error}");
        assert_eq!(value(&connection, "SELECT 1").await, PostgresValue::Int32(1));
    }
    let PostgresValue::Text(longest) = value(&connection, "SELECT 1e131071").await else { panic!("it is a text") };
    assert!(longest.len() == 131_072 && longest.starts_with("10"));
}

/// Transactions that wait for connections do not wait for each other.
#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_connections_all_end() {
    let Some(server) = server::start(&[]) else { return };
    let pool = pool(&server, 4);
    let requests = (0..64).map(|_| {
        let connection = pool.connection();
        tokio::spawn(async move {
            for statement in ["BEGIN", "SELECT pg_sleep(0.01)", "COMMIT"] {
                run(&connection, statement, &[]).await?;
            }
            Ok::<(), PostgresError>(())
        })
    });
    for request in requests.collect::<Vec<_>>() {
        request.await.unwrap().unwrap();
    }
}

/// SQL that catches its cancellation ends as well, and until then its connection counts.
#[tokio::test(flavor = "multi_thread")]
async fn statements_cannot_outlive_their_end() {
    let Some(server) = server::start(&[]) else { return };
    let other = server::other(&server).await;
    let pool = pool(&server, 1);
    let connection = pool.connection();
    run(&connection, "SET statement_timeout = 0", &[]).await.unwrap();
    let stubborn =
        "DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$";
    let ended = within(&connection, stubborn, &[], Duration::from_millis(300)).await;
    assert_eq!(ended, Err(PostgresError::Timeout));
    let refused = within(&pool.connection(), "SELECT 1", &[], Duration::from_millis(300)).await;
    assert_eq!(refused, Err(PostgresError::Busy));
    assert_eq!(value(&pool.connection(), "SELECT 1").await, PostgresValue::Int32(1));
    let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'DO %'";
    let count: i64 = other.query_one(running, &[]).await.unwrap().get(0);
    assert_eq!(count, 0);
}
