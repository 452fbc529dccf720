mod interim;
mod retries;

use rustls::RootCertStore;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wasmtime_wasi_http::Error;

use super::*;
use lodge_base::config;
use lodge_base::cpu::scheduler::CpuScheduler;
use lodge_manifest::Manifest;

type ServerTls = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;

/// A server with a certificate, and the roots that trust it.
struct Secure {
    port: u16,
    roots: RootCertStore,
    connections: Arc<AtomicUsize>,
}

impl Secure {
    async fn start() -> Self {
        Self::serving(async |stream| {
            let service = service_fn(async |request: Request<hyper::body::Incoming>| {
                let said = format!("{:?} {} {:?}", request.version(), request.uri(), request.headers());
                Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(said))))
            });
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        })
        .await
    }

    /// A server that does this with each connection.
    async fn serving<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(ServerTls) -> F + Clone + Send + 'static,
    ) -> Self {
        let signed = rcgen::generate_simple_self_signed(["api.test".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(signed.cert.der().clone()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(signed.signing_key.serialize_der().into());
        let ring = rustls::crypto::ring::default_provider();
        let mut tls = rustls::ServerConfig::builder_with_provider(ring.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![signed.cert.der().clone()], key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, connections) = (listener.local_addr().unwrap().port(), Arc::<AtomicUsize>::default());
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Relaxed);
                let (acceptor, serve) = (acceptor.clone(), serve.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    serve(stream).await;
                });
            }
        });
        Self { port, roots, connections }
    }
}

fn service() -> Service {
    Service::new("me", CpuScheduler::new(1).share())
}

fn client(http: &str, limits: &str, roots: RootCertStore) -> WorldClient {
    marking(http, limits, roots, false)
}

fn marking(http: &str, limits: &str, roots: RootCertStore, marks_all: bool) -> WorldClient {
    let defaults = config::resolve(&[]).unwrap().config.limits;
    let text = format!("http = {http}\n[limits]\n{limits}");
    let manifest = Manifest::read("x", &text, &defaults, 1 << 30).unwrap();
    let resolver: NameResolver = Arc::new(|_, _| Box::pin(async { Ok(vec![[127, 0, 0, 1].into()]) }));
    let (via, replay_memory) = (Arc::default(), Arc::default());
    let shared = ClientContext { resolver: &resolver, via: &via, replay_memory: &replay_memory, marks_all };
    WorldClient::new(&manifest.grants, &manifest.limits, lodge_base::tls::client(roots).unwrap(), shared)
}

fn context() -> RequestContext {
    RequestContext::new(Arc::from("1"), Instant::now() + Duration::from_secs(60))
}

