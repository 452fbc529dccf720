//! Promise: a lock has one holder at a time, its fencing token protects from one that was paused, and it is free when its request
//! has ended, however that was.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::harness::{Process, TestHost, eventually, get, host, until, wasm};

/// A lease that does not end within a test.
const LONG: u64 = 3_600_000;

const MANIFEST: &str = "keyvalue = true\nlock.lease = '1h'\n";

async fn text(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = get(address, path).await;
    (answer.status, answer.text())
}

/// The text of an operation that must succeed.
async fn ok(address: SocketAddr, path: &str) -> String {
    let (status, text) = text(address, path).await;
    assert_eq!(status, 200, "{path}: {text}");
    text
}

fn token(text: &str) -> u64 {
    text.rsplit("token ").next().unwrap().parse().unwrap_or_else(|_| panic!("no token: {text}"))
}

async fn locker(more: &str) -> TestHost {
    host(&["locker"]).manifest("locker", &format!("{MANIFEST}{more}")).start().await
}

/// Waits until a request gets this lock without waiting.
async fn is_free(address: SocketAddr, service: &str, name: &str) {
    let path = format!("/{service}/try/{name}?{LONG}");
    eventually(&format!("{name} is released"), async || ok(address, &path).await != "busy").await;
}

/// Waits until a request has this lock.
async fn is_held(address: SocketAddr, service: &str, name: &str) {
    let path = format!("/{service}/try/{name}?100");
    eventually(&format!("{name} is acquired"), async || ok(address, &path).await == "busy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_never_overlap() {
    let host = locker("limits.wall = '60s'\nlimits.cpu = '30s'").await;
    let address = host.address;
    // Half of them ask for one lock, half for another.
    let path = |n: usize| format!("/locker/exclusive/name-{}?{LONG},50000", n % 2);
    let ask = |n| tokio::spawn(async move { ok(address, &path(n)).await });
    let requests: Vec<_> = (0..32).map(ask).collect();
    let mut tokens = [Vec::new(), Vec::new()];
    for (n, request) in requests.into_iter().enumerate() {
        let answer = request.await.unwrap();
        assert!(answer.starts_with("inside 1 "), "{answer}");
        tokens[n % 2].push(token(&answer));
    }
    for mut tokens in tokens {
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), 16, "every grant has a token of its own");
    }
}

/// A holder whose lease has ended while it was away cannot change what the lock protects.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_holder_is_refused() {
    let host = locker("limits.wall = '120s'\nlimits.cpu = '30s'").await;
    let address = host.address;
    let paused = tokio::spawn(async move { ok(address, "/locker/paused/door?200").await });
    eventually("it has the lock", async || ok(address, "/locker/exists/paused-door").await == "true").await;
    // It gets the lock by the end of the lease: nobody has released it.
    assert_eq!(ok(address, "/locker/fenced/door?60000,60000").await, "written");
    assert!(!paused.is_finished());
    ok(address, "/locker/set/go-door").await;
    assert_eq!(paused.await.unwrap(), "refused Err(Error::LeaseEnded) Err(Error::LeaseEnded)");
    // One in time is not refused.
    assert_eq!(ok(address, "/locker/fenced/door?60000,60000").await, "written");
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_have_bounds() {
    let host = locker("limits.wall = '4s'\nlimits.cpu = '3s'").await;
    let address = host.address;
    let holder = tokio::spawn(async move { get(address, &format!("/locker/stall/door?{LONG}")).await });
    is_held(address, "locker", "door").await;
    let start = Instant::now();
    assert_eq!(ok(address, &format!("/locker/acquire/door?{LONG},300")).await, "busy");
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    // However long the guest would wait, it has time left to respond; or the holder's time is over.
    ok(address, &format!("/locker/acquire/door?{LONG},{}", u64::MAX)).await;
    assert!(holder.await.unwrap().broken, "the holder was stopped at its wall time");
    is_free(address, "locker", "door").await;
}

/// However the request of a holder ends, the lock is free after it, long before its lease would end.
#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_the_request() {
    for isolation in ["request", "service"] {
        let limits = "limits.wall = '2s'\nlimits.cpu = '1s'";
        let host = locker(&format!("isolation = '{isolation}'\n{limits}")).await;
        let address = host.address;
        let cases = [("forget", 200), ("keep", 200), ("trap", 502), ("spin", 504), ("sleep", 504)];
        for (operation, status) in cases {
            let (found, text) = text(address, &format!("/locker/{operation}/{operation}?{LONG}")).await;
            assert_eq!(found, status, "{operation}: {text}");
            is_free(address, "locker", operation).await;
        }
        // The client goes away in the middle of the response, long before the wall time.
        let host = locker(&format!("isolation = '{isolation}'\nlimits.wall = '1h'\nlimits.cpu = '1h'")).await;
        let address = host.address;
        let mut connection = host.connect().await;
        let request = http::Request::get(format!("/locker/stall/gone?{LONG}"));
        let body = http_body_util::BodyExt::boxed_unsync(http_body_util::Empty::new());
        let response = connection.send(request.body(body).unwrap()).await.unwrap();
        assert_eq!(ok(address, &format!("/locker/try/gone?{LONG}")).await, "busy");
        drop((response, connection));
        is_free(address, "locker", "gone").await;
    }
}

