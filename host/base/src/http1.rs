//! HTTP/1.1 clients for exchanges of the host itself: connections over TLS, and bounds of what a server sends. A client
//! follows no redirects, and its caller bounds the time of an exchange.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::dns::GaiResolver;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::RootCertStore;

use crate::tls;

/// A client that sends requests with a body `B`, and resolves names by `R`.
pub type Http1Client<B, R = GaiResolver> = Client<HttpsConnector<HttpConnector<R>>, B>;

/// The settings of a client.
pub struct Http1Settings<R = GaiResolver> {
    /// What resolves the names of servers.
    pub resolver: R,
    /// The authorities of the certificates of servers.
    pub roots: RootCertStore,
    /// Whether a URL must be https. Otherwise, requests to one of http are sent without TLS.
    pub https_only: bool,
    /// The longest time for a TCP connection, if that of the exchange is not enough of a bound.
    pub connect: Option<Duration>,
    /// The most bytes of the head of a response.
    pub head: usize,
    /// The most idle connections to each server, and the longest time for which one stays open.
    pub idle: (usize, Duration),
}

impl<R> Http1Settings<R> {
    /// Creates a client.
    ///
    /// # Errors
    /// One line, if the provider of TLS does not support its versions.
    pub fn client<B>(self) -> Result<Http1Client<B, R>, String>
    where
        HttpsConnector<HttpConnector<R>>: Connect + Clone,
        B: Body<Data: Send> + Send,
    {
        let mut http = HttpConnector::new_with_resolver(self.resolver);
        http.enforce_http(false);
        http.set_connect_timeout(self.connect);
        let https = HttpsConnectorBuilder::new().with_tls_config(tls::client(self.roots)?);
        let https = if self.https_only { https.https_only() } else { https.https_or_http() };
        let (idle, idle_timeout) = self.idle;
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(idle_timeout)
            .pool_max_idle_per_host(idle)
            .http1_max_buf_size(self.head)
            .build(https.enable_http1().wrap_connector(http));
        Ok(client)
    }
}

/// Returns the text of an error with its cause: the error itself only names the step that failed.
pub fn with_cause(error: &legacy::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// Reads the body of a response, of at most `most` bytes.
///
/// # Errors
/// If it breaks off, or is larger.
pub async fn read(body: Incoming, most: usize) -> Result<Bytes, Box<dyn Error + Send + Sync>> {
    Ok(Limited::new(body, most).collect().await?.to_bytes())
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Sends a request without TLS to a server that responds with these bytes, and reads at most 10 bytes of its body.
    async fn exchange(https_only: bool, response: &'static [u8]) -> Result<Bytes, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(response).await;
        });
        let (resolver, roots) = (GaiResolver::new(), RootCertStore::empty());
        let settings =
            Http1Settings { resolver, roots, https_only, connect: None, head: 8192, idle: (0, Duration::ZERO) };
        let client = settings.client::<Empty<Bytes>>().unwrap();
        let response = client.get(url).await.map_err(|error| with_cause(&error));
        read(response?.into_body(), 10).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn plain_http_needs_permission() {
        let response = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(exchange(false, response).await.as_deref(), Ok(&b"{}"[..]));
        let refused = exchange(true, response).await.unwrap_err();
        assert!(refused.contains("client error (Connect): "), "{refused}");
    }

    #[tokio::test]
    async fn bodies_are_bounded() {
        let most = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n0123456789";
        assert_eq!(exchange(false, most).await.as_deref(), Ok(&b"0123456789"[..]));
        let larger = exchange(false, b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n0123456789a").await.unwrap_err();
        assert_eq!(larger, "length limit exceeded");
    }
}
