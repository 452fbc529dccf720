//! Promise: connections follow HTTP/1.1 and HTTP/2, also with slow, half-closed and malicious clients.

use std::net::IpAddr;
use std::time::Duration;

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Connection, get, host, raw, until, within};

async fn open(address: std::net::SocketAddr, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    stream
}

/// Reads until the host closes the connection. Returns what was received.
async fn closed(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = within(stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Clients that send nothing, half a head, half a preface, or nothing after a response are disconnected; other clients
/// are not delayed.
#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_disconnected() {
    // One timeout is short, and the others are longer than a test.
    for (short, bytes, response) in [
        ("listener.first_byte", "", ""),
        ("listener.header_read", "GET /hello HTTP/1.1\r\nho", ""),
        ("listener.header_read", "PRI * HT", ""),
        ("listener.idle", "GET /hello HTTP/1.1\r\nhost: h\r\n\r\n", "Hello, World!"),
    ] {
        let mut setup = host(&["hello"]);
        for name in ["listener.first_byte", "listener.header_read", "listener.idle"] {
            setup = setup.set(name, if name == short { "1s" } else { "1h" });
        }
        let host = setup.start().await;
        let slow = open(host.address, bytes).await;
        assert_eq!(get(host.address, "/hello").await.status, 200);
        let received = closed(slow).await;
        assert!(received.ends_with(response), "{bytes:?}: {received}");
    }
}

/// At the bound, an idle connection makes room for a new one: of the client that has most, and none with a request in progress.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_make_room() {
    let setup = host(&["hello", "echo"]).set("listener.connections", "4");
    let host = setup.set("listener.idle", "1h").set("listener.first_byte", "1h").start().await;
    let client = async |number: u8| {
        let mut client = Connection::from(IpAddr::from([127, 0, 0, number]), host.address).await;
        assert_eq!(client.ask(Method::GET, "/hello", &[], "").await.status, 200);
        client
    };
    let mut other = client(2).await;
    let mut busy =
        open(host.address, "POST /echo HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 4\r\n\r\nhi").await;
    let silent = open(host.address, "").await;
    let idle = open(host.address, "GET /hello HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let newcomers = [client(3).await, client(4).await];
    assert!(closed(silent).await.is_empty() && closed(idle).await.ends_with("Hello, World!"));
    assert_eq!(other.ask(Method::GET, "/hello", &[], "").await.status, 200);
    busy.write_all(b"lo").await.unwrap();
    let received = closed(busy).await;
    assert!(received.starts_with("HTTP/1.1 200") && received.contains("lo\r\n"), "{received}");
    drop(newcomers);
}

/// A client that sends its head byte by byte does not extend the timeout.
#[tokio::test(flavor = "multi_thread")]
async fn single_bytes_do_not_extend_the_timeout() {
    let host = host(&["hello"]).set("listener.header_read", "500ms").start().await;
    let mut stream = open(host.address, "GET /hello HTTP/1.1\r\nx: ").await;
    let ended = async {
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(ended).await;
}

/// A connection with a request in flight is not idle, however long its guest takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_response_is_not_idle() {
    let host = host(&["drip"]).set("listener.idle", "200ms").set("listener.header_read", "200ms").start().await;
    let response = host.get("/drip/8").await;
    assert_eq!((response.text().lines().count(), response.broken), (8, false));
}

/// A client that closes its sending side still gets a response that comes soon.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_closed_client_gets_its_response() {
    let host = host(&["hello", "drip"]).start().await;
    for (path, end) in [("/hello", "Hello, World!"), ("/drip/4", "0\r\n\r\n")] {
        let mut stream = open(host.address, &format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n")).await;
        stream.shutdown().await.unwrap();
        let response = closed(stream).await;
        assert!(response.starts_with("HTTP/1.1 200") && response.ends_with(end), "{response}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expect_continue() {
    let host = host(&["echo", "deaf"]).manifest("deaf", "limits.request_body = '10B'").start().await;
    let ask = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 11\r\nconnection: close\r\n\r\n"
        )
    };
    let mut stream = open(host.address, &ask("/echo")).await;
    let mut interim = [0; 25];
    within(stream.read_exact(&mut interim)).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"after a nod").await.unwrap();
    let response = closed(stream).await;
    assert!(response.contains("200 OK") && response.contains("after a nod"), "{response}");
    // Its `Content-Length` is too large: refused without `100 Continue`.
    let response = raw(host.address, &ask("/deaf")).await;
    assert!(response.starts_with("HTTP/1.1 413"), "{response}");
}

/// Pipelined requests, and many in sequence, on one connection get their responses in order.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_alive() {
    let host = host(&["hello"]).start().await;
    let one = "GET /hello?name=1 HTTP/1.1\r\nhost: h\r\n\r\n";
    let last = "GET /hello?name=2 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    let response = raw(host.address, &format!("{one}{one}{last}")).await;
    assert_eq!(response.matches("Hello, 1!").count(), 2, "{response}");
    assert!(response.ends_with("Hello, 2!"), "{response}");
}

/// When a client leaves, its guest stops and frees its slot at once, not when its time is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_stops_when_its_client_leaves() {
    let host = host(&["sleeper", "echo"])
        .manifest("sleeper", "limits = { in_flight = 1, queue = 0, wall = '1h' }")
        .start()
        .await;
    let in_flight = || host.current.snapshot().target("sleeper").unwrap().admission.in_flight();
    for http2 in [false, true] {
        let (h1, h2) = match http2 {
            false => (Some(open(host.address, "GET /sleeper HTTP/1.1\r\nhost: h\r\n\r\n").await), None),
            true => {
                let mut client = crate::harness::Connection::http2(host.address).await;
                (None, Some(tokio::spawn(async move { client.get("/sleeper").await.status })))
            }
        };
        until("the slot is taken", || in_flight() == 1).await;
        assert_eq!(host.get("/sleeper").await.status, 503);
        drop(h1);
        if let Some(asking) = h2 {
            asking.abort();
        }
        until("the slot is free", || in_flight() == 0).await;
    }
}

