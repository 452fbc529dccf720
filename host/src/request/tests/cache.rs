//! Stored responses on the path of a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::deadlines::{have_host, hop};
use super::fixture::{Fixture, call, get, within};
use lodge_traffic::proxy::host_key::HostKey;

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

/// Requests wait for one another as before after one that had too little time, before or after the head of its response.
#[tokio::test]
async fn too_little_time_does_not_end_coalescing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let replica = format!("http://{}", listener.local_addr().unwrap());
    let host = Fixture::with(&[(
        "users",
        &format!("cache = true\nlimits.queue_wait = '1m'\n[upstream]\nreplicas = ['{replica}']"),
    )])
    .await;
    let key = HostKey::random();
    have_host(&host, &key);
    let is_whole = Arc::<AtomicBool>::default();
    tokio::spawn(respond(listener, Arc::clone(&is_whole)));
    let late = host.open(hop("/users", "users;calls=0;ms=50", Some(&key))).await;
    let status = late.status().as_u16();
    let body = within(late.into_body().collect()).await;
    assert!(status == 504 || body.is_err(), "{status}: it never has its second half");
    is_whole.store(true, Relaxed);
    // The first one is sent before the second one begins to wait.
    let replies = tokio::join!(host.send(get("http://test/users")), host.send(get("http://test/users")));
    let [one, two] = [replies.0, replies.1].map(|reply| (reply.text, reply.headers["cache-status"].clone()));
    assert_eq!((one.0.as_str(), two.0.as_str()), ("abcd", "abcd"), "{one:?} {two:?}");
    assert!(two.1.to_str().unwrap().ends_with("collapsed"), "{two:?}");
}

/// A replica whose responses have only half of their bodies, until they are whole.
async fn respond(listener: TcpListener, is_whole: Arc<AtomicBool>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let is_whole = Arc::clone(&is_whole);
        tokio::spawn(async move {
            let mut head = Vec::new();
            while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                if head.ends_with(b"\r\n\r\n") {
                    head.clear();
                    let body = if is_whole.load(Relaxed) { "abcd" } else { "ab" };
                    let head = "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 4\r\n\r\n";
                    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
                }
            }
        });
    }
}
