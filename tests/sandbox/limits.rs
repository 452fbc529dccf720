//! Promise: a guest that exceeds a limit is stopped in time, with the status of the table, while other guests of the
//! host keep responding.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::Method;

use crate::harness::{Connection, Neighbour, TestHost, host};

const CPU: Duration = Duration::from_secs(1);
const WALL: Duration = Duration::from_secs(3);

async fn bad_company(names: &[&str]) -> TestHost {
    let mut all = vec!["hello"];
    all.extend(names);
    let mut host = host(&all).set("limits.cpu", "1s").set("limits.wall", "3s").set("limits.memory", "64MiB");
    // On a machine with little CPU time, these would reach their wall time first.
    for spins in names.iter().filter(|name| name.starts_with("spin")) {
        host = host.manifest(spins, "limits.wall = '30s'");
    }
    host.alone().start().await
}

/// Other programs on the machine make a try slower, never faster, so the best of these tries counts.
const TRIES: usize = 4;

/// A thread that wants a core of its own: how much of one it gets tells how busy the machine is.
struct Spinner(Arc<AtomicBool>, Option<std::thread::JoinHandle<f64>>);

impl Spinner {
    fn start() -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let spin = move || {
            let cpu = || Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime)).unwrap();
            let (start, before) = (Instant::now(), cpu());
            while !stopped.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
            start.elapsed().as_secs_f64() / (cpu() - before).as_secs_f64()
        };
        Self(stop, Some(std::thread::spawn(spin)))
    }

    /// Returns how much longer than its CPU time the thread has taken, at least 1.
    fn stop(mut self) -> f64 {
        self.0.store(true, Ordering::Relaxed);
        self.1.take().unwrap().join().unwrap().max(1.0)
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends a request, and checks status, reason, and that it took no longer than 1.5 times the `limit`. One of CPU time takes as much
/// longer as the machine is busy.
async fn check(host: &TestHost, path: &str, status: u16, reason: &str, limit: Duration) {
    let neighbour = Neighbour::of(host);
    for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
        let mut took = Duration::MAX;
        for _ in 0..TRIES {
            let (start, spinner) = (Instant::now(), (reason == "cpu-time").then(Spinner::start));
            let response = client.ask(Method::POST, path, &[], "a body that nobody reads").await;
            let busy = spinner.map_or(1.0, Spinner::stop);
            took = took.min(start.elapsed().div_f64(busy));
            assert_eq!((response.status, response.problem().as_str()), (status, reason), "{path}: {}", response.text());
            if took <= limit + limit / 2 {
                break;
            }
        }
        assert!(took <= limit + limit / 2, "{path} took {took:?}");
    }
    assert!(neighbour.responses().await > 0, "{path} starved its neighbour");
}

#[tokio::test(flavor = "multi_thread")]
async fn time_is_bounded() {
    let host = bad_company(&["spin", "spin3", "sleeper", "sleeper3"]).await;
    check(&host, "/spin", 504, "cpu-time", CPU).await;
    check(&host, "/spin3", 504, "cpu-time", CPU).await;
    check(&host, "/sleeper", 504, "wall-time", WALL).await;
    check(&host, "/sleeper3", 504, "wall-time", WALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_stack_are_bounded() {
    let host = bad_company(&["bloat", "recurse", "trap", "panic", "silent", "exits"]).await;
    check(&host, "/bloat", 502, "over-memory", WALL).await;
    check(&host, "/recurse", 502, "trapped", WALL).await;
    check(&host, "/trap", 502, "trapped", WALL).await;
    check(&host, "/panic", 502, "trapped", WALL).await;
    check(&host, "/silent", 502, "no-answer", WALL).await;
    check(&host, "/exits", 502, "trapped", WALL).await;
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
            let start = Instant::now();
            let response = client.get(&format!("/{name}")).await;
            assert!(response.broken && response.status == 200 && !response.body.is_empty(), "{name}");
            assert!(start.elapsed() <= WALL + WALL / 5, "{name} took {:?}", start.elapsed());
        }
    }
    assert!(neighbour.responses().await > 0);
}

/// A client that reads nothing holds a guest no longer than the guest's own limits.
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_reader_holds_a_guest_within_its_limits() {
    let limits = "limits = { in_flight = 1, queue = 0, wall = '1s', cpu = '1s' }";
    let host =
        host(&["endless", "endless3"]).manifest("endless", limits).manifest("endless3", limits).alone().start().await;
    for name in ["endless", "endless3"] {
        for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
            let body = http_body_util::BodyExt::boxed_unsync(http_body_util::Empty::new());
            let request = http::Request::get(format!("/{name}")).body(body).unwrap();
            let stalled = client.send(request).await.unwrap();
            let start = Instant::now();
            assert_eq!(host.get(&format!("/{name}")).await.status, 503, "its slot is taken");
            // The same request is admitted as soon as the slot is free; its response need not be read either.
            while crate::harness::raw(
                host.address,
                &format!("HEAD /{name} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"),
            )
            .await
            .starts_with("HTTP/1.1 503")
            {
                assert!(start.elapsed() < Duration::from_secs(3), "{name}: still held");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            drop(stalled);
            // The guest of the HEAD has the slot for its own second.
            while host.get(&format!("/{name}")).await.status == 503 {
                assert!(start.elapsed() < Duration::from_secs(6), "{name}: HEAD holds it");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
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
        .manifest("afterwork", "limits = { in_flight = 1, queue = 0, wall = '1s', cpu = '1s' }")
        .alone()
        .start()
        .await;
    for (path, least, most) in [("/afterwork/400", 300, 900), ("/afterwork/60000", 900, 1700)] {
        let start = Instant::now();
        assert_eq!(host.get(path).await.text(), "answered");
        assert!(start.elapsed() < Duration::from_millis(250), "the client waited for it: {:?}", start.elapsed());
        while host.get("/afterwork/0").await.status == 503 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let held = start.elapsed();
        assert!((Duration::from_millis(least)..Duration::from_millis(most)).contains(&held), "{path} held {held:?}");
    }
}