async fn ask(
    client: &WorldClient,
    service: &Service,
    url: String,
    options: RequestOptions,
) -> Result<String, OutgoingFailure> {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::get(url).header("host", "forged.test").header("proxy-connection", "x").body(body).unwrap();
    let (response, _slot) = client.send(service, &context(), request, options).await?;
    Ok(String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

/// Uses HTTP/2 if the server speaks it, one connection for many requests, and the host of the URL.
#[tokio::test]
async fn https_with_a_trusted_certificate() {
    let server = Secure::start().await;
    let list = format!("['https://api.test:{0}', 'https://127.0.0.1:{0}']", server.port);
    let (client, service) = (client(&list, "", server.roots.clone()), service());
    for _ in 0..3 {
        let said =
            ask(&client, &service, format!("https://api.test:{}/a?b", server.port), RequestOptions::default()).await;
        let said = said.unwrap();
        assert!(said.starts_with(&format!("HTTP/2.0 https://api.test:{}/a?b", server.port)), "{said}");
        assert!(!said.contains("forged") && !said.contains("proxy-connection"), "{said}");
    }
    assert_eq!(server.connections.load(Relaxed), 1);
    assert_eq!(service.metrics.outgoing.read(), [("2xx", 3)]);
}

#[tokio::test]
async fn an_untrusted_certificate_is_refused() {
    let server = Secure::start().await;
    let list = format!("['https://api.test:{0}', 'https://other.test:{0}', 'https://127.0.0.1:{0}']", server.port);
    let service = service();
    let stranger = client(&list, "", RootCertStore::empty());
    let failed =
        ask(&stranger, &service, format!("https://api.test:{}/", server.port), RequestOptions::default()).await;
    assert!(matches!(failed, Err(OutgoingFailure::Certificate(_))), "{failed:?}");
    let another_name = client(&list, "", server.roots.clone());
    let url = format!("https://other.test:{}/", server.port);
    let failed = ask(&another_name, &service, url, RequestOptions::default()).await;
    assert!(matches!(failed, Err(OutgoingFailure::Certificate(_))), "{failed:?}");
    assert_eq!(service.metrics.outgoing.read(), [("tls", 2)]);
}

/// A server that accepts and sends nothing.
async fn mute() -> (u16, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener.local_addr().unwrap().port(), listener)
}

#[tokio::test]
async fn the_guests_timeouts_apply() {
    let (port, _listener) = mute().await;
    let list = format!(
        "['http://a.test:{port}', 'https://a.test:{port}', 'http://127.0.0.1:{port}', 'https://127.0.0.1:{port}']"
    );
    let (client, service) = (client(&list, "", RootCertStore::empty()), service());
    let soon = Some(Duration::from_millis(50));
    let options = RequestOptions { first_byte_timeout: soon, ..RequestOptions::default() };
    let failed = ask(&client, &service, format!("http://a.test:{port}/"), options).await;
    assert!(matches!(failed, Err(OutgoingFailure::ResponseTimeout)), "{failed:?}");
    // An unfinished TLS handshake counts as connecting.
    let options = RequestOptions { connect_timeout: soon, ..RequestOptions::default() };
    let failed = ask(&client, &service, format!("https://a.test:{port}/"), options).await;
    assert!(matches!(failed, Err(OutgoingFailure::ConnectTimeout)), "{failed:?}");
    assert_eq!(service.metrics.outgoing.read(), [("timeout", 2)]);
}

#[tokio::test]
async fn limits_hold_and_a_slot_is_held_to_the_end() {
    let (port, _listener) = mute().await;
    let list = format!("['http://a.test:{port}', 'http://127.0.0.1:{port}']");
    let (client, service) = (client(&list, "outgoing = 1\noutgoing_rate = 2", RootCertStore::empty()), service());
    let url = format!("http://a.test:{port}/");
    let options = RequestOptions::default();
    {
        let mut first = std::pin::pin!(ask(&client, &service, url.clone(), options));
        let polled = tokio::time::timeout(Duration::from_millis(20), first.as_mut()).await;
        assert!(polled.is_err(), "the server never responds");
        let second = ask(&client, &service, url.clone(), options).await;
        assert!(matches!(second, Err(OutgoingFailure::Requests)), "{second:?}");
    }
    // The first request was dropped, so its slot is free; but two requests were sent in this second.
    let soon = RequestOptions { first_byte_timeout: Some(Duration::from_millis(1)), ..options };
    assert!(matches!(ask(&client, &service, url.clone(), soon).await, Err(OutgoingFailure::ResponseTimeout)));
    assert!(matches!(ask(&client, &service, url, soon).await, Err(OutgoingFailure::Rate)));
    let counted = [("cancelled", 1), ("limit", 1), ("rate-limit", 1), ("timeout", 1)];
    assert_eq!(service.metrics.outgoing.read(), counted);
}

/// Each cause has its own error code.
#[tokio::test]
async fn each_cause_has_its_error_code() {
    let service = service();
    let error_for = async |bytes: &'static [u8]| {
        let (port, listener) = mute().await;
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(bytes).await;
        });
        let client = client(&format!("['http://127.0.0.1:{port}']"), "", RootCertStore::empty());
        Error::from(
            ask(&client, &service, format!("http://127.0.0.1:{port}/"), RequestOptions::default()).await.unwrap_err(),
        )
    };
    assert!(matches!(error_for(b"").await, Error::ConnectionTerminated));
    assert!(matches!(error_for(b"HELO example\r\n\r\n").await, Error::HttpProtocolError));
    let packed = error_for(b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n");
    assert!(matches!(packed.await, Error::HttpProtocolError));
    let long: &'static [u8] = Vec::leak([b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &[b'x'; 100_000]].concat());
    assert!(matches!(error_for(long).await, Error::HttpResponseHeaderSectionSize(None)));
    let (port, listener) = mute().await;
    drop(listener);
    let client = client(&format!("['http://127.0.0.1:{port}']"), "", RootCertStore::empty());
    let failed = ask(&client, &service, format!("http://127.0.0.1:{port}/"), RequestOptions::default()).await;
    assert!(matches!(failed, Err(OutgoingFailure::Refused)), "{failed:?}");
}

