//! Promise: a guest reaches every host that its manifest lists; bodies are streamed, and every wait has a limit.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

use crate::harness::{Connection, Process, Response, TestHost, fed, host, until, until_metric, within};

/// The guests that send requests, 0.2 and 0.3.
pub(crate) const SENDERS: [&str; 2] = ["caller", "caller3"];

/// A server at a loopback address that represents the world: it sends bodies back as they arrive, and remembers heads.
pub(crate) struct World {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<http::request::Parts>>>,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::speaking(None).await
    }

    async fn speaking(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let world =
            Self { address: listener.local_addr().unwrap(), connections: Arc::default(), heads: Arc::default() };
        let (connections, heads) = (Arc::clone(&world.connections), Arc::clone(&world.heads));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Relaxed);
                let (tls, heads) = (tls.clone(), Arc::clone(&heads));
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, heads).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, heads).await;
                            }
                        }
                    }
                });
            }
        });
        world
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The manifest that allows its address.
    fn allowed(&self) -> String {
        format!("http = ['http://{}']", self.address)
    }

    /// The head of the last request.
    fn head(&self) -> http::request::Parts {
        self.heads.lock().unwrap().last().unwrap().clone()
    }
}

async fn serve<S>(stream: S, heads: Arc<Mutex<Vec<http::request::Parts>>>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let heads = Arc::clone(&heads);
        async move {
            let (head, body) = request.into_parts();
            heads.lock().unwrap().push(head.clone());
            if head.uri.path() == "/silent" {
                std::future::pending::<()>().await;
            }
            let status = head.uri.path().strip_prefix("/status/").map_or(200, |status| status.parse().unwrap());
            let response = http::Response::builder().status(status).header("connection", "x-hop").header("x-hop", "1");
            Ok::<_, std::convert::Infallible>(response.header("x-kept", "1").body(body).unwrap())
        }
    });
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

pub(crate) async fn ask(address: SocketAddr, sender: &str, to: &str, more: &[(&str, &str)]) -> Response {
    let headers: Vec<_> = [("x-to", to)].into_iter().chain(more.iter().copied()).collect();
    Connection::http1(address).await.ask(Method::GET, &format!("/{sender}"), &headers, "").await
}

/// Waits until so many requests of a service have had this outcome.
pub(crate) async fn until_outcome(host: &TestHost, service: &str, outcome: &str, requests: u32) {
    let series = format!("lodge_outgoing_requests_total{{service=\"{service}\",outcome=\"{outcome}\"}}");
    until_metric(host.admin, &series, requests).await;
}

/// A listed origin is reached, over one connection, without hop-by-hop headers in both directions.
#[tokio::test(flavor = "multi_thread")]
async fn listed_origins_are_reached() {
    let world = World::start().await;
    let host = host(&["caller", "caller3"])
        .manifest("caller", &world.allowed())
        .manifest("caller3", &world.allowed())
        .start()
        .await;
    for (n, sender) in SENDERS.into_iter().enumerate() {
        for status in [200, 204, 302, 404, 500] {
            let response =
                ask(host.address, sender, &world.url(&format!("/status/{status}?q=1")), &[("x-own", "1")]).await;
            assert_eq!(response.status, status, "{sender}: {response:?}");
            assert_eq!((response.header("x-kept").as_str(), response.header("x-hop").as_str()), ("1", ""));
        }
        let head = world.head();
        assert_eq!(head.uri.to_string(), "/status/500?q=1");
        assert_eq!(head.headers["host"], world.address.to_string());
        assert_eq!(head.headers["x-own"], "1");
        assert_eq!(world.connections.load(Relaxed), n + 1, "each service has its own pool");
        for (class, count) in [("2xx", 2), ("3xx", 1), ("4xx", 1), ("5xx", 1)] {
            until_outcome(&host, sender, class, count).await;
        }
    }
}

/// Frame by frame through a 0.3 guest, and a large body through both.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream() {
    let world = World::start().await;
    let host = host(&["caller", "caller3"])
        .manifest("caller", &world.allowed())
        .manifest("caller3", &world.allowed())
        .start()
        .await;
    let (sender, body) = fed();
    let request = Request::post("/caller3").header("x-to", world.url("/")).body(body).unwrap();
    let mut response = host.connect().await.send(request).await.unwrap().into_body();
    for n in 0..5 {
        let chunk = format!("chunk {n}");
        sender.send(Frame::data(Bytes::from(chunk.clone()))).await.unwrap();
        let frame = within(response.frame()).await.unwrap().unwrap();
        assert_eq!(frame.data_ref().unwrap(), chunk.as_bytes());
    }
    drop((sender, response));
    let body = "0123456789abcdef".repeat(1 << 13);
    for sender in SENDERS {
        let headers = [("x-to", world.url("/"))];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        let size = if sender == "caller" { 1 << 10 } else { body.len() };
        let through = host.connect().await.ask(Method::POST, &format!("/{sender}"), &headers, &body[..size]).await;
        assert!(through.text() == body[..size] && !through.broken, "{sender}: {} of {size} bytes", through.body.len());
    }
}

