//! Promise: the host gets its certificates from an authority, and renews them without a lost request. An authority that is away or
//! refuses concerns no service.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::authority::connect;
use crate::harness::pebble::{Pebble, certificates};
use crate::harness::{Connection, PATIENCE, Setup, TestHost, eventually, get, host, metric, within};

/// A host that gets certificates for these names, with its account and certificates in `path`.
fn ordering(pebble: &Pebble, [plain, secure]: [SocketAddr; 2], domains: &str, path: &Path) -> Setup {
    host(&["hello"])
        .set("listen", &plain.to_string())
        .set("tls.listen", &secure.to_string())
        .set("tls.acme.domains", domains)
        .set("tls.acme.directory", &pebble.url())
        .set("tls.acme.ca", pebble.ca().to_str().unwrap())
        .set("tls.acme.path", path.to_str().unwrap())
}

/// How many orders had this result.
async fn orders(host: &TestHost, result: &str) -> f64 {
    metric(host.admin, &format!("lodge_acme_orders_total{{result=\"{result}\"}}")).await
}

/// Waits until at least so many orders have had this result.
async fn until_orders(host: &TestHost, result: &str, count: u32) {
    let what = format!("{count} orders have had the result {result}");
    eventually(&what, async || orders(host, result).await >= f64::from(count)).await;
}

/// The certificate of the host for a name; `None` if the handshake fails.
async fn shown(address: SocketAddr, client: &Arc<ClientConfig>, name: &str) -> Option<CertificateDer<'static>> {
    let stream = connect(address, client, name).await.ok()?;
    Some(stream.get_ref().1.peer_certificates().unwrap()[0].clone())
}

