//! Promise: what clients send and do not read stays within `listener.memory`, and the process within `memory`.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::{Connection, Process, eventually, fed, get, host, metric, until, until_metric, wasm, within};

const MIB: usize = 1 << 20;

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header field in HPACK, without the tables.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        match text.len().checked_sub(127) {
            None => bytes.push(u8::try_from(text.len()).unwrap()),
            Some(mut rest) => {
                bytes.push(127);
                while rest >= 128 {
                    bytes.push(u8::try_from(rest % 128 + 128).unwrap());
                    rest /= 128;
                }
                bytes.push(u8::try_from(rest).unwrap());
            }
        }
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// The head of a request on a stream, in as many frames as needed.
fn head(stream: u32, method: &str, path: &str, fields: &[(String, String)], ends: bool) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [(":method", method), (":scheme", "http"), (":authority", "localhost"), (":path", path)] {
        block.extend(field(name, value));
    }
    fields.iter().for_each(|(name, value)| block.extend(field(name, value)));
    let (mut bytes, count) = (Vec::new(), block.chunks(16_000).count());
    for (n, part) in block.chunks(16_000).enumerate() {
        let last = if n + 1 == count { 4 } else { 0 };
        let flags = last | u8::from(n == 0 && ends);
        bytes.extend(frame(if n == 0 { 1 } else { 9 }, flags, stream, part));
    }
    bytes
}

/// An HTTP/2 connection on which the test writes raw bytes, with this window for each stream.
async fn raw(address: SocketAddr, window: u32) -> TcpStream {
    let mut stream = within(TcpStream::connect(address)).await.unwrap();
    let mut settings = vec![0, 4];
    settings.extend(window.to_be_bytes());
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &settings));
    stream.write_all(&bytes).await.unwrap();
    stream
}

/// Sends these bytes on a connection, for as long as that takes, and never reads.
fn hold(clients: &mut JoinSet<()>, mut stream: TcpStream, bytes: Vec<u8>) {
    clients.spawn(async move {
        let _ = stream.write_all(&bytes).await;
        std::future::pending::<()>().await;
    });
}

/// How many clients have sent what there was no memory for.
async fn waiting(admin: SocketAddr) -> f64 {
    metric(admin, WAITING).await
}

const WAITING: &str = "lodge_listener_memory_waiting";

/// Unread uploads use the available memory and no more. Meanwhile other requests are served, and a body that is read
/// arrives.
#[tokio::test(flavor = "multi_thread")]
async fn unread_uploads_are_bounded() {
    let host = host(&["sleeper", "echo", "hello"])
        .manifest("sleeper", "limits = { in_flight = 1, queue = 1000, queue_wait = '1h', wall = '1h', cpu = '1h' }")
        .set("listener.memory", "6MiB")
        .start()
        .await;
    // As much as the windows of a host with so little memory allow: 64 KiB of a stream, 128 of a connection. 60
    // connections need more than there is besides their bases.
    let mut upload = Vec::new();
    for stream in [1, 3] {
        upload.extend(head(stream, "POST", "/sleeper", &[], false));
        (0..4).for_each(|_| upload.extend(frame(0, 0, stream, &[0; 16_000])));
    }
    let mut clients = JoinSet::new();
    for _ in 0..60 {
        hold(&mut clients, raw(host.address, 65_535).await, upload.clone());
        assert!(metric(host.admin, "lodge_listener_memory_bytes").await <= (6 * MIB) as f64);
    }
    eventually("uploads are held back", async || waiting(host.admin).await > 0.0).await;
    assert_eq!(host.get("/hello").await.status, 200);
    assert_eq!(Connection::http2(host.address).await.get("/hello").await.status, 200);
    let body = "x".repeat(MIB);
    for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
        let response = client.ask(Method::POST, "/echo", &[], &body).await;
        assert_eq!((response.status, response.body.len()), (200, MIB));
    }
    drop(clients);
    until_metric(host.admin, WAITING, 0).await;
}

