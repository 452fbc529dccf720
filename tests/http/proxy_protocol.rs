//! Promise: behind a proxy that passes bytes on, a client has its own address, by the PROXY protocol; nobody but such a proxy can
//! give it one.

use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::harness::authority::Authority;
use crate::harness::{host, until_metric, within};

const PROXY: &str = "127.0.3.1";

/// Version 2 for an IPv4 client, up to the length of the rest.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0";

const REQUEST: &[u8] =
    b"GET /echo/head HTTP/1.1\r\nhost: h\r\nconnection: close\r\nx-forwarded-for: 192.0.2.99\r\n\r\n";

/// Connects from an address of the loopback network.
async fn from(source: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source.parse::<IpAddr>().unwrap(), 0).into()).unwrap();
    let stream = within(socket.connect(address)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends these parts, and returns all that comes back.
async fn exchange(mut stream: TcpStream, parts: &[&[u8]]) -> String {
    for part in parts {
        // The host may have closed the connection; what it sent shows.
        let _ = stream.write_all(part).await;
        tokio::task::yield_now().await;
    }
    let mut received = Vec::new();
    let _ = within(stream.read_to_end(&mut received)).await;
    String::from_utf8_lossy(&received).into_owned()
}

/// Each client is admitted, refused and shown by the address in the header, which only a trusted proxy can send.
#[tokio::test(flavor = "multi_thread")]
async fn only_trusted_proxies_name_clients() {
    let (authority, certificates) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.issue(&["localhost"]).write(certificates.path(), "tls");
    let host = host(&["echo", "hello"])
        .set("listener.proxy_protocol", "on")
        .set("listener.first_byte", "2s")
        .set("trusted_proxies", "127.0.3.0/24, 203.0.113.0/24")
        .set("tls.listen", "127.0.0.1:0")
        .set("tls.certificates", certificates.path().to_str().unwrap())
        .manifest("echo", "deny = ['192.0.2.66', '2001:db8::66']")
        .manifest("hello", "routes = ['/hello']")
        .start()
        .await;
    let v2 = |source: [u8; 4]| [V2, &[12], &source, &[10, 0, 0, 1, 220, 4, 1, 187]].concat();
    let v2_extended = [V2, &[20], &[192, 0, 2, 7, 10, 0, 0, 1, 220, 4, 1, 187], &[4, 0, 5], b"noopX"].concat();
    let v6 = [&V2[..13], b"\x21\0\x24", &[0x20, 1, 0xd, 0xb8], &[0; 11], &[0x66], &[9; 16], &[1, 2, 3, 4]].concat();
    let local = [&V2[..12], b"\x20\0\0\0"].concat();
    let client = |address: &str| format!("x-forwarded-for: {address}\n");
    // A header, and what a service or the response shows.
    let cases: [(&[u8], String); 10] = [
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n", client("192.0.2.7")),
        (b"PROXY TCP6 2001:db8::7 ::1 56324 443\r\n", client("2001:db8::7")),
        (b"PROXY TCP4 192.0.2.66 10.0.0.1 56324 443\r\n", "403 Forbidden".into()),
        (&v2([192, 0, 2, 8]), client("192.0.2.8")),
        (&v2([192, 0, 2, 66]), "403 Forbidden".into()),
        (&v2_extended, client("192.0.2.7")),
        (&v6, "403 Forbidden".into()),
        // Another trusted proxy in front of this one: what it forwards counts.
        (b"PROXY TCP4 203.0.113.1 10.0.0.1 1 443\r\n", client("192.0.2.99, 203.0.113.1")),
        // Nobody knows who has sent these requests, so that what they claim does not count.
        (b"PROXY UNKNOWN\r\n", client(PROXY)),
        (&local, client(PROXY)),
    ];
    for (header, expected) in &cases {
        let shown = String::from_utf8_lossy(header);
        let whole = exchange(from(PROXY, host.address).await, &[&[*header, REQUEST].concat()]).await;
        assert!(whole.contains(expected), "{shown:?}: {whole}");
        // Byte by byte, and with the request right behind the last one.
        let bytes: Vec<&[u8]> = header.chunks(1).chain([REQUEST]).collect();
        assert!(exchange(from(PROXY, host.address).await, &bytes).await.contains(expected), "{shown:?} in bytes");
    }
    let header = &v2([192, 0, 2, 7])[..];
    let long = [b"PROXY UNKNOWN ", &[b'a'; 100][..], b"\r\n"].concat();
    let unix = [&V2[..13], b"\x31\0\xd8", &[0; 216]].concat();
    for (source, bytes) in [
        ("127.0.0.1", header),
        ("127.0.0.1", b""),
        (PROXY, b"GET / HTTP/1.1\r\n"),
        (PROXY, b"\x16\x03\x01\x02\x00\x01"),
        (PROXY, b"PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n"),
        (PROXY, &long),
        (PROXY, &unix),
    ] {
        for address in [host.address, host.https] {
            let answer = exchange(from(source, address).await, &[&[bytes, REQUEST].concat()]).await;
            assert_eq!(answer, "", "{source}: {:?}", String::from_utf8_lossy(bytes));
        }
    }
    // A health check connects and leaves; one that begins a header and stops is closed.
    drop(from(PROXY, host.address).await);
    assert_eq!(exchange(from(PROXY, host.address).await, &[&header[..20]]).await, "");
    // TLS is behind the header, which is before TLS.
    let mut stream = from(PROXY, host.https).await;
    stream.write_all(header).await.unwrap();
    let connector = TlsConnector::from(authority.client(&["http/1.1"], None));
    let mut stream = within(connector.connect("localhost".try_into().unwrap(), stream)).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    let mut received = Vec::new();
    let _ = within(stream.read_to_end(&mut received)).await;
    let received = String::from_utf8_lossy(&received);
    assert!(received.contains(&client("192.0.2.7")) && received.contains("x-forwarded-proto: https"), "{received}");
    // The name of a service at localhost is for clients on this machine, which a proxy hides.
    let named = b"GET /hello HTTP/1.1\r\nhost: hello.localhost\r\nconnection: close\r\n\r\n";
    let loopback = b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n";
    let answer = exchange(
        from(PROXY, host.address).await,
        &[&[&loopback[..], b"GET /x HTTP/1.1\r\nhost: hello.localhost\r\nconnection: close\r\n\r\n"].concat()],
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(exchange(from(PROXY, host.address).await, &[&[&loopback[..], named].concat()]).await.contains("Hello"));
    for (result, count) in
        [("ok", 19), ("unknown", 2), ("local", 2), ("untrusted", 4), ("invalid", 10), ("timeout", 1), ("closed", 1)]
    {
        until_metric(host.admin, &format!("lodge_proxy_headers_total{{result=\"{result}\"}}"), count).await;
    }
}

/// Of the clients behind a proxy as well, the one that holds most connections loses one for a new client.
#[tokio::test(flavor = "multi_thread")]
async fn the_client_with_most_connections_makes_room() {
    let host = host(&["hello"])
        .set("listener.proxy_protocol", "on")
        .set("listener.connections", "4")
        .set("listener.idle", "1h")
        .set("trusted_proxies", "127.0.3.0/24")
        .start()
        .await;
    let respond = async |stream: &mut TcpStream| {
        let _ = stream.write_all(b"GET /hello HTTP/1.1\r\nhost: h\r\n\r\n").await;
        let (mut received, mut bytes) = (String::new(), [0; 1024]);
        while !received.ends_with("Hello, World!") {
            match within(stream.read(&mut bytes)).await {
                Ok(read @ 1..) => received += &String::from_utf8_lossy(&bytes[..read]),
                _ => break,
            }
        }
        received.starts_with("HTTP/1.1 200")
    };
    let client = async |address: &str| {
        let mut stream = from(PROXY, host.address).await;
        let header = format!("PROXY TCP4 {address} 10.0.0.1 56324 443\r\n");
        stream.write_all(header.as_bytes()).await.unwrap();
        assert!(respond(&mut stream).await, "{address}");
        stream
    };
    // It is idle for longest.
    let mut other = client("192.0.2.1").await;
    let mut held = [client("192.0.2.2").await, client("192.0.2.2").await, client("192.0.2.2").await];
    let _newcomers = [client("192.0.2.3").await, client("192.0.2.4").await];
    assert!(respond(&mut other).await);
    assert!(!respond(&mut held[0]).await && !respond(&mut held[1]).await && respond(&mut held[2]).await);
}
