//! What Redis refuses, in words that help; and data that other clients have changed.

use lodge_conformance::soon;
use lodge_redis::{Redis, RedisSettings};
use lodge_remote::Tls;
use lodge_remote::testing::TestServer;
use lodge_state::{Backend, Error, Key, Listing, Namespace, Quota, Set, Store, Usage, Value};
use std::sync::Arc;
use tokio::runtime::Handle;

use crate::server;

fn key(name: &str) -> Key<'_> {
    Key::new("b", name).unwrap()
}

async fn open(url: &str) -> Arc<dyn Store> {
    let redis = Redis::new(RedisSettings::new(url, &Tls::default(), 1).unwrap(), &Handle::current());
    redis.open(&Namespace::new("svc").unwrap(), Quota::default(), soon()).await.unwrap()
}

async fn set(store: &Arc<dyn Store>, size: usize) -> Result<(), String> {
    let value = Value::new(vec![1; size]).unwrap();
    let result = store.set(key(&format!("k{size}")), value, Set::default(), soon()).await;
    result.map(drop).map_err(|error| error.to_string())
}

/// Asks the server as another client does.
pub(crate) async fn other<T: redis::FromRedisValue>(server: &TestServer, command: &[&str]) -> T {
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", server.port())).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut cmd = redis::cmd(command[0]);
    for argument in &command[1..] {
        cmd.arg(*argument);
    }
    cmd.query_async(&mut connection).await.unwrap()
}

#[tokio::test]
async fn users_and_databases() {
    let Some(server) = server::start(&["--user", "me", "on", ">hunter2", "~lodge:*", "+@all"]) else { return };
    let port = server.port();
    let url = |login: &str, path: &str| format!("redis://{login}127.0.0.1:{port}{path}");
    set(&open(&url("me:hunter2@", "/3")).await, 1).await.unwrap();
    let error = set(&open(&url("me:hunter3@", "")).await, 1).await.unwrap_err();
    assert!(error.contains("user or password is wrong") && !error.contains("hunter3"), "{error}");
    let error = set(&open(&url("", "/77")).await, 1).await.unwrap_err();
    assert!(error.contains("no database of this number"), "{error}");
    let databases: String = other(&server, &["INFO", "keyspace"]).await;
    assert!(databases.contains("db3:") && !databases.contains("db0:"), "{databases}");
}