/// Everything at once, as with `--memory 256m` in docs/security.md: unread uploads, queued requests with large heads,
/// incomplete heads, unread responses, a full cache, and warm instances.
#[tokio::test(flavor = "multi_thread")]
async fn a_quarter_of_a_gibibyte_is_enough() {
    let directory = tempfile::tempdir().unwrap();
    let manifests = [
        ("sleeper", "limits = { in_flight = 20, queue = 100000, queue_wait = '1h', wall = '1h', cpu = '1h' }"),
        ("cacheable", "cache = true"),
        ("hello", "isolation = 'service'"),
    ];
    for (name, text) in manifests {
        std::fs::copy(wasm(name), directory.path().join(format!("{name}.wasm"))).unwrap();
        std::fs::write(directory.path().join(format!("{name}.toml")), text).unwrap();
    }
    let process = Process::serve(directory.path(), &["--memory", "256MiB"]).await;
    let address = process.address;
    let began = process.memory("VmRSS");
    // Warm instances: as many as concurrent requests.
    let warm: Vec<_> = (0..250).map(|_| tokio::spawn(async move { get(address, "/hello").await.status })).collect();
    for warm in warm {
        assert_eq!(within(warm).await.unwrap(), 200);
    }
    // The cache: 64 MiB, of which it gets half.
    for n in 0..80 {
        let path = format!("/cacheable?cache-control=max-age=1000&size=900000&n={n}");
        assert_eq!(get(address, &path).await.body.len(), 900_016);
    }
    let cached = process.memory("VmRSS");
    let fields: Vec<_> = (0..90).map(|n| (format!("x-field-{n}"), "v".repeat(500))).collect();
    let mut clients = JoinSet::new();
    for n in 0..450 {
        // Uploads, and other data: heads of 45 KiB each, and DATA between empty frames.
        let mut bytes = head(1, "POST", "/sleeper", &[], false);
        for _ in 0..32 {
            bytes.extend(frame(0, 0, 1, &[0; 300]));
            bytes.extend(frame(99, 0, 0, &[0; 16_000]));
        }
        bytes.extend(head(3, "POST", "/sleeper", &[], false));
        for (stream, frames) in [(1, 7), (3, 8)] {
            (0..frames).for_each(|_| bytes.extend(frame(0, 0, stream, &[0; 16_000])));
        }
        for stream in 2..9 {
            bytes.extend(head(2 * stream + 1, "GET", "/sleeper", &fields, true));
        }
        hold(&mut clients, raw(address, 65_535).await, bytes);
        if n % 5 == 0 {
            // The same over HTTP/1.1: an upload, and half a head.
            for text in
                ["POST /sleeper HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n", "GET / HTTP/1.1\r\nx: "]
            {
                let client = within(TcpStream::connect(address)).await.unwrap();
                hold(&mut clients, client, [text.as_bytes(), &[b'x'; 60_000]].concat());
            }
            // Unread responses.
            let mut bytes = Vec::new();
            for stream in 0..4 {
                let path = format!("/cacheable?cache-control=max-age=1000&size=900000&n={stream}");
                bytes.extend(head(2 * stream + 1, "GET", &path, &[], true));
            }
            hold(&mut clients, raw(address, 0).await, bytes);
        }
    }
    eventually("the memory is full", async || waiting(process.admin).await >= 100.0).await;
    assert_eq!(within(get(address, "/hello")).await.status, 200);
    let [peak, now] = ["VmHWM", "VmRSS"].map(|line| process.memory(line));
    let taken = metric(process.admin, "lodge_listener_memory_bytes").await;
    eprintln!(
        "KiB: {began} at first, {cached} with a cache, {now} at last, {peak} at most; {taken} bytes of listener.memory"
    );
    assert!(peak < 256 << 10, "{peak} KiB at most");
    drop(clients);
}

/// Sandboxes that were in use together return their memory, except `engine.resident`, which is an eighth of `memory`.
#[tokio::test(flavor = "multi_thread")]
async fn free_sandboxes_return_memory() {
    const AT_ONCE: usize = 200;
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(wasm("cacheable"), directory.path().join("cacheable.wasm")).unwrap();
    let process = Process::serve(directory.path(), &["--memory", "256MiB"]).await;
    let rss = || process.memory("VmRSS") >> 10;
    let began = rss();
    // Each has written to more than 2 MiB when its response begins, and holds it for a while.
    let mut clients = Vec::new();
    for _ in 0..AT_ONCE {
        let mut client = within(TcpStream::connect(process.address)).await.unwrap();
        let head = "GET /cacheable?size=2500000&pause=1000 HTTP/1.1\r\nhost: a\r\n\r\n";
        within(client.write_all(head.as_bytes())).await.unwrap();
        clients.push(client);
    }
    for client in &mut clients {
        within(client.read_u8()).await.unwrap();
    }
    let held = rss();
    assert!(held > began + 2 * AT_ONCE, "MiB: {began} at first, {held} with all of them");
    drop(clients);
    until("their memory is returned", || rss() < began + 64).await;
    eprintln!("MiB: {began} at first, {held} with all of them, {} after that", rss());
}

/// Over HTTP/2 the fields of a head are counted as over HTTP/1.1, except split cookies; those of trailers as well.
#[tokio::test(flavor = "multi_thread")]
async fn http2_fields_are_counted() {
    let host = host(&["echo"]).set("listener.headers", "50").start().await;
    let names: Vec<_> = (0..60).map(|n| format!("x-{n}")).collect();
    let fields = |count: usize| names.iter().take(count).map(|name| (name.as_str(), "v")).collect::<Vec<_>>();
    let mut client = Connection::http2(host.address).await;
    assert_eq!(client.ask(Method::GET, "/echo/head", &fields(49), "").await.status, 200);
    let response = client.ask(Method::GET, "/echo/head", &fields(51), "").await;
    assert_eq!((response.status, response.problem().as_str()), (431, "too-many-fields"));
    let crumbs: Vec<_> = (0..60).map(|_| ("cookie", "a=b")).collect();
    assert_eq!(client.ask(Method::GET, "/echo/head", &crumbs, "").await.status, 200);
    let mut one = Connection::http1(host.address).await;
    assert_eq!(one.ask(Method::GET, "/echo/head", &fields(51), "").await.status, 431);
    for (count, passed) in [(40, 40), (51, 0)] {
        let (feed, body) = fed();
        let request = Request::post("/echo").body(body).unwrap();
        let feeding = tokio::spawn({
            let names = names.clone();
            async move {
                let _ = feed.send(Frame::data(Bytes::from("body"))).await;
                let mut trailers = http::HeaderMap::new();
                for name in names.iter().take(count) {
                    trailers.insert(http::HeaderName::try_from(name).unwrap(), http::HeaderValue::from_static("v"));
                }
                let _ = feed.send(Frame::trailers(trailers)).await;
            }
        });
        let mut body = client.send(request).await.unwrap().into_body();
        let mut trailers = 0;
        while let Some(frame) = within(body.frame()).await {
            trailers += frame.unwrap().trailers_ref().map_or(0, http::HeaderMap::len);
        }
        within(feeding).await.unwrap();
        assert_eq!(trailers, passed, "of {count}");
    }
}
