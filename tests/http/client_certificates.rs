//! Promise: the certificate of a client lets it in for as long as it is valid, and no longer.

use std::time::{Duration, SystemTime};

use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::tls::{https, request};
use crate::harness::authority::{Authority, connect};
use crate::harness::far::before;
use crate::harness::{Connection, Habit, Replica, Response, eventually, within};

/// Sends a request, and returns the status of the response.
async fn status(client: &mut Connection) -> Option<u16> {
    let response = client.send(request("/hello")).await.ok()?;
    Some(Response::read(response).await.status)
}

/// No session is resumed where clients have certificates: it would be with one that may have expired, or whose authority is gone.
#[tokio::test(flavor = "multi_thread")]
async fn clients_with_certificates_resume_no_session() {
    let (server, ours) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    server.issue(&["localhost"]).write(directory.path(), "tls");
    let file = directory.path().join("clients.pem");
    std::fs::write(&file, ours.pem()).unwrap();
    let own = ours.issue(&["orders.test"]);
    for (verifies, expected) in [(false, HandshakeKind::Resumed), (true, HandshakeKind::Full)] {
        let mut setup = https(&directory.path().join("tls.crt"));
        if verifies {
            setup = setup.set("tls.client_ca", file.to_str().unwrap());
        }
        let host = setup.start().await;
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let client = server.client_of(&[version], &["http/1.1"], Some(&own));
            // The client has its tickets once it has read a response.
            let mut kinds = Vec::new();
            for _ in 0..2 {
                let mut stream = connect(host.https, &client, "localhost").await.unwrap();
                stream.write_all(b"GET /hello HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await.unwrap();
                let mut bytes = Vec::new();
                let _ = within(stream.read_to_end(&mut bytes)).await;
                assert!(bytes.starts_with(b"HTTP/1.1 200"), "{}", bytes.escape_ascii());
                kinds.push(stream.get_ref().1.handshake_kind().unwrap());
            }
            assert_eq!(kinds, [HandshakeKind::Full, expected], "{version:?}");
        }
    }
}

/// A connection takes no more requests once the certificate of its client has expired, whatever the service asks of its clients.
#[tokio::test(flavor = "multi_thread")]
async fn connections_end_with_the_certificates_of_their_clients() {
    let (server, ours) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    server.issue(&["localhost"]).write(directory.path(), "tls");
    let file = directory.path().join("clients.pem");
    std::fs::write(&file, ours.pem()).unwrap();
    let setup = https(&directory.path().join("tls.crt")).set("tls.client_ca", file.to_str().unwrap());
    let host = setup.start().await;
    for protocol in ["http/1.1", "h2"] {
        let mut seconds = 2;
        let mut client = loop {
            let own = ours.issue_until(&["orders.test"], Some(SystemTime::now() + Duration::from_secs(seconds)));
            // On a busy machine it may have expired before it is used.
            seconds *= 2;
            let Ok(mut client) = Connection::https(host.https, &server.client(&[protocol], Some(&own))).await else {
                continue;
            };
            if status(&mut client).await == Some(200) {
                break client;
            }
        };
        eventually(protocol, async || status(&mut client).await.is_none()).await;
    }
}

/// A tunnel ends when the certificate of its client expires, although nothing would end it otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn tunnels_end_with_the_certificates_of_their_clients() {
    let (server, ours) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    server.issue(&["localhost"]).write(directory.path(), "tls");
    let file = directory.path().join("clients.pem");
    std::fs::write(&file, ours.pem()).unwrap();
    let replica = Replica::start("one").await;
    replica.set(Habit::Switch);
    let setup = before(&[&replica], "upgrade = true\nidle = '1h'").set("tls.listen", "127.0.0.1:0");
    let setup = setup.set("tls.certificates", directory.path().join("tls.crt").to_str().unwrap());
    let host = setup.set("tls.client_ca", file.to_str().unwrap()).start().await;
    let ask = b"GET /far HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n";
    let mut seconds = 2;
    let mut stream = loop {
        let own = ours.issue_until(&["orders.test"], Some(SystemTime::now() + Duration::from_secs(seconds)));
        // On a busy machine it may have expired before it is used.
        seconds *= 2;
        let Ok(mut stream) = connect(host.https, &server.client(&["http/1.1"], Some(&own)), "localhost").await else {
            continue;
        };
        let mut head = Vec::new();
        if stream.write_all(ask).await.is_err() {
            continue;
        }
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = within(stream.read_u8()).await else { break };
            head.push(byte);
        }
        if head.starts_with(b"HTTP/1.1 101 ") {
            break stream;
        }
    };
    let ended = within(stream.read(&mut [0; 8])).await;
    assert!(!ended.is_ok_and(|read| read > 0));
}
