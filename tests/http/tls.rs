//! Promise: HTTPS without a proxy in front. Certificates change without a restart and without a failed handshake, and a
//! handshake is bounded in time and number.

use std::path::Path;
use std::time::{Duration, Instant};

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::authority::{Authority, Issued, connect};
use crate::harness::{Connection, Setup, TestHost, eventually, host, metric, raw, scrape, until_metric, within};

/// The URL that a client is redirected to, with the port of the test.
const PUBLIC: &str = "8443";

/// A host with the services hello, echo and endless over HTTPS, with these certificates.
pub(super) fn https(certificates: &Path) -> Setup {
    let setup = host(&["hello", "echo", "endless"]).set("tls.listen", "127.0.0.1:0");
    setup.set("tls.certificates", certificates.to_str().unwrap())
}

/// Waits until at least so many handshakes have had this result.
async fn until_handshakes(host: &TestHost, result: &str, count: u32) {
    let name = format!("lodge_tls_handshakes_total{{result=\"{result}\"}}");
    eventually(&name, async || metric(host.admin, &name).await >= f64::from(count)).await;
}

/// Both versions of HTTP, chosen in the handshake. Guests and clients see the scheme.
#[tokio::test(flavor = "multi_thread")]
async fn services_answer_over_https() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.issue(&["localhost"]).write(directory.path(), "tls");
    let host = https(directory.path()).set("tls.hsts", "180days").set("tls.redirect", PUBLIC).start().await;
    for (protocols, is_h2) in [(&["h2", "http/1.1"][..], true), (&["http/1.1"], false), (&[], false)] {
        let mut client = Connection::https(host.https, &authority.client(protocols, None)).await.unwrap();
        assert_eq!(matches!(client, Connection::Http2(_)), is_h2, "{protocols:?}");
        let answer = client.get("/hello").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "Hello, World!"));
        assert_eq!(answer.header("strict-transport-security"), "max-age=15552000");
        // What a client claims of itself is not shown.
        let claims = [("x-forwarded-proto", "http"), ("x-forwarded-client-cert", "URI=spiffe://forged")];
        let seen = client.ask(Method::GET, "/echo/head", &claims, "").await.text();
        for line in ["Some(Scheme::Https) localhost", "x-forwarded-proto: https\n", ";proto=https\n"] {
            assert!(seen.contains(line), "no {line} in {seen}");
        }
        assert!(!seen.contains("forged"), "{seen}");
    }
    // Without TLS, the client is sent to the same place over HTTPS.
    let answer = host.connect().await.ask(Method::POST, "/hello?name=A%20b", &[("host", "h.example:8080")], "x").await;
    assert_eq!((answer.status, answer.header("location").as_str()), (308, "https://h.example:8443/hello?name=A%20b"));
    assert_eq!(answer.header("strict-transport-security"), "", "RFC 6797 7.2");
    // An authority that checks the host does so without TLS.
    assert_eq!(host.get("/.well-known/acme-challenge/token").await.status, 404);
    // HTTP at the port of HTTPS is told the way.
    let answer = raw(host.https, "GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.ends_with("Use a URL that begins with https."), "{answer}");
    until_handshakes(&host, "plain", 1).await;
    until_handshakes(&host, "ok", 3).await;
}

/// The name that a client asks for chooses the certificate; a wildcard covers one label.
#[tokio::test(flavor = "multi_thread")]
async fn names_choose_certificates() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    let [first, second, wild] =
        [&["a.test", "localhost"][..], &["b.test"], &["*.c.test"]].map(|names| authority.issue(names));
    first.write(directory.path(), "1");
    second.write(directory.path(), "2");
    // A certificate and its key in one file.
    std::fs::write(directory.path().join("3.pem"), format!("{}{}", wild.key, wild.certificate)).unwrap();
    // No key belongs to this one, as to the authority in a Secret.
    std::fs::write(directory.path().join("ca.crt"), authority.pem()).unwrap();
    let host = https(directory.path()).start().await;
    let client = authority.client(&[], None);
    for (name, expected) in
        [("a.test", &first), ("A.test", &first), ("b.test", &second), ("x.c.test", &wild), ("localhost", &first)]
    {
        let stream = connect(host.https, &client, name).await.unwrap();
        assert!(expected.is_of(&stream), "{name}");
    }
    // The first certificate is for all other names, so that the client's error says which name it has.
    for name in ["c.test", "x.y.c.test", "127.0.0.1"] {
        let error = connect(host.https, &client, name).await.unwrap_err().to_string();
        assert!(error.contains("not valid for name"), "{name}: {error}");
    }
    let metrics = scrape(host.admin).await;
    for file in ["1.crt", "2.crt", "3.pem"] {
        let path = directory.path().join(file);
        let name = format!("lodge_tls_certificate_expiry_seconds{{file=\"{}\"}}", path.display());
        assert!(metrics.contains_key(&name), "{name}: {metrics:#?}");
    }
}