/// A warm instance cannot use a lock of an earlier request.
#[tokio::test(flavor = "multi_thread")]
async fn handles_are_void_in_the_next_request() {
    let setup = host(&["locker", "locker3"]);
    let manifest = format!("{MANIFEST}isolation = 'service'");
    let host = setup.manifest("locker", &manifest).manifest("locker3", &manifest).start().await;
    for service in ["locker", "locker3"] {
        assert_eq!(ok(host.address, &format!("/{service}/keep/door?{LONG}")).await, "kept");
        is_free(host.address, service, "door").await;
        let answer = ok(host.address, &format!("/{service}/kept/door?{LONG}")).await;
        assert_eq!(answer, "Err(Error::LeaseEnded) Err(Error::LeaseEnded)", "{service}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_async_interface_has_the_same_locks() {
    let setup = host(&["locker3"]).named("locker", "locker3@2").manifest("locker3", MANIFEST);
    let host = setup.manifest("locker3@2", "match = ['header:x-version=2']").start().await;
    let address = host.address;
    let first = token(&ok(address, &format!("/locker3/acquire/door?{LONG},100")).await);
    assert_eq!(ok(address, &format!("/locker3/hand-over/door?{LONG},3000")).await, "larger true");
    assert!(token(&ok(address, &format!("/locker3/try/door?{LONG}")).await) > first);
    assert_eq!(text(address, &format!("/locker3/trap/door?{LONG}")).await.0, 502);
    is_free(address, "locker3", "door").await;
    // Versions of a service have one set of locks.
    let version = [("host", "localhost"), ("x-version", "2")];
    let path = format!("/locker3/stall/door?{LONG}");
    let mut connection = host.connect().await;
    let request = http::Request::get(path).header("host", version[0].1).header(version[1].0, version[1].1);
    let body = http_body_util::BodyExt::boxed_unsync(http_body_util::Empty::new());
    let response = connection.send(request.body(body).unwrap()).await.unwrap();
    assert_eq!(ok(address, &format!("/locker3/try/door?{LONG}")).await, "busy");
    drop(response);
}

/// Two services do not share names, and every argument has bounds.
#[tokio::test(flavor = "multi_thread")]
async fn names_leases_and_numbers_have_bounds() {
    let setup = host(&["locker"]).named("locker", "other").manifest("other", MANIFEST);
    let manifest = "keyvalue = true\nlock = { lease = '1s', held = 3 }\nlimits.wall = '30s'";
    let host = setup.manifest("locker", manifest).start().await;
    let address = host.address;
    let holder = tokio::spawn(async move { get(address, "/locker/stall/door?1000").await });
    is_held(address, "locker", "door").await;
    token(&ok(address, &format!("/other/try/door?{LONG}")).await);
    holder.abort();
    for (path, expected) in [
        ("/locker/try/?1000", "Error::InvalidArgument(\"the name of the lock is empty"),
        ("/locker/long/x?257", "Error::InvalidArgument(\"the name of the lock has 257 bytes, and the limit is 256"),
        ("/locker/try/x?0", "Error::InvalidArgument(\"the lease is not from 1 ms to 1 hour"),
        ("/locker/try/x?1001", "Error::InvalidArgument(\"the lease is longer than 1s: renew it, or raise `lease` in"),
        ("/locker/try/x?18446744073709551615", "Error::InvalidArgument(\"the lease is longer than 1s"),
        ("/other/try/x?3600001", "Error::InvalidArgument(\"the lease is longer than 1h"),
    ] {
        let (status, text) = text(address, path).await;
        assert!(status == 500 && text.starts_with(expected), "{path}: {text}");
    }
    token(&ok(address, "/locker/long/x?256").await);
    let many = ok(address, "/locker/many/x?1000").await;
    assert!(
        many.starts_with("3 Error::QuotaExceeded(\"this request holds 3 locks") && many.ends_with("true"),
        "{many}"
    );
    assert_eq!(ok(address, "/locker/renew/x?1000").await, "renewed");
}

/// Without a grant there are no locks, and the log says what would grant them.
#[tokio::test(flavor = "multi_thread")]
async fn denied_unless_granted() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(wasm("locker"), directory.path().join("locker.wasm")).unwrap();
    let process = Process::serve(directory.path(), &[]).await;
    for _ in 0..2 {
        assert_eq!(text(process.address, "/locker/try/door").await, (500, "Error::AccessDenied".into()));
    }
    let line = "denied a lock, which the manifest does not grant; add `lock = true` to locker.toml";
    until("the denial is in the log", || process.log().contains(line)).await;
    assert_eq!(process.log().matches("denied a lock").count(), 1);
    assert!(!directory.path().join(".lodge").exists());
}

/// The locks of one host are free when it was killed, and tokens go on to grow.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_host_holds_nothing() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(wasm("locker"), directory.path().join("locker.wasm")).unwrap();
    std::fs::write(directory.path().join("locker.toml"), MANIFEST).unwrap();
    let mut last = 0;
    for _ in 0..3 {
        let process = Process::serve(directory.path(), &[]).await;
        let address = process.address;
        let now = token(&ok(address, &format!("/locker/try/door?{LONG}")).await);
        assert!(now > last, "{now} after {last}");
        last = now;
        let holder = tokio::spawn(async move { get(address, &format!("/locker/stall/door?{LONG}")).await });
        is_held(address, "locker", "door").await;
        // Dropped, it is killed.
        drop(process);
        holder.abort();
    }
}
