//! Promise: a service that fails gets no requests until it may have recovered, and only its own failures count.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body::Frame;

use crate::harness::{eventually, fed, get, host, raw, until, until_metric, wasm};
use crate::policies::admission::{policies, refused};

/// A failing guest gets no more requests from any client. An edit does not close the breaker; another component does.
#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_opens_and_closes() {
    let breaker = "breaker = { calls = 4, open = '1h' }";
    let host = host(&["trap"]).named("trap", "fails").manifest("fails", breaker).start().await;
    for _ in 0..4 {
        assert_eq!(refused(&host.get("/fails").await), (502, "trapped".into()));
    }
    let open = host.get("/fails").await;
    assert_eq!(refused(&open), (503, "breaker-open".into()));
    let wait: u32 = open.header("retry-after").parse().unwrap();
    assert!((3500..=3600).contains(&wait), "{wait}");
    until_metric(host.admin, r#"lodge_breaker_state{service="fails"}"#, 2).await;
    let state = policies(&host, "fails").await[0]["state"].as_str().unwrap().to_owned();
    assert!(state.starts_with("open;"), "{state}");
    host.edit("fails", &format!("{breaker}\nenv.A = 'b'")).await;
    assert_eq!(host.get("/fails").await.status, 503);
    host.replace("fails", &std::fs::read(wasm("hello")).unwrap()).await;
    assert_eq!(host.get("/fails").await.status, 200, "a repaired service gets requests at once");
    until_metric(host.admin, r#"lodge_breaker_state{service="fails"}"#, 0).await;
}

/// A half-open breaker probes the service. Statuses of the guest count, those for mistakes of clients do not.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_breaker_probes() {
    let breaker = "breaker = { calls = 3, failures = '100%', open = '2s', probes = 1 }";
    let host = host(&["status"]).manifest("status", breaker).start().await;
    let status = async |path: &str| host.get(path).await.status;
    for _ in 0..5 {
        assert_eq!(status("/status/404").await, 404);
    }
    // The window contains five good calls, so none of these opens it; a new component has an empty window.
    assert_eq!((status("/status/500").await, status("/status/500").await), (500, 500));
    host.edit("status", &format!("{breaker}\nenv.A = 'b'")).await;
    assert_eq!(status("/status/200").await, 200);
    let host = crate::harness::host(&["status"]).manifest("status", breaker).start().await;
    let status = async |path: &str| host.get(path).await.status;
    for _ in 0..3 {
        assert_eq!(status("/status/500").await, 500);
    }
    let opened = Instant::now();
    until_metric(host.admin, r#"lodge_breaker_state{service="status"}"#, 2).await;
    assert_eq!(refused(&host.get("/status/200").await), (503, "breaker-open".into()));
    eventually("it probes", async || status("/status/200").await == 200).await;
    assert!(opened.elapsed() >= Duration::from_secs(1), "it probed too soon");
    assert_eq!(status("/status/200").await, 200, "a good probe closes it");
}

/// A client that leaves, or sends its body slowly, is not a failure of the service.
#[tokio::test(flavor = "multi_thread")]
async fn clients_do_not_open_a_breaker() {
    let manifest = "breaker = { calls = 1, failures = '1%', open = '1h' }\nlimits = { wall = '4s', cpu = '4s' }";
    let host = host(&["status", "sleeper"]).manifest("status", manifest).manifest("sleeper", manifest).start().await;
    let half = "POST /status/200 HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\nconnection: close\r\n\r\n12345";
    let late = raw(host.address, half).await;
    assert!(late.starts_with("HTTP/1.1 408 ") && late.contains("body-late"), "{late}");
    // The host waits a second, in case the client has only closed its sending side.
    let leaving = tokio::spawn(get(host.address, "/sleeper"));
    let in_flight = || host.current.snapshot().targets.iter().map(|target| target.admission.in_flight()).sum::<usize>();
    until("its request runs", || in_flight() == 1).await;
    leaving.abort();
    until("its request has ended", || in_flight() == 0).await;
    for name in ["status", "sleeper"] {
        until_metric(host.admin, &format!(r#"lodge_breaker_state{{service="{name}"}}"#), 0).await;
    }
    assert_eq!(refused(&host.get("/sleeper").await), (504, "wall-time".into()));
    assert_eq!(refused(&host.get("/sleeper").await), (503, "breaker-open".into()));
}

/// Time in which a guest waits for the client's body does not count as the service's.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_is_not_a_slow_call() {
    let breaker = "breaker = { calls = 1, slow = '2s', open = '1h' }";
    let host = host(&["status"]).manifest("status", breaker).start().await;
    let mut client = host.connect().await;
    let (feed, body) = fed();
    let feeding = tokio::spawn(async move {
        for _ in 0..4 {
            feed.send(Frame::data(Bytes::from_static(b"slowly"))).await.unwrap();
            tokio::time::sleep(Duration::from_millis(800)).await;
        }
    });
    let (asked, request) = (Instant::now(), Request::post("/status/200").body(body).unwrap());
    assert_eq!(client.send(request).await.unwrap().status(), 200);
    assert!(asked.elapsed() >= Duration::from_millis(3_200), "the guest did not wait for the body");
    feeding.await.unwrap();
    assert_eq!(host.get("/status/200").await.status, 200);
}

/// A response that breaks off after its head is a failure.
#[tokio::test(flavor = "multi_thread")]
async fn broken_responses_open_a_breaker() {
    let host = host(&["cutoff"]).manifest("cutoff", "breaker = { calls = 4, open = '1h' }").start().await;
    for _ in 0..2 {
        let response = host.get("/cutoff").await;
        assert!(response.status == 200 && response.broken);
    }
    until("the host has counted it", || {
        let snapshot = host.current.snapshot();
        snapshot.targets[0].admission.in_flight() == 0
    })
    .await;
    assert_eq!(refused(&host.get("/cutoff").await), (503, "breaker-open".into()));
}
