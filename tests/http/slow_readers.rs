//! Promise: a client that does not read its responses occupies no slot of a service and no unbounded memory, and delays
//! no stop.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lodge::host::Ended;

use crate::caching::reuse::KEPT;
use crate::harness::far::before;
use crate::harness::{
    Habit, Narrow, Replica, Setup, TestHost, eventually, get, metric, scrape, unread, until, until_metric, wasm, within,
};

/// A response of every kind: complete, of a 0.2 and a 0.3 guest; stored; of a replica; a problem; streamed.
const KINDS: [&str; 6] = ["/cacheable?size=100", "/hello", KEPT, "/far", "/nothing", "/endless"];

/// The `limits.wall` of all services that a response can hold a slot of.
const WALL: Duration = Duration::from_secs(1);

/// A host with a service for each of them, with two slots each.
fn all(replica: &Replica) -> Setup {
    replica.set(Habit::Describe);
    let mut setup = before(&[replica], "").manifest("cacheable", "cache = true\nlimits = { in_flight = 2, queue = 0 }");
    for name in ["hello", "users", "endless"] {
        setup = setup.manifest(name, "limits = { in_flight = 2, queue = 0, wall = '1s' }");
    }
    for name in ["hello", "users", "endless", "cacheable"] {
        setup = setup.file(&format!("{name}.wasm"), &std::fs::read(wasm(name)).unwrap());
    }
    setup
}

/// What clients have not taken, in bytes.
const UNSENT: &str = "lodge_unsent_bytes";

/// Reads a body that must end in an error, `bytes` at a time, with `pause` in between.
async fn cut_off(mut body: h2::RecvStream, bytes: usize, pause: Duration) -> h2::Error {
    loop {
        match within(body.data()).await.expect("the response is not whole") {
            Ok(data) => {
                for _ in 0..data.len().div_ceil(bytes) {
                    tokio::time::sleep(pause).await;
                    let _ = body.flow_control().release_capacity(bytes.min(data.len()));
                }
            }
            Err(error) => return error,
        }
    }
}

/// A complete response frees its slot, even if its client keeps the window closed.
#[tokio::test(flavor = "multi_thread")]
async fn complete_responses_hold_no_slots() {
    let replica = Replica::start("one").await;
    let host = all(&replica).start().await;
    let mut clients = Vec::new();
    for path in KINDS.into_iter().filter(|path| *path != "/endless") {
        let mut client = Narrow::connect(host.address, 0).await;
        for _ in 0..6 {
            let response = client.get(path).await.unwrap();
            assert_eq!(response.status(), if path == "/nothing" { 404 } else { 200 }, "{path}");
            clients.push((response, None));
        }
        clients.last_mut().unwrap().1 = Some(client);
        assert_ne!(host.get(path).await.status, 503, "{path}: a client that does not read holds its places");
    }
    assert!(metric(host.admin, UNSENT).await > 0.0, "what they have not taken counts");
    drop(clients);
    until_metric(host.admin, UNSENT, 0).await;
}

/// If `listener.unsent` has no space for complete responses, they hold their slots as long as streamed ones.
#[tokio::test(flavor = "multi_thread")]
async fn slots_are_freed_within_wall() {
    for (path, unsent) in [("/hello", "0"), ("/users", "0"), (KEPT, "0"), ("/endless", "64MiB")] {
        let replica = Replica::start("one").await;
        let cacheable = "cache = true\nlimits = { in_flight = 2, queue = 0, wall = '1s' }";
        let host = all(&replica).manifest("cacheable", cacheable).set("listener.unsent", unsent).start().await;
        if path == KEPT {
            assert_eq!(host.get(path).await.status, 200, "the response is stored");
        }
        for window in [0, 1] {
            let mut client = Narrow::connect(host.address, window).await;
            let start = Instant::now();
            let _held = [client.get(path).await.unwrap(), client.get(path).await.unwrap()];
            let status = if path == KEPT {
                let mut other = Narrow::connect(host.address, 0).await;
                other.get(path).await.unwrap().status().as_u16()
            } else {
                host.get(path).await.status
            };
            // On a busy machine the first slot may be free before the third request is sent.
            let held = unsent == "0" && start.elapsed() < WALL;
            assert!(!held || status == 503, "{path}: {status}, although both slots are taken");
            until_served(&host, path).await;
        }
    }
}

/// Waits until a client that reads gets the response.
async fn until_served(host: &TestHost, path: &str) {
    let is_served = async || {
        let mut honest = Narrow::connect(host.address, 65_535).await;
        honest.get(path).await.unwrap().status() == 200
    };
    eventually(&format!("{path} has a free slot"), is_served).await;
}

/// A stored response and a problem have no slot that they could keep: they take one, or go without a body.
#[tokio::test(flavor = "multi_thread")]
async fn without_space_nothing_accumulates() {
    let replica = Replica::start("one").await;
    let host = all(&replica).set("listener.unsent", "0").start().await;
    let mut client = Narrow::connect(host.address, 0).await;
    let first = client.get(KEPT).await.unwrap();
    until("all files are processed", || host.current.snapshot().complete).await;
    let mut given = vec![first];
    let refused = loop {
        let response = client.get(KEPT).await.unwrap();
        if response.status() != 200 {
            break response;
        }
        given.push(response);
        assert!(given.len() <= 2, "more responses wait than the service has slots");
    };
    assert_eq!((refused.status().as_u16(), refused.body().is_end_stream()), (503, true));
    let problem = client.get("/nothing").await.unwrap();
    assert_eq!((problem.status().as_u16(), problem.body().is_end_stream()), (404, true));
    assert_eq!(get(host.address, "/nothing").await.problem(), "no-route", "over HTTP/1.1 it is buffered anyway");
}

