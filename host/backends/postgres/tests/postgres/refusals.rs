//! What PostgreSQL refuses, in words that help; and a schema that others have changed.

use std::sync::Arc;
use std::time::Duration;

use lodge_conformance::soon;
use lodge_postgres::{Postgres, PostgresSettings};
use lodge_remote::Tls;
use lodge_remote::testing::TestServer;
use lodge_state::{Backend, Error, Key, Namespace, Quota, Set, Store, Usage, Value};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use crate::server;

fn key(name: &str) -> Key<'_> {
    Key::new("b", name).unwrap()
}

async fn open(server: &TestServer, login: &str, database: &str) -> Result<Arc<dyn Store>, String> {
    let url = format!("postgres://{login}@127.0.0.1:{}/{database}?sslmode=disable", server.port());
    let postgres = Postgres::new(PostgresSettings::new(&url, &Tls::default(), 1).unwrap(), &Handle::current());
    let opened = postgres.open(&Namespace::new("svc").unwrap(), Quota::default(), soon()).await;
    // Its connections end with it.
    std::mem::forget(postgres);
    opened.map_err(|error| error.to_string())
}

#[tokio::test]
async fn users_databases_and_rights() {
    let Some(server) = server::start(&[]) else { return };
    let client = server::other(&server).await;
    client.batch_execute("CREATE USER weak PASSWORD 'word'").await.unwrap();
    client.batch_execute("CREATE DATABASE d").await.unwrap();
    for (login, database, text) in [
        ("me:hunter3", "postgres", "user or password is wrong"),
        ("me", "postgres", "it demands a password"),
        ("me:hunter2", "none", "the database of the URL does not exist"),
        ("weak:word", "d", "GRANT CREATE ON DATABASE"),
    ] {
        let error = open(&server, login, database).await.map(drop).unwrap_err();
        assert!(error.contains(text) && !error.contains("hunter"), "{error}");
    }
    open(&server, "me:hunter2", "d").await.unwrap();
    client.batch_execute("GRANT CREATE ON DATABASE postgres TO weak").await.unwrap();
    let store = open(&server, "weak:word", "postgres").await.unwrap();
    store.set(key("a"), Value::number(1), Set::default(), soon()).await.unwrap();
    client.batch_execute("UPDATE lodge.schema SET version = 99").await.unwrap();
    let error = open(&server, "me:hunter2", "postgres").await.map(drop).unwrap_err();
    assert!(error.contains("version 99") && error.contains("the later version of Lodge"), "{error}");
}

/// Many hosts that start at once create the schema once.
#[tokio::test(flavor = "multi_thread")]
async fn the_schema_is_created_once() {
    let Some(server) = server::start(&[]) else { return };
    let backends: Vec<_> = (0..6).map(|_| Arc::new(server::connect(&server))).collect();
    let opening = backends.iter().map(|backend| {
        let backend = backend.clone();
        tokio::spawn(async move {
            let store = backend.open(&Namespace::new("svc").unwrap(), Quota::default(), soon()).await.unwrap();
            store.increment(key("n"), 1, soon()).await.unwrap()
        })
    });
    let mut sums = Vec::new();
    for task in opening.collect::<Vec<_>>() {
        sums.push(task.await.unwrap());
    }
    sums.sort_unstable();
    assert_eq!(sums, [1, 2, 3, 4, 5, 6]);
}

/// A table that another client has locked delays operations until their deadline, and only that long.
#[tokio::test]
async fn locks_of_others_end_at_deadlines() {
    let Some(server) = server::start(&[]) else { return };
    let store = open(&server, "me:hunter2", "postgres").await.unwrap();
    store.set(key("a"), Value::number(1), Set::default(), soon()).await.unwrap();
    let client = server::other(&server).await;
    client.batch_execute("BEGIN; LOCK lodge.entry").await.unwrap();
    let began = Instant::now();
    assert_eq!(store.exists(key("a"), began + Duration::from_millis(300)).await, Err(Error::Timeout));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    client.batch_execute("COMMIT").await.unwrap();
    // The connection was suspected, and may be replaced.
    let read = store.exists(key("a"), soon()).await;
    assert_eq!(read, Ok(true));
}

/// Dropped by an operator, the schema is created again.
#[tokio::test]
async fn the_schema_may_vanish() {
    let Some(server) = server::start(&[]) else { return };
    let backend = server::connect(&server);
    let open = || backend.open(&NAMESPACE, Quota::default(), soon());
    static NAMESPACE: std::sync::LazyLock<Namespace> = std::sync::LazyLock::new(|| Namespace::new("svc").unwrap());
    let store = open().await.unwrap();
    store.set(key("a"), Value::number(1), Set::default(), soon()).await.unwrap();
    server::other(&server)
        .await
        .batch_execute("SET client_min_messages = error; DROP SCHEMA lodge CASCADE")
        .await
        .unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    let store = loop {
        match open().await {
            Ok(store) => break store,
            Err(error) => assert!(matches!(error, Error::Unavailable { .. }), "{error}"),
        }
        assert!(Instant::now() < until);
        sleep(Duration::from_millis(20)).await;
    };
    while let Err(error) = store.set(key("a"), Value::number(1), Set::default(), soon()).await {
        assert!(Instant::now() < until, "{error}");
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.usage(soon()).await, Ok(Usage { keys: 1, bytes: 3 }));
}
