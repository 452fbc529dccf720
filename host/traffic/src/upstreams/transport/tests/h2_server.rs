//! hyper's server, over HTTP/2 and TLS, with what a test can see and decide.

use std::convert::Infallible;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use super::*;
use lodge_base::tls;

/// Observations of a server.
#[derive(Clone, Default)]
pub(super) struct Seen {
    pub(super) accepted: Arc<AtomicUsize>,
    pub(super) open: Arc<AtomicUsize>,
    /// Ends connections with `GOAWAY`.
    pub(super) away: Arc<tokio::sync::Notify>,
    /// Releases requests to `/wait`.
    pub(super) go: Arc<tokio::sync::Notify>,
}

pub(super) async fn respond(request: Request<Incoming>, seen: Seen) -> Result<Response<Boxed>, Infallible> {
    let path = request.uri().path().to_owned();
    let told = format!(
        "{:?} {} {}",
        request.version(),
        request.uri().scheme_str().unwrap_or("-"),
        request.uri().authority().map_or("-", |authority| authority.as_str()),
    );
    if path == "/wait" {
        seen.go.notified().await;
    }
    let body = if path == "/echo" { request.into_body().map_err(BoxError::from).boxed_unsync() } else { full(told) };
    Ok(Response::new(body))
}

pub(super) async fn server(streams: u32, certificate: Option<Arc<rustls::ServerConfig>>) -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
    let sees = seen.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            sees.accepted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(stream, streams, certificate.clone().map(TlsAcceptor::from), sees.clone()));
        }
    });
    (address, seen)
}

pub(super) async fn serve(stream: TcpStream, streams: u32, tls: Option<TlsAcceptor>, seen: Seen) {
    trait Both: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
    impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Both for T {}
    let io: Box<dyn Both> = match tls {
        None => Box::new(stream),
        Some(acceptor) => match acceptor.accept(stream).await {
            Ok(stream) => Box::new(stream),
            Err(_) => return,
        },
    };
    seen.open.fetch_add(1, Ordering::SeqCst);
    let sees = seen.clone();
    let service = service_fn(move |request| respond(request, sees.clone()));
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(streams);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service));
    tokio::select! {
        _ = &mut connection => {}
        () = seen.away.notified() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
    seen.open.fetch_sub(1, Ordering::SeqCst);
}

/// Creates a certificate for `replica.test`, for a server with these ALPN protocols and a client that trusts it.
pub(super) fn certificate(alpn: &[&str]) -> (Arc<rustls::ServerConfig>, Arc<ClientConfig>) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["replica.test".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    server.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    (Arc::new(server), Arc::new(tls::client(roots).unwrap()))
}