/// Unread responses of services do not affect the admin listener.
#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_has_its_own_budget() {
    let replica = Replica::start("one").await;
    let host = all(&replica).set("listener.unsent", "0").start().await;
    let mut operator = Narrow::connect(host.admin, 0).await;
    for path in ["/metrics", "/v1/services", "/"] {
        let response = operator.get(path).await.unwrap();
        assert_eq!((response.status().as_u16(), response.body().is_end_stream()), (200, false), "{path}");
    }
}

/// The transfers that broke off, by service and reason.
async fn aborted(host: &TestHost) -> BTreeMap<String, f64> {
    let mut all = scrape(host.admin).await;
    all.retain(|name, count| name.starts_with("lodge_transfers_aborted_total{") && *count > 0.0);
    all
}

/// Only the stalled stream is reset; the connection continues.
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_stream_is_reset() {
    let replica = Replica::start("one").await;
    let host = all(&replica).set("listener.idle", "400ms").start().await;
    let mut client = Narrow::connect(host.address, 0).await;
    for path in KINDS {
        let response = client.get(path).await.unwrap();
        let error = cut_off(response.into_body(), 1, Duration::ZERO).await;
        assert_eq!(error.reason(), Some(h2::Reason::CANCEL), "{path}: {error}");
        assert!(error.is_reset(), "{path}: {error}");
    }
    let all = KINDS.len() as f64;
    until_metric(host.admin, "lodge_stalled_responses_total", all).await;
    eventually("all are counted", async || aborted(&host).await.values().sum::<f64>() == all).await;
    let aborted = aborted(&host).await;
    assert!(aborted.keys().all(|name| name.contains("reason=\"client-stalled\"")), "{aborted:?}");
    until_metric(host.admin, UNSENT, 0).await;
    until("the idle connection is closed", || client.is_over()).await;
}

/// A window that opens byte by byte counts as closed: the client has to read 16 KiB within `listener.idle`.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_opens_byte_by_byte_is_stalled() {
    let replica = Replica::start("one").await;
    let host = all(&replica).set("listener.idle", "400ms").start().await;
    for path in KINDS {
        let mut client = Narrow::connect(host.address, 1).await;
        let response = client.get(path).await.unwrap();
        cut_off(response.into_body(), 1, Duration::from_millis(300)).await;
    }
    until_metric(host.admin, UNSENT, 0).await;
    until_metric(host.admin, "lodge_connections", 0).await;
}

/// A slow but steady client gets the whole response, even if that takes longer than `listener.idle`.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_gets_everything() {
    let replica = Replica::start("one").await;
    let host = all(&replica).set("listener.idle", "3s").start().await;
    let mut client = Narrow::connect(host.address, 16 << 10).await;
    let size = 1_280 << 10;
    let mut body = client.get(&format!("/cacheable?size={}", size - 16)).await.unwrap().into_body();
    let (mut taken, start) = (0, Instant::now());
    while let Some(data) = within(body.data()).await {
        let data = data.expect("the response is not cut off");
        taken += data.len();
        tokio::time::sleep(Duration::from_millis(60)).await;
        let _ = body.flow_control().release_capacity(data.len());
    }
    assert_eq!(taken, size);
    assert!(start.elapsed() > Duration::from_secs(3), "not slow enough to tell");
}

/// Over HTTP/1.1 the connection is closed.
#[tokio::test(flavor = "multi_thread")]
async fn stalled_http1_connections_are_closed() {
    let replica = Replica::start("one").await;
    // The guest's time is longer than the test: the stream ends because its client does not read.
    let endless = "limits = { in_flight = 2, queue = 0, wall = '300s' }";
    let host = all(&replica).manifest("endless", endless).set("listener.idle", "700ms").start().await;
    let mut clients = Vec::new();
    for path in KINDS {
        clients.push(unread(host.address, path).await);
        let honest = host.get(if path == "/endless" { "/cacheable?size=1" } else { path }).await;
        assert_ne!(honest.status, 503, "{path}: a client that does not read holds its places");
    }
    until_metric(host.admin, "lodge_connections", 0).await;
    let counted = async |reason: &str| {
        let aborted = aborted(&host).await;
        aborted.keys().any(|name| name.contains("service=\"endless\"") && name.contains(reason))
    };
    eventually("it is counted", async || counted("client-stalled").await).await;
    assert!(!counted("wall-time").await);
}

/// A stop ends in time, whatever clients do not read.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_in_time() {
    for window in [0, 1] {
        let replica = Replica::start("one").await;
        // Both are longer than the test: the stop ends the wait.
        let setup = all(&replica).set("listener.idle", "1h").set("stop.grace", "1h");
        let host = setup.start().await;
        let mut clients = Vec::new();
        for path in KINDS {
            let mut client = Narrow::connect(host.address, window).await;
            let response = client.get(path).await.unwrap();
            clients.push((client, response));
        }
        clients.reverse();
        let slow = clients.pop().map(|(client, response)| {
            tokio::spawn(async move {
                let _client = client;
                cut_off(response.into_body(), 1, Duration::from_secs(1)).await
            })
        });
        assert_eq!(host.ended().await, Ended::Drained, "window {window}");
        slow.into_iter().for_each(|slow| slow.abort());
    }
}
