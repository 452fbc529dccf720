//! A mirrored copy costs its request nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fixture::{CLIENT, Fixture, get, until};
use crate::request::mirror;
use lodge_base::budget::Budget;
use lodge_base::telemetry::metrics::judged::JudgedCounts;
use lodge_runtime::capabilities::sandbox::RequestContext;

const SERVICE: &str = "limits = { in_flight = 1, queue = 0 }";

/// Sends a copy to the version `users@new`.
async fn copy(host: &Fixture) {
    copy_within(host, Duration::from_secs(60)).await;
}

async fn copy_within(host: &Fixture, left: Duration) {
    let context = RequestContext::new("1".into(), Instant::now() + left);
    let target = (host.target("users@new"), Arc::from("/users"), true);
    mirror::run(target, get("http://test/users"), CLIENT, context, Budget::new(1 << 20)).await;
}

/// A copy takes a slot of its version's own, and none of those for clients. Without a free one it is dropped.
#[tokio::test]
async fn a_copy_takes_no_slot_of_clients() {
    let host = Fixture::with(&[("users", SERVICE), ("users@new", "mirror = '100%'")]).await;
    let refused = || host.refused("users@new");
    let held = host.target("users").admission.try_admit(Instant::now()).unwrap();
    copy(&host).await;
    assert_eq!(refused(), [("no-replica", 1)], "the copy was admitted beside the client's request");
    drop(held);
    let version = host.target("users@new");
    let shadow = version.shadow.as_ref().unwrap();
    let held: Vec<_> = (0..shadow.slots()).map_while(|_| shadow.try_admit(Instant::now()).ok()).collect();
    copy(&host).await;
    assert_eq!(refused().iter().map(|(_, count)| count).sum::<u64>(), 2, "{:?}", refused());
    assert_eq!(refused().iter().find(|(reason, _)| *reason == "no-replica"), Some(&("no-replica", 1)));
    drop(held);
    assert_eq!(shadow.in_flight(), 0);
    assert!(host.is_idle());
}

/// The client's response comes from the service, whatever the copy does.
#[tokio::test]
async fn a_mirrored_request_is_one_request() {
    let host = Fixture::with(&[("users", ""), ("users@new", "mirror = '100%'")]).await;
    let reply = host.send(get("http://test/users")).await;
    assert_eq!((reply.status, reply.text.as_str()), (503, "no-replica"));
    until(|| host.refused("users@new") == [("no-replica", 1)]).await;
    assert_eq!(host.refused("users"), [("no-replica", 1)]);
    until(|| host.is_idle()).await;
}

/// A copy has the time of its request. Whoever cuts that short does not make the version fail.
#[tokio::test]
async fn a_short_time_is_no_failure_of_the_version() {
    // It takes connections and responds to none.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let new = format!("mirror = '100%'\n[upstream]\nreplicas = ['{url}']\nretry.attempts = 0");
    let host = Fixture::with(&[("users", ""), ("users@new", &new)]).await;
    let errors = || host.service("users@new").metrics.judged.window(&JudgedCounts::default()).errors;
    copy_within(&host, Duration::ZERO).await;
    assert_eq!((errors(), host.refused("users@new")), (0, vec![("caller-deadline", 1)]));
    drop(silent);
    copy_within(&host, Duration::ZERO).await;
    assert_eq!(errors(), 1, "a replica that is gone is no lateness");
}