/// A renewed certificate is in use within seconds, whichever way it is written, and no handshake fails meanwhile. What is
/// not usable does not replace it.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_under_load() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    let issue = || authority.issue(&["localhost"]);
    let place = |name: &str, issued: &Issued| {
        let target = directory.path().join(name);
        std::fs::create_dir(&target).unwrap();
        issued.write(&target, "tls");
    };
    // As Kubernetes mounts a Secret: the files are links through a link that is replaced.
    let served = directory.path().join("served");
    std::fs::create_dir(&served).unwrap();
    let link = |to: &str| {
        let fresh = served.join("..new");
        std::os::unix::fs::symlink(directory.path().join(to), &fresh).unwrap();
        std::fs::rename(fresh, served.join("..data")).unwrap();
    };
    let first = issue();
    place("first", &first);
    link("first");
    for name in ["tls.crt", "tls.key"] {
        std::os::unix::fs::symlink(Path::new("..data").join(name), served.join(name)).unwrap();
    }
    let host = https(&served).start().await;
    let client = authority.client(&[], None);
    let current = async |expected: &Issued| {
        let start = Instant::now();
        loop {
            let stream = connect(host.https, &client, "localhost").await.expect("no handshake fails");
            if expected.is_of(&stream) {
                return;
            }
            assert!(start.elapsed() < crate::harness::PATIENCE, "the certificate is not in use");
        }
    };
    current(&first).await;
    let second = issue();
    place("second", &second);
    link("second");
    current(&second).await;
    // Written over, the key first, as a careless program does it.
    let third = issue();
    let target = directory.path().join("second");
    std::fs::write(target.join("tls.key"), &third.key).unwrap();
    let written = Instant::now();
    while written.elapsed() < Duration::from_millis(1_500) {
        let stream = connect(host.https, &client, "localhost").await.expect("no handshake fails");
        assert!(second.is_of(&stream));
    }
    std::fs::write(target.join("tls.crt"), &third.certificate).unwrap();
    current(&third).await;
    // Neither rubbish nor the end of the files ends the service.
    std::fs::write(target.join("tls.crt"), "rubbish").unwrap();
    std::fs::remove_file(served.join("tls.key")).unwrap();
    let written = Instant::now();
    while written.elapsed() < Duration::from_millis(2_500) {
        current(&third).await;
    }
}

/// Clients that begin a handshake and do not finish it delay no other client, and are disconnected.
#[tokio::test(flavor = "multi_thread")]
async fn handshakes_are_bounded() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.issue(&["localhost"]).write(directory.path(), "tls");
    let setup = https(directory.path()).set("tls.handshakes", "20").set("tls.handshake", "1m").set("stop.grace", "30s");
    let host = setup.start().await;
    let client = authority.client(&[], None);
    let mut slow = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(host.https).await.unwrap();
        // Nothing, or the begin of a record that is never complete.
        if number % 2 == 0 {
            stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
        }
        slow.push(stream);
    }
    until_handshakes(&host, "evicted", 80).await;
    for _ in 0..30 {
        let mut client = Connection::https(host.https, &client).await.unwrap();
        assert_eq!(client.get("/hello").await.status, 200);
    }
    // The first eighty were disconnected.
    let mut byte = [0];
    for stream in &mut slow[..80] {
        assert!(matches!(within(stream.read(&mut byte)).await, Ok(0) | Err(_)));
    }
    // Those that are left do not delay the stop of the host until its grace is over.
    assert_eq!(host.ended().await, lodge::host::Ended::Drained);
    drop(slow);
}

