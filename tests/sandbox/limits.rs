//! Promise: a guest that exceeds a limit is stopped in time, with the status of the table, while other guests of the
//! host keep responding.

use std::time::{Duration, Instant};

use http::Method;

use crate::harness::{Connection, Neighbour, TestHost, eventually, host, metric, until};

const CPU: Duration = Duration::from_secs(1);
const WALL: Duration = Duration::from_secs(3);

async fn bad_company(names: &[&str]) -> TestHost {
    let mut all = vec!["hello"];
    all.extend(names);
    let mut host = host(&all).set("limits.cpu", "1s").set("limits.wall", "5m").set("limits.memory", "64MiB");
    // On a machine with little CPU time, others would reach it before their own limit.
    for slow in names.iter().filter(|name| name.starts_with("sleeper") || name.starts_with("endless")) {
        host = host.manifest(slow, "limits.wall = '3s'");
    }
    host.start().await
}

/// Sends a request, and checks status and reason: of the limits that apply, this one has ended it.
async fn check(host: &TestHost, path: &str, status: u16, reason: &str) {
    let neighbour = Neighbour::of(host);
    for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
        let response = client.ask(Method::POST, path, &[], "a body that nobody reads").await;
        assert_eq!((response.status, response.problem().as_str()), (status, reason), "{path}: {}", response.text());
    }
    assert!(neighbour.responses().await > 0, "{path} starved its neighbour");
}

#[tokio::test(flavor = "multi_thread")]
async fn time_is_bounded() {
    let host = bad_company(&["spin", "spin3", "sleeper", "sleeper3"]).await;
    for name in ["spin", "spin3"] {
        check(&host, &format!("/{name}"), 504, "cpu-time").await;
        // Other programs on the machine make them slower, but use nothing of their CPU time.
        let used = metric(host.admin, &format!("lodge_guest_cpu_seconds_total{{service=\"{name}\"}}")).await;
        let limit = 2.0 * CPU.as_secs_f64();
        assert!(used > 0.9 * limit && used < 1.5 * limit, "{name} has used {used} s in two requests");
    }
    for name in ["sleeper", "sleeper3"] {
        let start = Instant::now();
        check(&host, &format!("/{name}"), 504, "wall-time").await;
        assert!(start.elapsed() >= 2 * WALL, "{name} has had {:?} for two requests", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_stack_are_bounded() {
    let host = bad_company(&["bloat", "recurse", "trap", "panic", "silent", "exits"]).await;
    check(&host, "/bloat", 502, "over-memory").await;
    check(&host, "/recurse", 502, "trapped").await;
    check(&host, "/trap", 502, "trapped").await;
    check(&host, "/panic", 502, "trapped").await;
    check(&host, "/silent", 502, "no-answer").await;
    check(&host, "/exits", 502, "trapped").await;
}

/// After the head was sent, an error can only break the transfer off.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_after_the_head_breaks_the_transfer() {
    let host = bad_company(&["cutoff", "cutoff3", "endless", "endless3"]).await;
    let neighbour = Neighbour::of(&host);
    for name in ["cutoff", "cutoff3"] {
        for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
            let response = client.get(&format!("/{name}")).await;
            assert_eq!(
                (response.status, response.text().as_str(), response.broken),
                (200, "the first half, ", true),
                "{name}"
            );
        }
        let raw = crate::harness::raw(host.address, &format!("GET /{name} HTTP/1.1\r\nhost: h\r\n\r\n")).await;
        assert!(raw.contains("the first half") && !raw.ends_with("0\r\n\r\n"), "a last chunk was sent: {raw:?}");
    }
    for name in ["endless", "endless3"] {
        for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
            let response = client.get(&format!("/{name}")).await;
            assert!(response.broken && response.status == 200 && !response.body.is_empty(), "{name}");
        }
    }
    assert!(neighbour.responses().await > 0);
}

/// A client that reads nothing holds a guest no longer than the guest's own limits.
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_reader_holds_a_guest_within_its_limits() {
    let limits = "limits = { in_flight = 1, queue = 0, wall = '1s', cpu = '1s' }";
    let host = host(&["endless", "endless3"]).manifest("endless", limits).manifest("endless3", limits).start().await;
    for name in ["endless", "endless3"] {
        for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
            let body = http_body_util::BodyExt::boxed_unsync(http_body_util::Empty::new());
            let request = http::Request::get(format!("/{name}")).body(body).unwrap();
            let start = Instant::now();
            let stalled = client.send(request).await.unwrap();
            let status = host.get(&format!("/{name}")).await.status;
            // On a busy machine its second may be over already.
            assert!(status == 503 || start.elapsed() > Duration::from_secs(1), "its slot is taken: {status}");
            // The same request is admitted as soon as the slot is free; its response need not be read either.
            let head = format!("HEAD /{name} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
            let admitted = async || !crate::harness::raw(host.address, &head).await.starts_with("HTTP/1.1 503");
            eventually(&format!("{name} is not held"), admitted).await;
            drop(stalled);
            // The guest of the HEAD has the slot for its own second.
            let is_free = async || host.get(&format!("/{name}")).await.status != 503;
            eventually(&format!("HEAD does not hold {name}"), is_free).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_but_harmless_guests() {
    let host = bad_company(&["deaf", "noisy", "header", "afterwork"]).await;
    let neighbour = Neighbour::of(&host);
    for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
        let big = "x".repeat(1 << 20);
        assert_eq!(client.ask(Method::POST, "/deaf", &[], &big).await.text(), "not listening");
    }
    assert_eq!(host.get("/noisy").await.text(), "quiet now");
    assert_eq!(host.get("/header").await.text(), "5 refused");
    assert!(neighbour.responses().await > 0);
}

/// Work after the response continues without the client, holds its slot, and ends with its time.
#[tokio::test(flavor = "multi_thread")]
async fn work_after_the_response() {
    let host = host(&["afterwork"])
        .manifest("afterwork", "limits = { in_flight = 1, queue = 0, wall = '4s', cpu = '4s' }")
        .start()
        .await;
    let in_flight = || host.current.snapshot().target("afterwork").unwrap().admission.in_flight();
    // Two seconds, and ten minutes, of which it gets four seconds.
    for (path, least) in [("/afterwork/2000", 2), ("/afterwork/600000", 4)] {
        let start = Instant::now();
        assert_eq!(host.get(path).await.text(), "answered");
        assert_eq!(in_flight(), 1, "the client waited for it: {:?}", start.elapsed());
        assert_eq!(host.get("/afterwork/0").await.status, 503);
        until("the slot is free", || in_flight() == 0).await;
        assert!(start.elapsed() >= Duration::from_secs(least), "{path} held {:?}", start.elapsed());
        assert_eq!(host.get("/afterwork/0").await.status, 200);
        until("the slot is free again", || in_flight() == 0).await;
    }
}
