//! Databases for the SQL of services.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lodge_postgres::PostgresDatabases;
use lodge_remote::testing::TestServer;
use lodge_state::postgres::{
    PostgresAddress, PostgresError, PostgresMode, PostgresPool, PostgresRows, PostgresServers, PostgresSession,
    PostgresValue,
};
use tokio::runtime::Handle;

use crate::server;

pub(crate) fn pool(server: &TestServer, connections: usize) -> Arc<dyn PostgresPool> {
    let address = PostgresAddress { url: server::url(server), authorities: None, connections };
    PostgresDatabases::new(Handle::current()).pool(&address).unwrap()
}

async fn within(
    connection: &Arc<dyn PostgresSession>,
    text: &str,
    parameters: &[PostgresValue],
    time: Duration,
) -> Result<PostgresRows, PostgresError> {
    connection.run(PostgresMode::Run, text.to_owned(), parameters.to_vec(), Instant::now() + time).await
}

pub(crate) async fn run(
    connection: &Arc<dyn PostgresSession>,
    text: &str,
    parameters: &[PostgresValue],
) -> Result<PostgresRows, PostgresError> {
    within(connection, text, parameters, Duration::from_secs(20)).await
}

/// The only value of a statement.
pub(crate) async fn value(connection: &Arc<dyn PostgresSession>, text: &str) -> PostgresValue {
    run(connection, text, &[]).await.unwrap().rows.remove(0).remove(0)
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
        assert_eq!(value(&pool.connection(), "SELECT 1").await, PostgresValue::Int32(1));
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
    // A series in FROM is made whole before its first row is sent, which can take longer than the deadline.
    for endless in [
        "SELECT repeat('x', 1000), generate_series(1, 100000000)",
        "SELECT repeat('x', 100000000)",
        "SELECT null FROM (SELECT generate_series(1, 100000000)) AS series",
        "DO $$ BEGIN SET client_min_messages = notice; LOOP RAISE NOTICE '%', repeat('x', 1000); END LOOP; END $$",
    ] {
        let error = run(&one, endless, &[]).await.unwrap_err();
        assert_eq!(error.outcome(), "too-large", "{endless}: {error}");
        one.reset();
        assert_eq!(value(&one, "SELECT 1").await, PostgresValue::Int32(1));
    }
    // What speaks another protocol within a statement ends the connection, and not the service.
    for copy in ["COPY (SELECT 1) TO STDOUT", "CREATE TEMP TABLE c (v integer)", "COPY c FROM STDIN"] {
        let _ = within(&one, copy, &[], Duration::from_secs(1)).await;
    }
    one.reset();
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
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    server.restart();
    connection.reset();
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
    // A few bytes of an element are a long number, and four are none.
    let long = "SELECT array_fill('1e131071'::numeric, ARRAY[2000])";
    let nulls = "SELECT array_fill(NULL::text, ARRAY[1500000])";
    for text in ["SELECT NULL::d3000[]", "SELECT $1::d3000[] IS NULL", &numbers, long, nulls] {
        let error = run(&connection, text, &[PostgresValue::Null][..text.matches('$').count()]).await.unwrap_err();
        assert_eq!(error.outcome(), "too-large", "{text:.40}: {error}");
        connection.reset();
        assert_eq!(value(&connection, "SELECT 1").await, PostgresValue::Int32(1));
    }
    let PostgresValue::Decimal(longest) = value(&connection, "SELECT 1e131071").await else { panic!("it is a number") };
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

/// A connection that a statement has ended is not replaced by another one: the rest of a transaction would be done without its
/// beginning, or with the rights and settings of the database's user.
#[tokio::test(flavor = "multi_thread")]
async fn an_ended_connection_stays_ended() {
    let Some(server) = server::start(&[]) else { return };
    let pool = pool(&server, 2);
    run(&pool.connection(), "CREATE TABLE kept (id int)", &[]).await.unwrap();
    for ending in ["too large", "late", "dropped"] {
        let connection = pool.connection();
        run(&connection, "BEGIN", &[]).await.unwrap();
        run(&connection, "INSERT INTO kept VALUES (1)", &[]).await.unwrap();
        match ending {
            "too large" => drop(run(&connection, "SELECT repeat('x', 100000000)", &[]).await.unwrap_err()),
            "late" => {
                let slow = within(&connection, "SELECT pg_sleep(50)", &[], Duration::from_millis(100)).await;
                assert_eq!(slow, Err(PostgresError::Timeout));
            }
            _ => {
                let slow = within(&connection, "SELECT pg_sleep(50)", &[], Duration::from_secs(20));
                assert!(tokio::time::timeout(Duration::from_millis(100), slow).await.is_err());
            }
        }
        for statement in ["INSERT INTO kept VALUES (2)", "COMMIT", "SELECT 1"] {
            assert_eq!(run(&connection, statement, &[]).await, Err(PostgresError::Ended), "{ending}: {statement}");
        }
        connection.reset();
        assert_eq!(value(&connection, "SELECT count(*) FROM kept").await, PostgresValue::Int64(0), "{ending}");
    }
    // Of two statements at once, too.
    let connection = pool.connection();
    run(&connection, "BEGIN", &[]).await.unwrap();
    let slow = within(&connection, "SELECT pg_sleep(50)", &[], Duration::from_millis(100));
    let (slow, next) = tokio::join!(slow, run(&connection, "INSERT INTO kept VALUES (3)", &[]));
    assert_eq!((slow, next), (Err(PostgresError::Timeout), Err(PostgresError::Ended)));
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