#[tokio::test]
async fn a_server_that_evicts_is_refused() {
    let Some(server) = server::start(&["--maxmemory", "20mb", "--maxmemory-policy", "allkeys-lru"]) else { return };
    let store = open(&format!("redis://127.0.0.1:{}", server.port())).await;
    let error = set(&store, 1).await.unwrap_err();
    assert!(error.contains("maxmemory-policy is allkeys-lru") && error.contains("noeviction"), "{error}");
    let _: String = other(&server, &["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    while set(&store, 1).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let error = loop {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(500_000);
        match set(&store, NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)).await {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(error.contains("the memory of Redis is full: raise maxmemory"), "{error}");
}

#[tokio::test]
async fn a_replica_refuses_writes_until_it_is_primary() {
    let (Some(server), Some(primary)) = (server::start(&[]), server::start(&[])) else { return };
    let store = open(&format!("redis://127.0.0.1:{}", server.port())).await;
    set(&store, 1).await.unwrap();
    let _: String = other(&server, &["REPLICAOF", "127.0.0.1", &primary.port().to_string()]).await;
    let error = set(&store, 2).await.unwrap_err();
    assert!(error.contains("let the URL name the primary") || error.contains("loading"), "{error}");
    let _: String = other(&server, &["REPLICAOF", "NO", "ONE"]).await;
    while set(&store, 1).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Scripts are loaded again after they were removed, and versions grow after all data was removed.
#[tokio::test]
async fn scripts_and_data_may_vanish() {
    let Some(server) = server::start(&[]) else { return };
    let store = open(&format!("redis://127.0.0.1:{}", server.port())).await;
    let first = store.set(key("a"), Value::number(1), Set::default(), soon()).await.unwrap();
    let _: String = other(&server, &["SCRIPT", "FLUSH"]).await;
    assert_eq!(store.increment(key("a"), 1, soon()).await, Ok(2));
    let _: String = other(&server, &["SCRIPT", "FLUSH"]).await;
    store.set_many(vec![(key("b"), Value::number(1)), (key("c"), Value::number(2))], soon()).await.unwrap();
    assert_eq!(store.usage(soon()).await, Ok(Usage { keys: 3, bytes: 9 }));
    let _: String = other(&server, &["FLUSHALL"]).await;
    let second = store.set(key("a"), Value::number(1), Set::default(), soon()).await.unwrap();
    assert!(second.number() > first.number());
    assert_eq!(store.usage(soon()).await, Ok(Usage { keys: 1, bytes: 3 }));
}

/// Namespaces whose names are parts of each other, or look like the parts of keys, are different ones.
#[tokio::test]
async fn names_are_unambiguous() {
    let Some(server) = server::start(&[]) else { return };
    let url = format!("redis://127.0.0.1:{}", server.port());
    let redis = Redis::new(RedisSettings::new(&url, &Tls::default(), 1).unwrap(), &Handle::current());
    for (number, name) in ["a", "a}:e:1:bk", "1:a", "{1:a}", "a}:", "*"].into_iter().enumerate() {
        let store = redis.open(&Namespace::new(name).unwrap(), Quota::default(), soon()).await.unwrap();
        let absent = Set { if_absent: true, ..Set::default() };
        store.set(key("k"), Value::number(number as i64), absent, soon()).await.unwrap();
        assert_eq!(store.usage(soon()).await, Ok(Usage { keys: 1, bytes: 3 }), "{name}");
    }
    // An entry that another program has damaged is an error, and no panic.
    let _: String = other(&server, &["SET", "lodge:{1:a}:e:1:bk", "garbage"]).await;
    let store = redis.open(&Namespace::new("a").unwrap(), Quota::default(), soon()).await.unwrap();
    assert!(matches!(store.get(key("k"), soon()).await, Err(Error::Unavailable { .. })));
}

/// Values that are deleted are not sent to the host: a batch may delete 256 MiB.
#[tokio::test]
async fn deleted_values_are_not_sent() {
    let Some(server) = server::start(&[]) else { return };
    let store = open(&format!("redis://127.0.0.1:{}", server.port())).await;
    let names: Vec<_> = (0..20).map(|number| format!("k{number}")).collect();
    let keys: Vec<_> = names.iter().map(|name| key(name)).collect();
    for key in &keys {
        store.set(*key, Value::new(vec![1; 512 << 10]).unwrap(), Set::default(), soon()).await.unwrap();
    }
    let sent = async || -> u64 {
        let stats: String = other(&server, &["INFO", "stats"]).await;
        let bytes = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:")).unwrap();
        bytes.trim().parse().unwrap()
    };
    let before = sent().await;
    assert_eq!(store.delete_many(&keys, soon()).await, Ok(20));
    let bytes = sent().await - before;
    assert!(bytes < 100_000, "{bytes} bytes");
}

/// A listing leaves out names that are not UTF-8, which only other programs write, and goes on after them.
#[tokio::test]
async fn names_of_others_are_left_out() {
    let Some(server) = server::start(&[]) else { return };
    let store = open(&format!("redis://127.0.0.1:{}", server.port())).await;
    let names = ["a", "b\u{e4}", "c\u{20ac}\u{d7ff}", "d\u{1f600}\u{10ffff}", "e"];
    for name in names {
        store.set(key(name), Value::new("v").unwrap(), Set::default(), soon()).await.unwrap();
    }
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", server.port())).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*i:b").query_async(&mut connection).await.unwrap();
    let [index] = &keys[..] else { panic!("{keys:?}") };
    let entries = index.strip_suffix("i:b").unwrap();
    for foreign in [&b"a\xff"[..], b"b\xc3", b"c\xed\xa0\x80", b"d\xf4\x90\x80\x80", b"d\xc0\xaf", b"e\xe2\x82"] {
        let entry = [entries.as_bytes(), b"e:1:b", foreign].concat();
        let _: () = redis::cmd("SET").arg(entry).arg("1 0 v").query_async(&mut connection).await.unwrap();
        let _: () = redis::cmd("ZADD").arg(index).arg(0).arg(foreign).query_async(&mut connection).await.unwrap();
    }
    for limit in [1, 1000] {
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let listing = Listing::new("b", "", limit).unwrap();
            let listing = cursor.as_ref().map_or(listing, |cursor| listing.at(cursor));
            let page = store.list(listing, soon()).await.unwrap();
            found.extend(page.keys);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(found, names, "{limit}");
    }
}
