//! What NATS refuses, in words that help; and quotas of its streams.

use std::sync::Arc;

use lodge_conformance::soon;
use lodge_nats::{Nats, NatsSettings};
use lodge_remote::Tls;
use lodge_state::{Backend, Error, Key, Locks, Namespace, Quota, Resource, Set, Store, Value};
use tokio::runtime::Handle;

use crate::server;

fn key(name: &str) -> Key<'_> {
    Key::new("b", name).unwrap()
}

fn nats(login: &str, port: u16) -> Nats {
    let url = format!("nats://{login}127.0.0.1:{port}");
    Nats::new(NatsSettings::new(&url, &Tls::default(), None, 1).unwrap(), &Handle::current())
}

async fn open(nats: &Nats, name: &str, quota: Quota) -> Result<Arc<dyn Store>, Error> {
    nats.open(&Namespace::new(name).unwrap(), quota, soon()).await
}

async fn set(store: &Arc<dyn Store>, name: &str, size: usize) -> Result<(), Error> {
    store.set(key(name), Value::new(vec![1; size]).unwrap(), Set::default(), soon()).await.map(drop)
}

#[tokio::test]
async fn users_and_tokens() {
    let Some(server) = server::start("authorization { user: me, password: hunter2 }") else { return };
    open(&nats("me:hunter2@", server.port()), "svc", Quota::default()).await.unwrap();
    for login in ["me:hunter3@", ""] {
        let error = open(&nats(login, server.port()), "svc", Quota::default()).await.map(drop).unwrap_err().to_string();
        assert!(error.contains("credentials are wrong") && !error.contains("hunter"), "{error}");
    }
    let Some(server) = server::start("authorization { token: word }") else { return };
    open(&nats("word@", server.port()), "svc", Quota::default()).await.unwrap();
}

#[tokio::test]
async fn a_server_without_jetstream() {
    let Some(server) = server::start("jetstream: disabled") else { return };
    let error = open(&nats("", server.port()), "svc", Quota::default()).await.map(drop).unwrap_err().to_string();
    assert!(error.contains("enable JetStream"), "{error}");
}

/// A lowered quota deletes nothing, and a value that is too large for the server is refused in words.
#[tokio::test]
async fn quotas_and_sizes() {
    let Some(server) = server::start("max_payload: 1MB") else { return };
    let nats = nats("", server.port());
    let store = open(&nats, "svc", Quota { keys: 4, bytes: 10 << 20 }).await.unwrap();
    for name in ["a", "b", "c", "d"] {
        set(&store, name, 100).await.unwrap();
    }
    let exceeded = |limit| Err(Error::QuotaExceeded { resource: Resource::Keys, used: limit, limit });
    assert_eq!(set(&store, "e", 100).await, exceeded(4));
    open(&nats, "svc", Quota { keys: 2, bytes: 10 << 20 }).await.unwrap();
    for name in ["a", "b", "c", "d"] {
        assert!(store.exists(key(name), soon()).await.unwrap(), "{name}");
        set(&store, name, 100).await.unwrap();
    }
    assert_eq!(set(&store, "e", 100).await, exceeded(2));
    let error = set(&store, "a", 1 << 20).await.unwrap_err().to_string();
    assert!(error.contains("set its max_payload to 2MB"), "{error}");
    open(&nats, "svc", Quota { keys: 9, bytes: 2000 }).await.unwrap();
    let error = set(&store, "f", 1900).await.unwrap_err();
    assert!(matches!(error, Error::QuotaExceeded { resource: Resource::Bytes, .. }), "{error}");
    open(&nats, "svc", Quota { keys: 0, bytes: 2000 }).await.unwrap();
    assert!(matches!(set(&store, "g", 1).await, Err(Error::QuotaExceeded { resource: Resource::Keys, .. })));
}

/// Buckets of other names are other buckets, also where names look like those that this backend makes.
#[tokio::test]
async fn names_are_unambiguous() {
    let Some(server) = server::start("") else { return };
    let nats = nats("", server.port());
    for (number, name) in ["a", "a.b", "a b", "*", ">", "_a", "locks-a", "é"].into_iter().enumerate() {
        let store = open(&nats, name, Quota::default()).await.unwrap();
        let absent = Set { if_absent: true, ..Set::default() };
        store.set(key("k"), Value::number(number as i64), absent, soon()).await.unwrap();
        assert_eq!(store.usage(soon()).await.unwrap().keys, 1, "{name}");
        let _: Arc<dyn Locks> = nats.locks(&Namespace::new(name).unwrap(), soon()).await.unwrap();
    }
}

/// A stream that an operator has deleted is created again.
#[tokio::test]
async fn streams_may_vanish() {
    let Some(server) = server::start("") else { return };
    let nats = nats("", server.port());
    let store = open(&nats, "svc", Quota::default()).await.unwrap();
    set(&store, "a", 1).await.unwrap();
    let client = async_nats::connect(format!("127.0.0.1:{}", server.port())).await.unwrap();
    let deleted = client.request("$JS.API.STREAM.DELETE.KV_lodge-state-svc", "".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&deleted.payload).contains("true"));
    let error = store.get(key("a"), soon()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert_eq!(store.get(key("a"), soon()).await, Ok(None));
    set(&store, "a", 1).await.unwrap();
}
