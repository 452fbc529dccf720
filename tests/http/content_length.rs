//! Promise: `Content-Length` of a response is the length of its body; a response to HEAD has the length of the response
//! to GET.

use http::Method;

use crate::harness::far::{before, manifest};
use crate::harness::{Connection, Habit, Replica, TestHost, fed, host, raw};

/// The detail of the service's last failure, as the API shows it.
fn detail(host: &TestHost, service: &str) -> String {
    let snapshot = host.current.snapshot();
    let failures = snapshot.target(service).unwrap().deployment().service.failures();
    failures.iter().find_map(|failure| failure.detail.clone()).unwrap_or_default()
}

/// HEAD, 204, 205 and 304: the guest may declare a length and write less, or nothing. wasmtime reports an error to the
/// guest, after which some guests trap; the response is complete by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_length_without_a_body() {
    let host = host(&["unfinished", "cacheable", "caller3"])
        .manifest("caller3", "calls = '*'")
        .manifest("unfinished", "[breaker]\nfailures = '10%'\ncalls = 5")
        .start()
        .await;
    let tagged = [("if-none-match", "\"a\"")];
    let called = [("x-to", "http://cacheable.internal/?content-length=100")];
    for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
        for (method, path, headers, status, length) in [
            (Method::HEAD, "/unfinished/short", &[][..], 200, "100"),
            (Method::HEAD, "/cacheable?content-length=100", &[], 200, "100"),
            (Method::HEAD, "/caller3", &called, 200, "100"),
            (Method::GET, "/cacheable?status=204&content-length=100", &[], 204, ""),
            (Method::GET, "/cacheable?status=205&content-length=100", &[], 205, "0"),
            (Method::GET, "/cacheable?etag=%22a%22&content-length=100", &tagged, 304, "100"),
        ] {
            for _ in 0..10 {
                let response = client.ask(method.clone(), path, headers, "").await;
                assert_eq!((response.status, response.body.len()), (status, 0), "{method} {path}: {response:?}");
                let said = response.header("content-length");
                // hyper omits a redundant header.
                assert!(said == length || status != 200 && said.is_empty(), "{method} {path}: {response:?}");
            }
        }
    }
    let failures = |service: &str| host.current.snapshot().target(service).unwrap().deployment().service.failures();
    for service in ["unfinished", "cacheable", "caller3"] {
        assert!(failures(service).is_empty(), "{service}: {:?}", failures(service));
    }
}

/// A body that is sent must have the length that its head declares, and the log shows both.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_length_is_an_error() {
    let host = host(&["unfinished", "cacheable"]).start().await;
    for (path, expected) in [
        ("/unfinished/short", "content-length is 100 bytes, but the body has 4"),
        ("/cacheable?content-length=100", "content-length is 100 bytes, but the body has 16"),
        ("/cacheable?content-length=9", "content-length is 9 bytes, but the body has at least 16"),
    ] {
        let response = host.get(path).await;
        assert_eq!((response.status, response.problem().as_str()), (502, "bad-answer"), "{path}");
        assert_eq!(detail(&host, path[1..].split(['/', '?']).next().unwrap()), expected);
    }
}

/// The same for replicas: a body shorter than its length must not end with the next response on the connection.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_lengths_of_replicas() {
    let one = Replica::start("one").await;
    let host = before(&[&one], "").start().await;
    let ask = "GET /far HTTP/1.1\r\nhost: a\r\n\r\n";
    for (status, body) in [(204, ""), (205, "hello"), (304, "")] {
        one.set(Habit::Says(match status {
            204 => "HTTP/1.1 204 X\r\ncontent-length: 5\r\n\r\n",
            205 => "HTTP/1.1 205 X\r\ncontent-length: 5\r\n\r\nhello",
            _ => "HTTP/1.1 304 X\r\ncontent-length: 5\r\n\r\n",
        }));
        let twice = format!("{ask}{}", ask.replacen("\r\n\r\n", "\r\nconnection: close\r\n\r\n", 1));
        let responses = raw(host.address, &twice).await;
        assert_eq!(responses.matches(&format!("HTTP/1.1 {status} ")).count(), 2, "{responses}");
        assert!(
            !responses.contains("content-length: 5") && (body.is_empty() || !responses.contains(body)),
            "{responses}"
        );
        let mut two = Connection::http2(host.address).await;
        for _ in 0..2 {
            let response = two.get("/far").await;
            assert_eq!((response.status, response.body.len(), response.broken), (status, 0, false), "{response:?}");
            assert!(status == 304 || response.header("content-length") != "5", "{response:?}");
        }
    }
}

/// A length near the largest integer, on a route with a cache, breaks one response and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_huge_length_breaks_one_response() {
    let one = Replica::start("one").await;
    let replicas = manifest(&[&one], "");
    let host = host(&["cacheable"])
        .manifest("far", &format!("cache = true\n{replicas}"))
        .manifest("cacheable", "cache = true")
        .start()
        .await;
    for length in [u64::MAX - 2, u64::MAX - 3, u64::MAX / 2, u64::MAX / 2 + 1] {
        let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\ncache-control: max-age=60\r\n\r\nhello");
        one.set(Habit::Says(response.leak()));
        // The connection may end before the head is sent, as the body ends at once.
        let broken = raw(host.address, "GET /far HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        let stated = broken.contains(&format!("content-length: {length}\r\n"));
        assert!(broken.is_empty() || broken.contains(" 502 ") || stated, "{length}: {broken}");
        let guests = host.get(&format!("/cacheable?cache-control=max-age%3D60&content-length={length}")).await;
        assert_eq!((guests.status, guests.problem().as_str()), (502, "bad-answer"), "{length}: {guests:?}");
    }
    one.set(Habit::Name);
    assert_eq!(host.get("/far").await.text(), "one");
}

/// A response without a body frees its slot in time, even if the body that is not sent is that of the request, which
/// never ends.
#[tokio::test(flavor = "multi_thread")]
async fn an_unsent_body_holds_no_slot() {
    let limits = "limits.wall = '1s'\nlimits.cpu = '1s'\nlimits.in_flight = 1\nlimits.queue = 0";
    let host = host(&["echo3"]).manifest("echo3", limits).start().await;
    let mut client = Connection::http2(host.address).await;
    let (_never, body) = fed();
    let request = http::Request::head("/echo3/straight").body(body).unwrap();
    let response = client.send(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let start = std::time::Instant::now();
    while host.get("/echo3/head").await.status == 503 {
        assert!(start.elapsed() < crate::harness::PATIENCE, "the slot is held");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
