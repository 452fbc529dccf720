//! Promise: a service without requests is unloaded from memory, and loaded again by the next request.

use std::path::Path;
use std::time::Duration;

use crate::harness::{TestHost, get, host, until};

fn loaded(host: &TestHost, name: &str) -> bool {
    host.current
        .snapshot()
        .targets
        .iter()
        .any(|target| &*target.deployment().name == name && target.backend.is_loaded())
}

fn empty(cache: &Path) {
    for entry in std::fs::read_dir(cache).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "cwasm") {
            std::fs::remove_file(path).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_loads_an_idle_service() {
    let cache = tempfile::tempdir().unwrap();
    let host = host(&["hello", "users"])
        .set("engine.idle_unload", "300ms")
        .set("cache.directory", cache.path().to_str().unwrap())
        .manifest("users", "isolation = 'service'\nlimits.warm_idle = '100ms'")
        .start()
        .await;
    for name in ["hello", "users"] {
        until("it is unloaded", || !loaded(&host, name)).await;
    }
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..64 {
        let (address, path) = (host.address, if n % 2 == 0 { "/hello" } else { "/users" });
        asked.spawn(async move { get(address, path).await.status });
    }
    assert_eq!(asked.join_all().await, [200; 64]);
    until("both are unloaded", || !loaded(&host, "hello") && !loaded(&host, "users")).await;
    empty(cache.path());
    assert_eq!(host.get("/hello").await.text(), "Hello, World!", "compiled again if the cache has lost it");
    // Lost by the cache, and changed on disk: there is no source left.
    until("it is unloaded again", || !loaded(&host, "hello")).await;
    empty(cache.path());
    std::fs::write(host.directory().join("users.wasm"), b"rubbish").unwrap();
    let response = host.get("/users").await;
    assert_eq!((response.status, response.problem().as_str()), (503, "unavailable"));
    assert_eq!(response.header("retry-after"), "1");
}

/// Machine code that could not be loaded again stays.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_cache_nothing_is_unloaded() {
    let setup = host(&["hello"]).set("engine.idle_unload", "1ms").set("cache.directory", "off");
    let host = setup.start().await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!(loaded(&host, "hello"));
}