/// A server that responds with the headers that it receives. Returns its URL and the number of its connections.
async fn responding() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, connections) = (listener.local_addr().unwrap().port(), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Relaxed);
            let service = service_fn(async |request: Request<hyper::body::Incoming>| {
                let said = format!("{:?}", request.headers());
                Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(said))))
            });
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    (format!("http://127.0.0.1:{port}/"), connections)
}

/// Idle connections do not block new ones, even while a request without a response keeps their pool alive.
#[tokio::test]
async fn idle_connections_do_not_block_new_ones() {
    for slow in [false, true] {
        let (silent, _listener) = mute().await;
        let (client, service) = (client("['http://127.0.0.1:*']", "outgoing = 4", RootCertStore::empty()), service());
        let options = RequestOptions::default();
        let mut first = std::pin::pin!(ask(&client, &service, format!("http://127.0.0.1:{silent}/"), options));
        if slow {
            let polled = tokio::time::timeout(Duration::from_millis(50), first.as_mut()).await;
            assert!(polled.is_err(), "the server never responds");
        }
        // In sequence, and three at a time.
        for n in 0..20 {
            let urls = [responding().await.0, responding().await.0, responding().await.0];
            let [one, two, three] = urls.map(|url| ask(&client, &service, url, options));
            let asked = if n % 2 == 0 { (one.await, two.await, three.await) } else { tokio::join!(one, two, three) };
            assert!(matches!(&asked, (Ok(_), Ok(_), Ok(_))), "slow: {slow}, {n}: {asked:?}");
        }
        assert!(client.dial.open() <= 4 * LIMIT_FACTOR);
    }
}

/// While a pending request keeps an old pool alive, the connections of the new pool are reused.
#[tokio::test]
async fn a_pool_serves_many_requests() {
    let (silent, _listener) = mute().await;
    let (client, service) = (client("['http://127.0.0.1:*']", "outgoing = 4", RootCertStore::empty()), service());
    let options = RequestOptions::default();
    let mut slow = std::pin::pin!(ask(&client, &service, format!("http://127.0.0.1:{silent}/"), options));
    let polled = tokio::time::timeout(Duration::from_millis(50), slow.as_mut()).await;
    assert!(polled.is_err(), "the server never responds");
    while client.dial.open() <= client.renew_above {
        ask(&client, &service, responding().await.0, options).await.unwrap();
    }
    let (url, connections) = responding().await;
    for _ in 0..20 {
        ask(&client, &service, url.clone(), options).await.unwrap();
    }
    assert!(client.dial.open() > client.renew_above, "the old connections are still open");
    // Two, if a second passes during the loop.
    assert!(connections.load(Relaxed) <= 2, "{connections:?} connections for one request after another");
    // At most once per interval, but again after it.
    let first = lock(&client.pool).begun.unwrap();
    drop(client.pool(first + RENEW_INTERVAL / 2));
    assert_eq!(lock(&client.pool).begun, Some(first));
    drop(client.pool(first + RENEW_INTERVAL));
    assert_eq!(lock(&client.pool).begun, Some(first + RENEW_INTERVAL));
}

/// A request that may come back carries its depth; one to a public address does not.
#[tokio::test]
async fn only_requests_to_private_addresses_carry_the_depth() {
    let (url, _) = responding().await;
    let service = service();
    let near = client("['http://127.0.0.1:*']", "", RootCertStore::empty());
    let deep = RequestContext { depth: 2, ..context() };
    let body = || Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::get(&url).header("via", "1.1 mine").body(body()).unwrap();
    let (response, _slot) = near.send(&service, &deep, request, RequestOptions::default()).await.unwrap();
    let said = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    // Three steps, and one entry for the guest that sent the request.
    assert_eq!((said.matches("1.1 lodge-").count(), said.matches("1.1 mine").count()), (4, 1), "{said}");
    assert_eq!(said.matches("-guest\"").count(), 1, "{said}");
    let tells = |list: &str| client(list, "", RootCertStore::empty()).via.is_some();
    for public in ["['http://*', 'https://api.test']", "['http://1.1.1.1', 'https://[2606:4700::1111]:8443']"] {
        assert!(!tells(public), "{public}");
        // A trusted proxy may have a public address.
        assert!(marking(public, "", RootCertStore::empty(), true).via.is_some(), "{public}");
    }
    for near in ["['https://api.test', 'http://10.0.0.7']", "['http://*', 'http://[::1]:*']", "['http://8.0.0.0/6']"] {
        assert!(tells(near), "{near}");
    }
}
