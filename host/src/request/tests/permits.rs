//! Slots are returned however a request ends.

use std::time::{Duration, Instant};

use http::{Request, Version};
use http_body_util::BodyExt;

use super::fixture::{Fixture, get, read, until, with_body, within};
use crate::request::mirror::AnyBody;
use lodge_base::budget::Budget;

const CACHED: &str = "cache = true\nlimits = { in_flight = 1, queue = 0, wall = '1m' }";

/// A request over HTTP/2, whose response needs room in `listener.unsent`.
fn http2() -> Request<AnyBody> {
    let request = Request::get("http://test/users").version(Version::HTTP_2).body(()).unwrap();
    with_body(request, "")
}

/// A host with a stored response, and without room for it in `listener.unsent`.
async fn full(manifest: &str) -> Fixture {
    let mut host = Fixture::with(&[("users", manifest)]).await;
    host.store("http://test/users", "max-age=60", "stored").await;
    host.handler.unsent = Budget::new(0);
    host
}

#[tokio::test]
async fn a_cancelled_request_leaves_the_queue() {
    let host = Fixture::with(&[("users", "limits = { in_flight = 1, queue = 1, queue_wait = '1m' }")]).await;
    let held = host.target("users").admission.try_admit(Instant::now()).unwrap();
    let waiting = host.send(get("http://test/users"));
    let cancelled = tokio::time::timeout(Duration::from_millis(20), waiting).await;
    assert!(cancelled.is_err() && host.target("users").admission.queued() == 0);
    let (reply, ()) = tokio::join!(host.send(get("http://test/users")), async {
        until(|| host.target("users").admission.queued() == 1).await;
        drop(held);
    });
    assert_eq!((reply.status, reply.text.as_str()), (503, "no-replica"), "the slot went to the next request");
    assert!(host.is_idle());
}

/// A stored response that has no room in `listener.unsent` holds a slot until its last byte was taken.
#[tokio::test]
async fn a_stored_response_without_room_holds_a_slot() {
    let host = full(CACHED).await;
    let response = host.open(http2()).await;
    assert_eq!((response.status().as_u16(), host.target("users").admission.in_flight()), (200, 1));
    // There is no room for the text of the problem either.
    let refused = host.send(http2()).await;
    assert_eq!((refused.status, refused.text.as_str()), (503, ""));
    assert_eq!(host.refused("users"), [("queue-full", 1)]);
    assert_eq!(read(response).await.text, "stored");
    assert!(host.is_idle());
    // A client that disconnects returns it as well.
    drop(host.open(http2()).await);
    assert!(host.is_idle());
}

#[tokio::test]
async fn a_stored_response_ends_at_its_deadline() {
    let host = full("cache = true\nlimits.wall = '50ms'").await;
    let mut body = host.open(http2()).await.into_body();
    // The watchdog does not depend on a client that reads.
    until(|| host.is_idle()).await;
    let error = within(body.frame()).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "transfer aborted: the service took too long");
    drop(body);
    assert_eq!(host.service("users").metrics.aborted.read(), [("wall-time", 1)]);
}

/// With room in `listener.unsent` a complete response needs no slot.
#[tokio::test]
async fn a_stored_response_with_room_holds_no_slot() {
    let mut host = full(CACHED).await;
    host.handler.unsent = Budget::new(1 << 20);
    let response = host.open(http2()).await;
    assert!(host.is_idle() && host.handler.unsent.used() > 0);
    assert_eq!(read(response).await.text, "stored");
    assert_eq!(host.handler.unsent.used(), 0);
}