/// Streams beyond the limit of a connection wait, and none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn excess_streams_wait() {
    let host = host(&["hello"]).set("listener.streams", "10").start().await;
    let mut client = crate::harness::Connection::http2(host.address).await;
    // After this response the client knows the host's settings. Before it, it may open more streams than allowed.
    client.get("/hello").await;
    let crate::harness::Connection::Http2(sender) = client else { unreachable!() };
    let asked: Vec<_> = (0..200)
        .map(|n| {
            let mut client = crate::harness::Connection::Http2(sender.clone());
            tokio::spawn(async move { (n, client.get(&format!("/hello?name={n}")).await) })
        })
        .collect();
    for asked in asked {
        let (n, response) = within(asked).await.unwrap();
        assert_eq!((response.status, response.text()), (200, format!("Hello, {n}!")));
    }
}

/// A proxy in front of the host must agree with it on where a request ends. An ambiguous request is refused, and
/// nothing after it on its connection counts as a request.
#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_lengths_are_refused() {
    let host = host(&["echo", "hello"]).start().await;
    let chunks = "5\r\nwords\r\n0\r\n\r\n";
    let next = "GET /hello?name=next HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    // Header lines, the bytes after them, the status, and whether the next request on the connection gets a response.
    let shapes = [
        ("Host: h\r\nTransfer-Encoding: chunked", chunks, 200, true),
        ("Host: h\r\nTransfer-Encoding: CHUNKED ", chunks, 200, true),
        ("Host: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked", chunks, 200, false),
        ("Host: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 4", chunks, 200, false),
        ("Host: h\r\nTransfer-Encoding: gzip, chunked", chunks, 400, false),
        ("Host: h\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked", chunks, 400, false),
        ("Host: h\r\nTransfer-Encoding: identity, chunked", chunks, 400, false),
        ("Host: h\r\nTransfer-Encoding: ,chunked", chunks, 400, false),
        ("Host: h\r\nTransfer-Encoding: chunked, chunked", chunks, 400, false),
        ("Host: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", chunks, 400, false),
        ("Host: h\r\nTransfer-Encoding: chunked, gzip", chunks, 400, false),
        ("Host: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip", chunks, 400, false),
        ("Host: h\r\nTransfer-Encoding: xchunked", chunks, 400, false),
        ("Host: h\r\nTransfer-Encoding: chunked;q=1", chunks, 400, false),
        ("Host: h\r\nTransfer-Encoding : chunked", chunks, 400, false),
        ("Host: h\r\nX: y\r\n Transfer-Encoding: chunked", chunks, 400, false),
        ("Host: h\r\nX : y", "", 400, false),
        ("Host: h\r\nContent-Length: 5\r\nContent-Length: 5", "words", 200, true),
        ("Host: h\r\nContent-Length: 5\r\nContent-Length: 6", "words", 400, false),
        ("Host: h\r\nContent-Length: 5, 5", "words", 400, false),
        ("Host: h\r\nContent-Length: +5", "words", 400, false),
        ("Host: h\r\nContent-Length: 0x5", "words", 400, false),
        ("Host: h\r\nContent-Length: ", "words", 400, false),
        // The ends of these are unambiguous.
        ("Host: h\r\nHost: i", "", 400, true),
        ("X: y", "", 400, true),
    ];
    let send = async |version: &str, lines: &str, body: &str, status: u16, goes_on: bool| {
        let responses = raw(host.address, &format!("POST /echo HTTP/{version}\r\n{lines}\r\n\r\n{body}{next}")).await;
        assert!(responses.starts_with(&format!("HTTP/1.1 {status} ")), "{lines:?}: {responses}");
        assert_eq!(responses.ends_with("Hello, next!"), goes_on, "{lines:?}: {responses}");
        assert_eq!(responses.contains("words"), status == 200, "{lines:?}: {responses}");
    };
    for (lines, body, status, goes_on) in shapes {
        send("1.1", lines, body, status, goes_on).await;
    }
    send("1.0", "Host: h\r\nTransfer-Encoding: chunked", chunks, 400, false).await;
    let coded =
        raw(host.address, "POST /echo HTTP/1.1\r\nhost: h\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n").await;
    assert!(coded.contains("connection: close") && coded.contains("problem:bad-request"), "{coded}");
}

/// Chunks that RFC 9112 7.1 does not permit end the connection, whether the service reads the body, leaves it, or there is no
/// service: what follows them is never a request.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_chunks_end_the_connection() {
    let host = host(&["echo", "hello"]).start().await;
    let next = "GET /hello?name=next HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    let chunks = [
        "3\nabc\r\n0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFF1\r\nabc\r\n0\r\n\r\n",
        "10000000000000003\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "3\rabc\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc\r\n0\n\n",
    ];
    for path in ["/echo", "/hello", "/nowhere"] {
        let send = async |body: &str| {
            let head = format!("POST {path} HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n");
            raw(host.address, &format!("{head}{body}{next}")).await
        };
        assert!(send("3\r\nabc\r\n0\r\n\r\n").await.ends_with("Hello, next!"), "{path}");
        for body in chunks {
            // Returns at the end of the connection, which only `next` requests.
            let responses = send(body).await;
            assert!(!responses.contains("next"), "{path} {body:?}: {responses}");
            assert!(responses.matches("HTTP/1.1 ").count() <= 1, "{path} {body:?}: {responses}");
        }
    }
}
