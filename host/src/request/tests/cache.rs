//! Stored responses on the path of a request.

use std::time::{Duration, Instant};

use super::fixture::{Fixture, call, get, within};

const MANIFEST: &str = "cache = true\nlimits = { in_flight = 1, queue = 0 }";

/// A hit passes no limit but those of clients.
#[tokio::test]
async fn a_hit_needs_no_slot() {
    let host = Fixture::with(&[("users", MANIFEST)]).await;
    host.store("http://test/users", "max-age=60", "stored").await;
    let held = host.target("users").admission.try_admit(Instant::now()).unwrap();
    let reply = host.send(get("http://test/users")).await;
    assert_eq!((reply.status, reply.text.as_str()), (200, "stored"));
    assert!(reply.headers["cache-status"].to_str().unwrap().starts_with("lodge; hit"));
    assert_eq!(host.send(get("http://test/users?other")).await.text, "queue-full");
    drop(held);
    assert!(host.is_idle());
}

#[tokio::test]
async fn a_denied_client_gets_no_stored_response() {
    let host = Fixture::with(&[("users", &format!("{MANIFEST}\ndeny = ['192.0.2.0/24']"))]).await;
    host.store("http://test/users", "max-age=60", "stored").await;
    let reply = host.send(get("http://test/users")).await;
    assert_eq!((reply.status, reply.text.as_str()), (403, "client-denied"));
}

/// A service may respond to a guest differently, and no header says so.
#[tokio::test]
async fn a_call_gets_no_stored_response() {
    let host = Fixture::with(&[("users", MANIFEST)]).await;
    host.store("http://test/users", "max-age=60", "stored").await;
    let call = call("users.localhost", 1, Instant::now() + Duration::from_secs(60));
    assert_eq!(host.call(&call, get("http://test/users")).await.text, "no-replica");
    assert_eq!(host.send(get("http://test/users")).await.text, "stored");
}

/// A stale response replaces the failure of the service, which still counts.
#[tokio::test]
async fn a_stale_response_replaces_a_failure() {
    let host = Fixture::with(&[("users", MANIFEST), ("strict", MANIFEST)]).await;
    host.store("http://test/users", "max-age=1, stale-if-error=60", "stored").await;
    host.store("http://test/strict", "max-age=1", "stored").await;
    within(async {
        while host.refused("users").is_empty() {
            let reply = host.send(get("http://test/users")).await;
            assert_eq!((reply.status, reply.text.as_str()), (200, "stored"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(host.refused("users"), [("no-replica", 1)]);
    let reply = host.send(get("http://test/strict")).await;
    assert_eq!((reply.status, reply.text.as_str()), (503, "no-replica"));
    assert!(host.is_idle());
}
