//! Promise: connections switch protocols where the manifest allows it, for as long as both sides use them.

use std::fs;
use std::time::Duration;

use lodge::host::Ended;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::far::{before, manifest};
use crate::harness::{Habit, Replica, TestHost, raw, until, until_metric, within};

const ASK: &str = "GET /far HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: echo\r\n\r\n";

/// A connection that has switched protocols, and the head of the response.
async fn switched(host: &TestHost) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(host.address).await.unwrap();
    stream.write_all(ASK.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    (stream, head)
}

fn in_flight(host: &TestHost) -> usize {
    host.current.snapshot().target("far").unwrap().admission.in_flight()
}

fn tunnels(host: &TestHost) -> usize {
    host.current.snapshot().target("far").unwrap().backend.upstream().unwrap().open_tunnels()
}

fn connections(host: &TestHost) -> usize {
    let snapshot = host.current.snapshot();
    let replicas = snapshot.target("far").unwrap().backend.upstream().unwrap().replicas();
    replicas.iter().map(|replica| replica.connections).sum()
}

/// A connection switches protocols where the manifest allows it, and holds a slot of its own until it ends.
#[tokio::test(flavor = "multi_thread")]
async fn allowed_connections_switch() {
    let one = Replica::start("one").await;
    one.set(Habit::Switch);
    let host = before(&[&one], "upgrade = true\nidle = '3s'").start().await;
    let (mut stream, head) = switched(&host).await;
    for line in ["connection: upgrade\r\n", "upgrade: echo\r\n", "x-replica: one\r\n", "x-request-id: "] {
        assert!(head.contains(line), "{line:?} is not in {head}");
    }
    let mut echoed = [0; 5];
    for _ in 0..3 {
        stream.write_all(b"hello").await.unwrap();
        within(stream.read_exact(&mut echoed)).await.unwrap();
        assert_eq!(&echoed, b"hello");
    }
    until("only a tunnel is open", || (tunnels(&host), in_flight(&host), connections(&host)) == (1, 0, 0)).await;
    // A silent tunnel is ended, and its slot is freed.
    assert_eq!(within(stream.read(&mut echoed)).await.unwrap(), 0);
    until("the slot is free", || tunnels(&host) == 0).await;
    // Where the manifest does not allow it, the replica gets no request.
    fs::write(host.directory().join("far.toml"), manifest(&[&one], "")).unwrap();
    let allowed = || host.current.snapshot().target("far").unwrap().backend.upstream().unwrap().spec().upgrade;
    until("the manifest is in force", || !allowed()).await;
    let mut stream = TcpStream::connect(host.address).await.unwrap();
    stream.write_all(ASK.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    while !response.ends_with(b"not asked to switch") {
        response.push(within(stream.read_u8()).await.unwrap());
    }
    assert!(response.starts_with(b"HTTP/1.1 200 OK"));
}

/// A client that stops reading holds its slot no longer than a silent one, however much it sends.
#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_without_a_reader_ends() {
    let one = Replica::start("one").await;
    one.set(Habit::Pour);
    let host = before(&[&one], "upgrade = true\nidle = '500ms'").start().await;
    let (stream, _) = switched(&host).await;
    let (unread, mut says) = stream.into_split();
    let talking = tokio::spawn(async move {
        while says.write_all(b"still here").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    within(talking).await.unwrap();
    until("the slot is free", || tunnels(&host) == 0).await;
    drop(unread);
}

/// The replica chooses one of several protocols that the client offers, in one header line or more.
#[tokio::test(flavor = "multi_thread")]
async fn the_replica_chooses_a_protocol() {
    let one = Replica::start("one").await;
    one.set(Habit::Switch);
    let host = before(&[&one], "upgrade = true").start().await;
    for offers in ["upgrade: foo/1, echo", "upgrade: echo, h2c", "upgrade: foo\r\nupgrade: echo"] {
        let ask = ASK.replace("upgrade: echo", offers);
        let mut stream = TcpStream::connect(host.address).await.unwrap();
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within(stream.read_u8()).await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("\r\nupgrade: echo\r\n"), "{offers}: {head}");
    }
}

/// Tunnels have their own limit, and take no slots or connections of requests.
#[tokio::test(flavor = "multi_thread")]
async fn tunnels_take_no_slots_of_requests() {
    let one = Replica::start("one").await;
    one.set(Habit::Switch);
    let more = "upgrade = true\ntunnels = 3\nconnections = 1\n[limits]\nin_flight = 1\nqueue = 0";
    let mut host = before(&[&one], more)
        .set("engine.instances", "1")
        .set("engine.warm", "1")
        .set("stop.grace", "30s")
        .start()
        .await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(switched(&host).await.0);
    }
    until("requests have all their slots", || (tunnels(&host), in_flight(&host), connections(&host)) == (3, 0, 0))
        .await;
    let refused = raw(host.address, &ASK.replacen("keep-alive", "close", 1)).await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("retry-after: 1\r\n"), "{refused}");
    assert!(refused.contains("urn:lodge:problem:tunnels-full"), "{refused}");
    for _ in 0..3 {
        assert_eq!(host.get("/far").await.text(), "not asked to switch");
    }
    until_metric(host.admin, "lodge_upstream_tunnels{service=\"far\"}", 3).await;
    // A request that does not switch frees its slot, and so does the end of a tunnel.
    drop(open.pop());
    until("one has ended", || tunnels(&host) == 2).await;
    one.set(Habit::Name);
    let declined = raw(host.address, &ASK.replacen("keep-alive", "close", 1)).await;
    assert!(declined.starts_with("HTTP/1.1 200 ") && tunnels(&host) == 2, "{declined}");
    // The host waits for the remaining tunnels.
    host.stop();
    let mut ended = std::pin::pin!(host.ended());
    let early = tokio::time::timeout(Duration::from_millis(700), ended.as_mut()).await;
    assert!(early.is_err(), "the host ended before its tunnels");
    drop(open);
    assert_eq!(within(ended).await, Ended::Drained);
}

/// Protocols that would bypass the host are not forwarded.
#[tokio::test(flavor = "multi_thread")]
async fn switching_to_http_is_refused() {
    let one = Replica::start("one").await;
    one.set(Habit::Describe);
    let host = before(&[&one], "upgrade = true").start().await;
    for (connection, upgrade) in [("upgrade", "h2c"), ("upgrade", "TLS/1.0"), ("close", "websocket")] {
        let ask = format!(
            "GET /far HTTP/1.1\r\nhost: a\r\nconnection: {connection}, close\r\nupgrade: {upgrade}\r\nhttp2-settings: AA\r\n\r\n"
        );
        let response = raw(host.address, &ask).await;
        assert!(
            response.starts_with("HTTP/1.1 200") && !response.contains("upgrade") && !response.contains("http2"),
            "{response}"
        );
    }
}
