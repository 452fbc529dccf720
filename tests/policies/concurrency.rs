//! Promise: requests in flight, queued requests, and request bodies stay within the limits of their service and of the
//! host.

use bytes::Bytes;
use http::{Method, Request};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Connection, Response, eventually, fed, get, host, until, within};

/// A limited number runs, a limited number waits, and the rest is refused with `Retry-After`.
#[tokio::test(flavor = "multi_thread")]
async fn slots_and_queue_are_bounded() {
    let host =
        host(&["echo"]).manifest("echo", "limits = { in_flight = 2, queue = 3, queue_wait = '10m' }").start().await;
    // A slot is held until the last byte, and these two end when the test ends their bodies.
    let mut held = Vec::new();
    for _ in 0..2 {
        let (mut client, (feed, body)) = (host.connect().await, fed());
        feed.send(Frame::data(Bytes::from_static(b"begun"))).await.unwrap();
        let mut response = client.send(Request::post("/echo").body(body).unwrap()).await.unwrap().into_body();
        assert_eq!(within(response.frame()).await.unwrap().unwrap().into_data().unwrap(), "begun");
        held.push((feed, response, client));
    }
    let waiting: Vec<_> = (0..3).map(|_| tokio::spawn(get(host.address, "/echo/head"))).collect();
    until("three wait", || host.current.snapshot().target("echo").unwrap().admission.queued() == 3).await;
    for _ in 0..5 {
        let refused = host.get("/echo/head").await;
        assert_eq!((refused.status, refused.problem().as_str()), (503, "queue-full"));
        assert_eq!(refused.header("retry-after"), "1");
    }
    for (feed, mut response, _client) in held {
        drop(feed);
        assert!(within(response.frame()).await.is_none(), "the response is complete");
    }
    for waiting in waiting {
        assert_eq!(within(waiting).await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_has_a_timeout() {
    let limits = "limits = { in_flight = 1, queue = 1, queue_wait = '300ms', wall = '4s', cpu = '4s' }";
    let host = host(&["sleeper"]).manifest("sleeper", limits).start().await;
    // The first of the two sleeps until its time is over; the other one waits for a slot until the timeout.
    let first = tokio::spawn(get(host.address, "/sleeper"));
    until("it sleeps", || host.current.snapshot().target("sleeper").unwrap().admission.in_flight() == 1).await;
    let second = host.get("/sleeper").await;
    assert_eq!((second.status, second.problem().as_str()), (503, "queue-timeout"));
    let first = within(first).await.unwrap();
    assert_eq!((first.status, first.problem().as_str()), (504, "wall-time"));
}

/// A full host refuses requests as a full service does.
#[tokio::test(flavor = "multi_thread")]
async fn the_host_has_limits_of_its_own() {
    let host = host(&["sleeper", "hello"])
        .set("engine.instances", "1")
        .set("engine.queue", "0")
        .set("limits.wall", "2s")
        .set("limits.cpu", "2s")
        .start()
        .await;
    let address = host.address;
    let sleeping = tokio::spawn(async move {
        loop {
            // It was refused if hello came first.
            match crate::harness::get(address, "/sleeper").await.status {
                503 => {}
                status => return status,
            }
        }
    });
    eventually("the host is full", async || host.get("/hello").await.status == 503).await;
    assert_eq!(sleeping.await.unwrap(), 504);
    assert_eq!(host.get("/hello").await.status, 200, "the slot is free again");
}

/// By its `Content-Length`, and by its actual size.
#[tokio::test(flavor = "multi_thread")]
async fn request_bodies_are_bounded() {
    let host = host(&["echo", "echo3", "deaf"]).set("limits.request_body", "1MiB").start().await;
    let exact = "x".repeat(1 << 20);
    let over = "x".repeat((1 << 20) + 1);
    for name in ["echo", "echo3"] {
        for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
            let path = format!("/{name}");
            assert_eq!(client.ask(Method::POST, &path, &[], &exact).await.body.len(), exact.len(), "{name}");
            let refused = client.ask(Method::POST, &path, &[], &over).await;
            assert_eq!((refused.status, refused.problem().as_str()), (413, "body-too-large"), "{name}");
        }
        // A chunked body has no declared size: the guest's read fails, and the response that had begun breaks off.
        let mut client = Connection::http1(host.address).await;
        let (feed, body) = fed();
        let request = Request::post(format!("/{name}")).body(body).unwrap();
        let feeding = tokio::spawn(async move {
            for _ in 0..64 {
                if feed.send(Frame::data(Bytes::from(vec![b'x'; 32 << 10]))).await.is_err() {
                    return;
                }
            }
        });
        // The error may overtake what was sent before it.
        if let Ok(response) = client.send(request).await {
            let response = Response::read(response).await;
            assert!(response.broken || response.status == 413, "{name}: {} bytes", response.body.len());
            assert!(response.body.len() <= exact.len(), "{name}: {} bytes passed", response.body.len());
        }
        feeding.abort();
    }
    // A guest that never reads its body gets no error.
    let mut client = Connection::http1(host.address).await;
    assert_eq!(client.ask(Method::POST, "/deaf", &[], &over).await.status, 413);
}

/// A client that gets an early response receives it, though it still sends. Closing a connection with unread data would
/// reset it.
#[tokio::test(flavor = "multi_thread")]
async fn early_responses_arrive() {
    let host = host(&["echo", "deaf"]).set("limits.request_body", "1MiB").start().await;
    for (path, length, expected) in [
        ("/echo", "content-length: 16777216", "HTTP/1.1 413 "),
        ("/deaf", "transfer-encoding: chunked", "HTTP/1.1 200 "),
    ] {
        let mut client = tokio::net::TcpStream::connect(host.address).await.unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{length}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
        for _ in 0..128 {
            client.write_all(chunk.as_bytes()).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        client.shutdown().await.unwrap();
        let mut response = String::new();
        client.read_to_string(&mut response).await.expect("the connection is closed, not reset");
        assert!(response.starts_with(expected), "{path}: {response:.100}");
    }
}