/// The timeouts of the guest, and of its client's request.
#[tokio::test(flavor = "multi_thread")]
async fn waits_are_bounded() {
    let world = World::start().await;
    let host = host(&["caller", "caller3"])
        .manifest("caller", &world.allowed())
        .manifest("caller3", &format!("{}\nlimits = {{ wall = '300ms', cpu = '300ms' }}", world.allowed()))
        .start()
        .await;
    let late = ask(host.address, "caller", &world.url("/silent"), &[("x-first", "50")]).await;
    assert!(late.header("x-error").contains("HttpResponseTimeout"), "{late:?}");
    // The wall time of the request includes all requests that it sends.
    let late = ask(host.address, "caller3", &world.url("/silent"), &[]).await;
    assert_eq!((late.status, late.problem().as_str()), (504, "wall-time"));
    until_outcome(&host, "caller", "timeout", 1).await;
    until_outcome(&host, "caller3", "cancelled", 1).await;
    // The body stops in the middle.
    let (sender, body) = fed();
    let request =
        Request::post("/caller3").header("x-to", world.url("/")).header("x-between", "50").header("x-read", "1");
    let mut client = host.connect().await;
    let asking = tokio::spawn(async move { client.send(request.body(body).unwrap()).await });
    sender.send(Frame::data(Bytes::from_static(b"half"))).await.unwrap();
    let response = within(asking).await.unwrap().unwrap();
    assert!(response.status().is_server_error(), "{response:?}");
}

/// A limited number in flight; a service at its limit does not affect others.
#[tokio::test(flavor = "multi_thread")]
async fn limits_are_per_service() {
    let world = World::start().await;
    let host = host(&["caller"])
        .manifest("caller", &format!("{}\nlimits.outgoing = 3", world.allowed()))
        .named("caller", "slow")
        .manifest("slow", &format!("{}\nlimits.outgoing_rate = 2", world.allowed()))
        .start()
        .await;
    let silent = world.url("/silent");
    let many = ask(host.address, "caller", &silent, &[("x-many", "10"), ("x-first", "300")]).await.text();
    assert_eq!(many.matches("ConnectionLimitReached").count(), 7, "{many}");
    assert_eq!(many.matches("HttpResponseTimeout").count(), 3, "{many}");
    let many = ask(host.address, "slow", &world.url("/"), &[("x-many", "10"), ("x-first", "300")]).await.text();
    let refused = u32::try_from(many.matches("ConnectionLimitReached").count()).unwrap();
    assert!((6..=8).contains(&refused), "{many}");
    until_outcome(&host, "caller", "limit", 7).await;
    until_outcome(&host, "slow", "rate-limit", refused).await;
}

/// The trace continues in the world, with a span of the outgoing request below the guest's.
#[tokio::test(flavor = "multi_thread")]
async fn traces_continue_in_the_world() {
    let (world, collector) = (World::start().await, crate::observe::traces::Collector::start().await);
    let host = host(&["caller", "caller3"])
        .manifest("caller", &world.allowed())
        .manifest("caller3", &world.allowed())
        .set("traces.exporter", "zipkin")
        .set("traces.endpoint", &format!("http://{}", collector.address))
        .set("traces.delay", "20ms")
        .start()
        .await;
    for sender in SENDERS {
        let before = collector.spans().len();
        ask(host.address, sender, &world.url("/status/404?key=secret"), &[]).await;
        let told = world.head().headers["traceparent"].to_str().unwrap().to_owned();
        until("all spans have arrived", || collector.spans().len() >= before + 7).await;
        let spans = collector.spans().split_off(before);
        let guest = spans.iter().find(|span| span["name"] == "guest").unwrap();
        let client = spans.iter().find(|span| span["kind"] == "CLIENT").unwrap();
        assert_eq!((&client["traceId"], &client["id"]), (&told[3..35].into(), &told[36..52].into()), "{told}");
        assert_eq!((&client["traceId"], &client["parentId"]), (&guest["traceId"], &guest["id"]));
        assert_eq!((&client["name"], &client["remoteEndpoint"]["ipv4"]), (&"GET".into(), &"127.0.0.1".into()));
        let tags = &client["tags"];
        assert_eq!(tags["url.full"], world.url("/status/404?key=REDACTED"));
        assert_eq!((&tags["server.address"], &tags["lodge.service"]), (&"127.0.0.1".into(), &sender.into()));
        assert_eq!(tags["server.port"], world.address.port().to_string());
        assert_eq!((&tags["http.response.status_code"], &tags["error.type"]), (&"404".into(), &"404".into()));
        // A request that is not sent has no span; one without a response has a span with the reason.
        let before = collector.spans().len();
        ask(host.address, sender, "http://127.0.0.1:1/", &[]).await;
        ask(host.address, sender, &world.url("/silent"), &[("x-first", "50")]).await;
        until("all spans have arrived", || collector.spans().len() >= before + 13).await;
        let spans = collector.spans().split_off(before);
        let sent: Vec<_> = spans.iter().filter(|span| span["kind"] == "CLIENT").collect();
        assert_eq!(sent.iter().map(|span| &span["tags"]["error"]).collect::<Vec<_>>(), ["timeout"]);
    }
}