async fn until_shown(address: SocketAddr, client: &Arc<ClientConfig>, name: &str) -> CertificateDer<'static> {
    let start = Instant::now();
    loop {
        if let Some(certificate) = shown(address, client, name).await {
            return certificate;
        }
        assert!(start.elapsed() < PATIENCE, "no certificate for {name}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// By proofs in handshakes. What is stored is used after a restart, and renewed with another key while clients send requests.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_issued_and_renewed() {
    let Some(mut pebble) = Pebble::new() else { return };
    pebble.start(45);
    let (client, path) = (pebble.client(&[]), tempfile::tempdir().unwrap());
    let setup = || ordering(&pebble, pebble.looks_at(), "a.test, www.a.test; b.test", path.path());
    let first = {
        let host = setup().start().await;
        let first = until_shown(host.https, &client, "www.a.test").await;
        assert_eq!(shown(host.https, &client, "a.test").await.as_ref(), Some(&first));
        assert_ne!(until_shown(host.https, &client, "b.test").await, first);
        until_orders(&host, "issued", 2).await;
        assert_eq!(orders(&host, "issued").await, 2.0);
        // An authority gets no HTTP, and no certificate without an order.
        assert!(shown(host.https, &pebble.client(&["acme-tls/1"]), "a.test").await.is_none());
        // Its ports are free once it has ended.
        host.ended().await;
        first
    };
    let stored = certificates(path.path());
    assert_eq!(stored.len(), 2);
    for file in &stored {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    let account = stored[0].with_file_name("account.json");
    assert_eq!(std::fs::metadata(&account).unwrap().permissions().mode() & 0o777, 0o600);
    let account = std::fs::read(account).unwrap();
    let host = setup().start().await;
    assert_eq!(shown(host.https, &client, "a.test").await, Some(first.clone()), "at once");
    assert_eq!(orders(&host, "issued").await, 0.0);
    // Every request is answered over a connection of its own until the certificate is another one.
    let (start, mut requests) = (Instant::now(), 0);
    let second = loop {
        let Ok(mut stream) = connect(host.https, &client, "a.test").await else {
            panic!("a handshake fails: {}", get(host.admin, "/v1/host").await.text());
        };
        stream.write_all(b"GET /hello HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        within(stream.read_to_string(&mut text)).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("Hello, World!"), "{text}");
        requests += 1;
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        if certificate != first {
            break certificate;
        }
        assert!(start.elapsed() < PATIENCE, "it is not renewed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(requests > 10, "{requests}");
    let key = |certificate: &CertificateDer<'_>| {
        use x509_parser::prelude::{FromDer, X509Certificate};
        X509Certificate::from_der(certificate).unwrap().1.public_key().raw.to_vec()
    };
    assert_ne!(key(&first), key(&second), "each certificate has a key of its own");
    assert_eq!(std::fs::read(stored[0].with_file_name("account.json")).unwrap(), account, "the account stays");
}

/// By proofs over plain HTTP, which a redirect to HTTPS leaves alone. The host starts without the authority, and mends what is
/// damaged, with a new account if the authority does not know the old one.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_away_stops_nothing() {
    let Some(mut pebble) = Pebble::new() else { return };
    let path = tempfile::tempdir().unwrap();
    let setup = |pebble: &Pebble| {
        let setup = ordering(pebble, pebble.looks_at(), "a.test", path.path());
        setup.set("tls.acme.challenge", "http-01").set("tls.redirect", "443")
    };
    let host = setup(&pebble).start().await;
    until_orders(&host, "unreachable", 1).await;
    assert_eq!(get(host.admin, "/readyz").await.status, 200);
    assert_eq!(host.get("/.well-known/acme-challenge/token").await.status, 404, "no token is in flight");
    let mut hello = [0];
    let mut stream = TcpStream::connect(host.https).await.unwrap();
    // A handshake without a certificate ends with an alert.
    stream.write_all(&client_hello()).await.unwrap();
    within(stream.read_exact(&mut hello)).await.unwrap();
    assert_eq!(hello, [0x15]);
    let status = get(host.admin, "/v1/host").await.text();
    assert!(status.contains("no response of localhost:"), "{status}");
    pebble.start(86_400);
    let client = pebble.client(&["http/1.1"]);
    until_shown(host.https, &client, "a.test").await;
    let status = get(host.admin, "/v1/host").await.text();
    assert!(!status.contains("problem") && status.contains("\"expires\""), "{status}");
    drop(host);
    // A torn file, and an authority without memory.
    let file = certificates(path.path()).remove(0);
    let text = std::fs::read(&file).unwrap();
    std::fs::write(&file, &text[..text.len() / 2]).unwrap();
    pebble.start(86_400);
    let host = setup(&pebble).start().await;
    until_shown(host.https, &pebble.client(&[]), "a.test").await;
    until_orders(&host, "issued", 1).await;
    assert_eq!((orders(&host, "issued").await, orders(&host, "refused").await), (1.0, 0.0));
    let mut connection = Connection::http1(host.address).await;
    let answer = connection.get("/hello").await;
    assert_eq!(answer.status, 308, "other requests are redirected");
}

/// The first bytes of a handshake of TLS 1.2 with a cipher suite, in one record.
fn client_hello() -> Vec<u8> {
    let config = crate::harness::authority::Authority::new().client(&[], None);
    let name = rustls::pki_types::ServerName::try_from("a.test").unwrap();
    let mut connection = rustls::ClientConnection::new(config, name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// What an authority refuses is said in words, and not tried again and again.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_explained_and_rare() {
    let Some(mut pebble) = Pebble::new() else { return };
    pebble.start(86_400);
    let path = tempfile::tempdir().unwrap();
    // The authority looks for the host elsewhere, so it finds no proof.
    let anywhere = [SocketAddr::from(([127, 0, 0, 1], 0)); 2];
    let host = ordering(&pebble, anywhere, "blocked.test; a.test", path.path()).start().await;
    until_orders(&host, "refused", 2).await;
    let status: serde_json::Value = serde_json::from_slice(&get(host.admin, "/v1/host").await.body).unwrap();
    let problem = |number: usize| status["certificates"][number]["problem"].as_str().unwrap();
    assert!(problem(0).contains("blocked.test") && problem(0).contains("(rejectedIdentifier)"), "{}", problem(0));
    assert!(problem(1).starts_with("the authority has seen no proof of a.test by tls-alpn-01: "), "{}", problem(1));
    assert!(problem(1).contains("Failed to connect"), "{}", problem(1));
    // After a pause of two minutes at least.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    for name in ["blocked.test", "a.test"] {
        let at = metric(host.admin, &format!("lodge_acme_renewal_seconds{{certificate=\"{name}\"}}")).await as u64;
        assert!((now + 90..now + 150).contains(&at), "{name}: {now} {at}");
    }
    let (code, out, _) = {
        let admin = host.admin.to_string();
        tokio::task::block_in_place(|| {
            crate::harness::output(&mut crate::harness::lodge(&["health", "-v", "--admin", &admin]))
        })
    };
    assert_eq!(code, Some(0), "services are ready");
    assert!(out.contains("certificate for a.test: is not issued yet; the next attempt is at "), "{out}");
    // Four failures in an hour, also with restarts: what is stored says so.
    drop(host);
    for _ in 0..3 {
        let host = ordering(&pebble, anywhere, "a.test", path.path()).start().await;
        until_orders(&host, "refused", 1).await;
    }
    let host = ordering(&pebble, anywhere, "a.test", path.path()).start().await;
    let status: serde_json::Value = serde_json::from_slice(&get(host.admin, "/v1/host").await.body).unwrap();
    let renewal = seconds_of(&status["certificates"][0]["renewal"]);
    assert!(renewal > now + 3_000, "{status}");
    assert_eq!(orders(&host, "refused").await, 0.0);
}

fn seconds_of(text: &serde_json::Value) -> u64 {
    let time = humantime::parse_rfc3339(text.as_str().unwrap()).unwrap();
    time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[cfg(feature = "redis")]
mod with_redis {
    use super::*;
    use crate::state::servers::with_redis::Redis;

    /// Hosts that share certificates: the authority asks one host while another orders, and a third one orders nothing.
    #[tokio::test(flavor = "multi_thread")]
    async fn hosts_share_certificates() {
        let (Some(mut pebble), Some(redis)) = (Pebble::new(), Redis::start()) else { return };
        pebble.start(86_400);
        let paths: [_; 4] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
        let keys = paths[3].path().join("keys");
        std::fs::write(&keys, "M1q8zq3wZ1S0b6l5o0uJrV9yq0T0m4kq5v1pJb2Yd7E=\n").unwrap();
        let anywhere = [SocketAddr::from(([127, 0, 0, 1], 0)); 2];
        let sharing = |addresses, domains, number: usize| {
            let setup = ordering(&pebble, addresses, domains, paths[number].path());
            setup.set("state.url", &redis.url()).set("tls.acme.share_keys", keys.to_str().unwrap())
        };
        let asked = sharing(pebble.looks_at(), "b.test", 0).start().await;
        until_orders(&asked, "issued", 1).await;
        let orders_it = sharing(anywhere, "a.test", 1).start().await;
        until_orders(&orders_it, "issued", 1).await;
        let client = pebble.client(&[]);
        let first = until_shown(orders_it.https, &client, "a.test").await;
        let takes_it = sharing(anywhere, "a.test", 2).start().await;
        assert_eq!(until_shown(takes_it.https, &client, "a.test").await, first);
        assert_eq!(orders(&takes_it, "issued").await, 0.0);
        let accounts = [0, 1].map(|number| {
            let file = certificates(paths[number].path())[0].with_file_name("account.json");
            std::fs::read(file).unwrap()
        });
        assert_eq!(accounts[0], accounts[1], "they have one account");
    }
}
