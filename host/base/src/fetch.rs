//! Small exchanges with a server: bounded in time and size, without redirects, and on a connection of their own.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use rustls::RootCertStore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::http1::{self, Http1Settings};
use crate::tls;

/// The most bytes of the head of the response.
const HEAD: usize = 16 << 10;

/// Returns the document at this URL, of at most `most` bytes, if it arrives within `time`. The server of an https URL
/// needs a certificate of an authority that this system trusts.
///
/// # Errors
/// One line.
pub async fn document(url: &Uri, most: usize, time: Duration) -> Result<Bytes, String> {
    let roots = roots(url).await?;
    within(time, trusting(url, most, roots)).await
}

/// Sends a form to this URL, with these credentials, as [`document`] fetches one. Returns status and body of the response, whatever
/// the status is.
///
/// # Errors
/// One line, without the form and the credentials.
pub async fn form(
    url: &Uri,
    form: String,
    credentials: Option<HeaderValue>,
    most: usize,
    time: Duration,
) -> Result<(StatusCode, Bytes), String> {
    const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
    let roots = roots(url).await?;
    let request = Request::post(url.clone()).header(header::CONTENT_TYPE, FORM).body(Full::from(form));
    let mut request = request.map_err(|error| error.to_string())?;
    if let Some(mut credentials) = credentials {
        credentials.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, credentials);
    }
    within(time, async {
        let response = exchange(request, roots).await?;
        Ok((response.status(), body(response, most).await?))
    })
    .await
}

/// Returns the authorities of the certificate of a server.
async fn roots(url: &Uri) -> Result<RootCertStore, String> {
    match url.scheme_str() {
        // The certificates are read from disk.
        Some("https") => spawn_blocking(tls::system_roots).await.map_err(|error| error.to_string())?,
        _ => Ok(RootCertStore::empty()),
    }
}

async fn within<T>(time: Duration, exchange: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let late = |_| format!("no complete response within {}", humantime::format_duration(time));
    timeout(time, exchange).await.map_err(late)?
}

/// Like [`document`], with these authorities and without a bound on time.
async fn trusting(url: &Uri, most: usize, roots: RootCertStore) -> Result<Bytes, String> {
    let request = Request::get(url.clone()).body(Full::default()).map_err(|error| error.to_string())?;
    let response = exchange(request, roots).await?;
    if response.status() != StatusCode::OK {
        return Err(format!("it responded with {}", response.status()));
    }
    body(response, most).await
}

async fn exchange(mut request: Request<Full<Bytes>>, roots: RootCertStore) -> Result<Response<Incoming>, String> {
    let resolver = GaiResolver::new();
    let settings =
        Http1Settings { resolver, roots, https_only: false, connect: None, head: HEAD, idle: (0, Duration::ZERO) };
    let client = settings.client::<Full<Bytes>>()?;
    request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    client.request(request).await.map_err(|error| format!("no response: {}", http1::with_cause(&error)))
}

async fn body(response: Response<Incoming>, most: usize) -> Result<Bytes, String> {
    let broken = |error| format!("its response broke off, or has more than {most} bytes: {error}");
    http1::read(response.into_body(), most).await.map_err(broken)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A server that responds to every request with these bytes, and the port of it.
    async fn server(response: Vec<u8>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(&response).await;
                let _ = stream.shutdown().await;
            }
        });
        port
    }

    async fn fetch(response: &[u8]) -> Result<Bytes, String> {
        let url = format!("http://127.0.0.1:{}/jwks.json", server(response.to_vec()).await).parse().unwrap();
        document(&url, 1000, Duration::from_secs(60)).await
    }

    #[tokio::test]
    async fn responses_are_bounded() {
        let good = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(fetch(good).await.unwrap(), "{}");
        let check = async |response: &[u8], expected: &str| {
            let problem = fetch(response).await.unwrap_err();
            assert!(problem.contains(expected) && !problem.contains('\n'), "{problem}");
        };
        let large = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b' '; 1001]].concat();
        check(&large, "or has more than 1000 bytes").await;
        check(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}", "its response broke off").await;
        check(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\n\r\n", "it responded with 302").await;
        check(&[b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'x'; HEAD]].concat(), "no response").await;
        check(b"rubbish", "no response").await;
    }

    /// A server that is silent, or that sends for ever, is given up.
    #[tokio::test]
    async fn waits_are_bounded() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let problem = document(&url, 1000, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(problem, "no complete response within 50ms");
    }

    /// Only a server with a trusted certificate is asked.
    #[tokio::test]
    async fn certificates_are_verified() {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(ring).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let config = config.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
        let (acceptor, listener) =
            (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let url: Uri = format!("https://localhost:{}/", listener.local_addr().unwrap().port()).parse().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
                let _ = stream.shutdown().await;
            }
        });
        let mut roots = RootCertStore::empty();
        let problem = trusting(&url, 1000, roots.clone()).await.unwrap_err();
        assert!(problem.contains("UnknownIssuer") || problem.contains("certificate"), "{problem}");
        roots.add(cert.der().clone()).unwrap();
        assert_eq!(trusting(&url, 1000, roots).await.unwrap(), "{}");
    }
}