/// https with the system's authorities, which are the test's own here. A server that they did not sign is refused.
#[tokio::test(flavor = "multi_thread")]
async fn https_with_the_systems_authorities() {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let acceptor = |signed: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(signed.signing_key.serialize_der().into());
        let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![signed.cert.der().clone()], key);
        tokio_rustls::TlsAcceptor::from(Arc::new(config.unwrap()))
    };
    let (world, other) =
        (World::speaking(Some(acceptor(&signed))).await, World::speaking(Some(acceptor(&stranger))).await);
    let list = "http = ['https://localhost:*', 'https://127.0.0.1:*', 'https://[::1]:*']";
    let setup = host(&["caller", "caller3"]).manifest("caller", list).manifest("caller3", list);
    let roots = setup.directory.path().join("roots.pem");
    let der = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, signed.cert.der());
    std::fs::write(&roots, format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n")).unwrap();
    let process = Process::serve_trusting(setup.directory.path(), &roots).await;
    for sender in SENDERS {
        let at = |world: &World| format!("https://localhost:{}/", world.address.port());
        let response = ask(process.address, sender, &at(&world), &[]).await;
        assert_eq!((response.status, response.header("x-kept").as_str()), (200, "1"), "{response:?}");
        let refused = ask(process.address, sender, &at(&other), &[]).await;
        assert!(refused.header("x-error").contains("TlsCertificateError"), "{refused:?}");
    }
    assert!(other.heads.lock().unwrap().is_empty());
}

/// An address that nothing listens on.
#[tokio::test(flavor = "multi_thread")]
async fn guests_get_the_cause() {
    // Bound but not listening, so no other process can use it meanwhile.
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = bound.local_addr().unwrap();
    let list = format!("http = ['http://{address}']");
    let host = host(&["caller", "caller3"]).manifest("caller", &list).manifest("caller3", &list).start().await;
    for sender in SENDERS {
        let refused = ask(host.address, sender, &format!("http://{address}/"), &[]).await;
        assert!(refused.header("x-error").contains("ConnectionRefused"), "{refused:?}");
        until_outcome(&host, sender, "unreachable", 1).await;
    }
}

/// Methods and hosts of a guest's request are in the host's memory, so their length is bounded.
#[tokio::test(flavor = "multi_thread")]
async fn methods_and_hosts_have_bounds() {
    let world = World::start().await;
    let host = host(&SENDERS).manifest("caller", &world.allowed()).manifest("caller3", &world.allowed()).start().await;
    for sender in SENDERS {
        let say = async |bytes: usize, to: &str| {
            let method = Method::from_bytes("M".repeat(bytes).as_bytes()).unwrap();
            host.connect().await.ask(method, &format!("/{sender}"), &[("x-to", to)], "").await
        };
        assert_eq!(say(64, &world.url("/")).await.status, 200, "{sender}");
        assert_eq!(world.head().method.as_str().len(), 64);
        // The guest expects no error, and traps.
        let refused = say(65, &world.url("/")).await;
        assert_eq!((refused.status, refused.problem().as_str()), (502, "trapped"), "{sender}");
        let denied = say(1, &format!("http://{}/", "h".repeat(1024))).await;
        assert!(denied.header("x-error").contains("Denied"), "{sender}: {denied:?}");
        let refused = say(1, &format!("http://{}/", "h".repeat(1025))).await;
        assert_eq!((refused.status, refused.problem().as_str()), (502, "trapped"), "{sender}");
    }
}
