//! Promise: every version of a service gets its share of the requests, a failing one is withdrawn, and no request is
//! lost.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body::Frame;

use crate::harness::{Connection, TestHost, fed, get, host, metric, until, until_metric, wasm, within};

/// The component that responds with this number.
pub(crate) fn version(number: u32) -> Vec<u8> {
    let (mut bytes, marker) = (fs::read(wasm("version")).unwrap(), b"version-00000000");
    let at = bytes.windows(marker.len()).position(|window| window == marker).expect("the marker is in the file");
    bytes[at..at + marker.len()].copy_from_slice(format!("version-{number:08}").as_bytes());
    bytes
}

/// The number in a response, which contains it twice.
fn number(text: &str) -> u32 {
    let (first, second) = text.split_at(text.len() / 2);
    assert_eq!(first, second, "two versions in one response");
    first.trim_start_matches("version-").parse().unwrap_or_else(|_| panic!("no version: {text}"))
}

pub(crate) async fn asked(client: &mut Connection, path: &str, headers: &[(&str, &str)]) -> u32 {
    let response = within(client.ask(Method::GET, path, headers, "")).await;
    assert_eq!(response.status, 200, "{response:?}");
    number(&response.text())
}

async fn counted(host: &TestHost, requests: usize) -> BTreeMap<u32, usize> {
    let (mut client, mut counts) = (host.connect().await, BTreeMap::new());
    for _ in 0..requests {
        *counts.entry(asked(&mut client, "/users", &[]).await).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_get_their_shares() {
    let host = host(&[])
        .file("users.wasm", &version(1))
        .file("users@2.wasm", &version(2))
        .manifest("users@2", "percent = 25\nmatch = [\"header:x-version=2\", \"cookie:version=2\"]")
        .file("users@3.wasm", &version(3))
        .start()
        .await;
    assert_eq!(host.refusals(), Vec::<String>::new());
    let counts = counted(&host, 400).await;
    assert_eq!(counts.values().sum::<usize>(), 400);
    assert!(counts[&2].abs_diff(100) <= 4, "{counts:?}");
    assert_eq!(counts.get(&3), None, "a version without a manifest gets nothing: {counts:?}");
    let mut client = host.connect().await;
    for headers in [("x-version", "2"), ("cookie", "a=b; version=2")] {
        for _ in 0..10 {
            assert_eq!(asked(&mut client, "/users", &[headers]).await, 2);
        }
    }
    // Each version can be reached before it gets a share.
    assert_eq!(asked(&mut client, "/", &[("host", "3.users.localhost")]).await, 3);
    assert_eq!(asked(&mut client, "/", &[("host", "2.users.localhost")]).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_keeps_its_version_on_every_connection() {
    let host = host(&[])
        .file("users.wasm", &version(1))
        .manifest("users", "sticky = \"header:x-user\"")
        .file("users@2.wasm", &version(2))
        .manifest("users@2", "percent = 50")
        .start()
        .await;
    let (mut first, mut second) = (host.connect().await, host.connect().await);
    let mut seen = BTreeMap::<u32, usize>::new();
    for user in 0..40 {
        let user = format!("user-{user}");
        let got = asked(&mut first, "/users", &[("x-user", &user)]).await;
        assert_eq!(asked(&mut second, "/users", &[("x-user", &user)]).await, got, "{user}");
        assert_eq!(asked(&mut first, "/users", &[("x-user", &user)]).await, got, "{user}");
        *seen.entry(got).or_default() += 1;
    }
    assert!(seen.values().all(|users| *users >= 8) && seen.len() == 2, "{seen:?}");
}

/// Versions are added, grow, are promoted and removed while clients send requests.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_during_rollouts() {
    let host = host(&[]).file("users.wasm", &version(1)).start().await;
    let (stop, responses) = (Arc::new(AtomicBool::new(false)), Arc::new([const { AtomicUsize::new(0) }; 3]));
    let clients = (0..4).map(|n| {
        let (stop, responses, address) = (Arc::clone(&stop), Arc::clone(&responses), host.address);
        tokio::spawn(async move {
            let mut client =
                if n % 2 == 0 { Connection::http1(address).await } else { Connection::http2(address).await };
            let mut counts = BTreeMap::<u32, usize>::new();
            while !stop.load(Relaxed) {
                let version = asked(&mut client, "/users", &[]).await;
                responses[version as usize].fetch_add(1, Relaxed);
                *counts.entry(version).or_default() += 1;
            }
            counts
        })
    });
    let clients: Vec<_> = clients.collect();
    let put = |name: &str, bytes: &[u8]| {
        let partial = host.directory().join(format!(".{name}.new"));
        fs::write(&partial, bytes).unwrap();
        fs::rename(partial, host.directory().join(name)).unwrap();
    };
    let names = || {
        let snapshot = host.current.snapshot();
        snapshot.targets.iter().map(|target| target.deployment().name.to_string()).collect::<Vec<_>>()
    };
    let share = || {
        let snapshot = host.current.snapshot();
        snapshot.target("users@2").and_then(|target| Some(target.deployment().spec.manifest.share.as_ref()?.percent.0))
    };
    put("users@2.wasm", &version(2));
    for percent in [10, 50, 100] {
        put("users@2.toml", format!("percent = {percent}").as_bytes());
        until("the version has its share", || share() == Some(percent * 100)).await;
        // Of all clients: draws alternate between versions, so one client among several may meet another share.
        let seen = || (responses[1].load(Relaxed), responses[2].load(Relaxed));
        let before = seen();
        let own = counted(&host, 100).await;
        let after = seen();
        let (one, two) = (after.0 - before.0, after.1 - before.1 + own.get(&2).copied().unwrap_or(0));
        let all = one + two + own.get(&1).copied().unwrap_or(0);
        let wanted = all * percent as usize / 100;
        assert!(two.abs_diff(wanted) <= 5 + all / 50, "{two} of {all} at {percent} %");
    }
    // Promoted: the version becomes the service.
    fs::rename(host.directory().join("users@2.wasm"), host.directory().join("users.wasm")).unwrap();
    fs::remove_file(host.directory().join("users@2.toml")).unwrap();
    until("only the service is left", || names() == ["users"]).await;
    assert_eq!(counted(&host, 20).await, BTreeMap::from([(2, 20)]));
    stop.store(true, Relaxed);
    for client in clients {
        let counts = within(client).await.expect("every request succeeds");
        assert!(counts.contains_key(&1) && counts.contains_key(&2), "{counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_version_is_withdrawn() {
    let host = host(&["hello"])
        .named("panic", "hello@bad")
        .manifest("hello@bad", "percent = 50\n[rollback]\nminimum = 20\np99 = 10")
        .start()
        .await;
    let mut client = host.connect().await;
    let withdrawn = || {
        let snapshot = host.current.snapshot();
        snapshot.target("hello@bad").is_some_and(|target| target.deployment().withdrawn().is_some())
    };
    let mut failed = 0;
    while !withdrawn() {
        failed += usize::from(client.get("/hello").await.status == 502);
        assert!(failed < 5_000, "it is never withdrawn");
    }
    for _ in 0..200 {
        assert_eq!(client.get("/hello").await.status, 200);
    }
    // The reason is reported, and the version stays withdrawn.
    let report = get(host.admin, "/v1/services").await.text();
    assert!(report.contains("\"withdrawn\""), "{report}");
    until_metric(host.admin, "lodge_version_withdrawn{service=\"hello@bad\"}", 1).await;
    // An edit of the service's manifest does not change the version's files.
    fs::write(host.directory().join("hello.toml"), "[limits]\nin_flight = 100").unwrap();
    until("the limit is in force", || {
        host.current.snapshot().target("hello@bad").is_some_and(|target| target.deployment().limits().in_flight == 100)
    })
    .await;
    assert!(withdrawn());
    // New files are a new chance.
    fs::copy(wasm("hello"), host.directory().join("hello@bad.wasm")).unwrap();
    until("the repaired version gets requests", || !withdrawn()).await;
    for _ in 0..200 {
        assert_eq!(client.get("/hello").await.status, 200);
    }
    assert!(!withdrawn());
}

/// Clients that select a version, send bodies slowly or break them off do not cause its withdrawal.
#[tokio::test(flavor = "multi_thread")]
async fn clients_cannot_withdraw_a_version() {
    // How long a request takes varies on a busy machine, but not tenfold.
    let rule = "percent = 50\n[rollback]\nminimum = 20\np99 = 10";
    let host = host(&["status"]).named("status", "status@2").manifest("status@2", rule).start().await;
    let mut client = host.connect().await;
    for _ in 0..100 {
        assert_eq!(client.get("/status/200").await.status, 200);
    }
    let own = [("host", "2.status.localhost")];
    for _ in 0..40 {
        assert_eq!(client.ask(Method::GET, "/status/500", &own, "").await.status, 500);
    }
    let slowly = |name: &'static str| {
        let address = host.address;
        async move {
            let mut client = Connection::http1(address).await;
            let (feed, body) = fed();
            let request = Request::post("/status/200").header("host", name).body(body).unwrap();
            let feeding = async move {
                tokio::time::sleep(Duration::from_secs(2)).await;
                feed.send(Frame::data(Bytes::from_static(b"slowly"))).await.unwrap();
            };
            tokio::join!(client.send(request), feeding).0.unwrap().status()
        }
    };
    let names = (0..40).map(|n| if n % 2 == 0 { "2.status.localhost" } else { "status.localhost" });
    let slow: tokio::task::JoinSet<_> = names.map(slowly).collect();
    assert!(within(slow.join_all()).await.iter().all(|status| *status == 200));
    let reviewed = || {
        let snapshot = host.current.snapshot();
        lodge::guests::rollout::review(&snapshot);
        snapshot.target("status@2").unwrap().deployment().withdrawn().map(str::to_owned)
    };
    assert_eq!(reviewed(), None);
}

/// A version without `rollback`, or one that is as good as its service, is not withdrawn.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_no_worse_stays() {
    let host = host(&[])
        .named("panic", "broken")
        .named("panic", "broken@2")
        // How long a request takes varies on a busy machine.
        .manifest("broken@2", "percent = 50\n[rollback]\nminimum = 10\np99 = 100")
        .start()
        .await;
    let mut client = host.connect().await;
    for _ in 0..100 {
        assert_eq!(client.get("/broken").await.status, 502);
    }
    // Two reviews.
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    assert!(host.current.snapshot().target("broken@2").unwrap().deployment().withdrawn().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_versions_are_refused_with_reasons() {
    let host = host(&["hello"])
        .named("hello", "hello@a")
        .manifest("hello@a", "percent = 60")
        .named("hello", "hello@b")
        .manifest("hello@b", "percent = 50")
        .named("hello", "nobody@2")
        .named("hello", "hello@")
        .named("hello", "hello@c")
        .manifest("hello@c", "routes = [\"/c\"]")
        .start()
        .await;
    let refusals = host.refusals().join("\n");
    for wanted in [
        "hello@b.wasm: it wants 50% of the requests, but other versions leave 40%",
        "nobody@2.wasm: it is a version of nobody, which is not served",
        "hello@.wasm: its name is not valid for a service",
        "hello@c.toml: line 1: routes: a version cannot set this",
    ] {
        assert!(refusals.contains(wanted), "{wanted} is not in\n{refusals}");
    }
    assert_eq!(host.get("/hello").await.status, 200);
}

/// A disabled version gets nothing. Disabling the service disables all of its versions.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_can_be_disabled() {
    let host = host(&["hello"]).named("panic", "hello@2").manifest("hello@2", "percent = 100").start().await;
    let disable = |name: &str, disabled| {
        host.current.snapshot().target(name).unwrap().deployment().service.set_disabled(disabled);
    };
    assert_eq!(host.get("/hello").await.status, 502);
    disable("hello@2", true);
    assert_eq!(host.get("/hello").await.status, 200);
    disable("hello@2", false);
    disable("hello", true);
    assert_eq!(host.get("/hello").await.problem(), "disabled");
    let mut client = host.connect().await;
    let own = client.ask(Method::GET, "/", &[("host", "2.hello.localhost")], "").await;
    assert_eq!(own.problem(), "disabled");
}

/// Removing the files one by one is not reported as a problem, although the host scans in between.
#[tokio::test(flavor = "multi_thread")]
async fn removing_a_version_by_hand_is_not_a_problem() {
    let host = host(&["hello"]).named("hello", "hello@2").manifest("hello@2", "percent = 50").start().await;
    // The files have been unchanged for a while.
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    fs::remove_file(host.directory().join("hello@2.wasm")).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    fs::remove_file(host.directory().join("hello@2.toml")).unwrap();
    until("the version is removed", || host.current.snapshot().target("hello@2").is_none()).await;
    assert_eq!(metric(host.admin, "lodge_reload_failures_total").await, 0.0);
}

pub(crate) const ELSEWHERE: &str = "[upstream]\nreplicas = [\"http://127.0.0.1:9\"]";

/// The number of responses of a version, and the bytes of requests that it read.
fn did(host: &TestHost, name: &str) -> (u64, u64) {
    let snapshot = host.current.snapshot();
    let metrics = &snapshot.target(name).unwrap().deployment().service.metrics;
    (metrics.requests(), metrics.received.load(Relaxed))
}

/// A mirrored version gets complete copies of requests, and cannot affect clients.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_gets_copies() {
    let host = host(&["echo"])
        .named("echo", "echo@new")
        .manifest("echo@new", "mirror = 100")
        .named("spin", "hello@new")
        .named("hello", "hello")
        .manifest("hello@new", "mirror = \"100%\"\n[limits]\nin_flight = 2\nwall = \"30s\"\ncpu = \"30s\"")
        .start()
        .await;
    assert_eq!(host.refusals(), Vec::<String>::new());
    let (mut client, body) = (host.connect().await, "x".repeat(100_000));
    for _ in 0..20 {
        let response = within(client.ask(Method::POST, "/echo", &[], &body)).await;
        assert_eq!((response.status, response.body.len()), (200, body.len()));
        assert_eq!(within(client.get("/echo")).await.status, 200);
    }
    until("the copies have ended", || did(&host, "echo@new").0 == 40 && did(&host, "echo@new") == did(&host, "echo"))
        .await;
    // The mirror is busy in all of its slots; the service has its own.
    for _ in 0..100 {
        assert_eq!(within(client.get("/hello")).await.status, 200);
    }
    let snapshot = host.current.snapshot();
    let metrics = &snapshot.target("hello@new").unwrap().deployment().service.metrics;
    until("most copies have found no place", || metrics.refused.sum() >= 90).await;
    // A copy that is dropped for lack of a slot is not a failure of the version.
    assert!(metrics.errors() <= 10, "{} errors", metrics.errors());
}