/// The time of a handshake is bounded, also for a client that sends single bytes.
#[tokio::test(flavor = "multi_thread")]
async fn slow_handshakes_end() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.issue(&["localhost"]).write(directory.path(), "tls");
    let host = https(directory.path()).set("tls.handshake", "400ms").start().await;
    let mut stream = TcpStream::connect(host.https).await.unwrap();
    let start = Instant::now();
    stream.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
    let ended = async {
        while stream.write_all(&[1]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(ended).await;
    assert!(start.elapsed() >= Duration::from_millis(400));
    until_handshakes(&host, "timeout", 1).await;
}

/// A client that does not read its response over TLS occupies no slot for ever.
#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_over_tls_end() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.issue(&["localhost"]).write(directory.path(), "tls");
    let host = https(directory.path())
        .set("listener.idle", "500ms")
        .manifest("endless", "limits = { in_flight = 1, queue = 0, wall = '60s' }")
        .start()
        .await;
    let mut stream = connect(host.https, &authority.client(&[], None), "localhost").await.unwrap();
    stream.write_all(b"GET /endless HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    let start = Instant::now();
    loop {
        let mut client = Connection::https(host.https, &authority.client(&[], None)).await.unwrap();
        let response = client.send(request("/endless")).await.unwrap();
        if response.status() == 200 && start.elapsed() > Duration::from_millis(400) {
            return;
        }
        assert!(start.elapsed() < crate::harness::PATIENCE, "the slot is held");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(super) fn request(path: &str) -> http::Request<crate::harness::AnyBody> {
    use http_body_util::BodyExt;
    let body = http_body_util::Empty::new().boxed_unsync();
    http::Request::get(path).body(body).unwrap()
}

/// A client needs a certificate of the authority, and its guest learns which. New authorities are in force without a
/// restart.
#[tokio::test(flavor = "multi_thread")]
async fn clients_have_certificates() {
    let (server, ours, theirs) = (Authority::new(), Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    server.issue(&["localhost"]).write(directory.path(), "tls");
    let file = directory.path().join("clients.pem");
    std::fs::write(&file, ours.pem()).unwrap();
    let setup = |client: &str| {
        let setup = https(&directory.path().join("tls.crt")).set("tls.client", client);
        setup.set("tls.client_ca", file.to_str().unwrap())
    };
    let known = ours.issue(&["spiffe://lodge.test/orders", "orders.test"]);
    let stranger = theirs.issue(&["spiffe://lodge.test/orders"]);
    let ask = async |host: &TestHost, own: Option<&Issued>| {
        // With TLS 1.3, a client learns of its refusal when it reads.
        let mut client = Connection::https(host.https, &server.client(&["http/1.1"], own)).await.ok()?;
        let response = client.send(request("/echo/head")).await.ok()?;
        Some(crate::harness::Response::read(response).await.text())
    };
    let host = setup("required").start().await;
    let seen = ask(&host, Some(&known)).await.expect("a known client");
    let line = seen.lines().find_map(|line| line.strip_prefix("x-forwarded-client-cert: ")).unwrap();
    assert!(line.starts_with("Hash=") && line.ends_with(";DNS=orders.test;URI=spiffe://lodge.test/orders"), "{line}");
    assert_eq!(ask(&host, Some(&stranger)).await, None);
    assert_eq!(ask(&host, None).await, None);
    // The same file with other authorities.
    std::fs::write(&file, theirs.pem()).unwrap();
    eventually("the new authority is in force", async || ask(&host, Some(&stranger)).await.is_some()).await;
    assert_eq!(ask(&host, Some(&known)).await, None);
    drop(host);
    let host = setup("optional").start().await;
    assert!(ask(&host, None).await.is_some_and(|seen| !seen.contains("client-cert")));
    assert_eq!(ask(&host, Some(&known)).await, None);
}

/// TLS 1.2 is refused where `tls.minimum` says so.
#[tokio::test(flavor = "multi_thread")]
async fn versions_have_a_minimum() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.issue(&["localhost"]).write(directory.path(), "tls");
    let old = |host: std::net::SocketAddr| {
        let roots = directory.path().join("roots.pem");
        std::fs::write(&roots, authority.pem()).unwrap();
        let mut command = std::process::Command::new("curl");
        command.args(["-sS", "-m", "20", "--tls-max", "1.2", "--cacert"]).arg(roots);
        let output = command.arg(format!("https://localhost:{}/hello", host.port())).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for (minimum, text) in [("1.2", "Hello, World!"), ("1.3", "")] {
        let host = https(directory.path()).set("tls.minimum", minimum).start().await;
        let https = host.https;
        let answer = tokio::task::block_in_place(|| old(https));
        assert_eq!(answer, text, "{minimum}");
    }
}

/// Connections over TLS are a part of `listener.memory`.
#[tokio::test(flavor = "multi_thread")]
async fn connections_over_tls_are_charged() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.issue(&["localhost"]).write(directory.path(), "tls");
    let host = https(directory.path()).start().await;
    let client = authority.client(&[], None);
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(connect(host.https, &client, "localhost").await.unwrap());
    }
    let used = "lodge_listener_memory_bytes";
    let all = f64::from(10 * (48 << 10));
    eventually("all are charged", async || metric(host.admin, used).await >= all).await;
    drop(clients);
    until_metric(host.admin, used, 0).await;
}

/// A host whose only certificate cannot be used does not start, and says why.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_needs_a_usable_certificate() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    let [one, other] = [authority.issue(&["a.test"]), authority.issue(&["a.test"])];
    one.write(directory.path(), "tls");
    std::fs::write(directory.path().join("tls.key"), &other.key).unwrap();
    let guests = tempfile::tempdir().unwrap();
    let (guests, certificates) = (guests.path().to_str().unwrap(), directory.path().to_str().unwrap());
    let serve = |certificates: &str| {
        let mut command = crate::harness::lodge(&["serve", guests, "--listen", "127.0.0.1:0", "--admin", "off"]);
        command.args(["--tls-listen", "127.0.0.1:0", "--tls-certificates", certificates]);
        let (code, _, errors) = crate::harness::output(&mut command);
        assert_eq!(code, Some(1), "{errors}");
        errors
    };
    assert!(serve(certificates).contains("tls.crt: its key belongs to another certificate"));
    std::fs::remove_file(directory.path().join("tls.key")).unwrap();
    assert!(serve(certificates).contains("has no certificate with a key beside it, such as tls.crt and tls.key"));
    assert!(serve(&format!("{certificates}/tls.crt")).contains("put tls.key beside it"));
    assert!(serve("/nowhere/tls.crt").contains("/nowhere/tls.crt cannot be read"));
}
