//! Sends a batch to the collector once, over HTTP/1.1 or, for gRPC, HTTP/2; with TLS if the URL is https.
//!
//! A unary gRPC call is a POST with five bytes before the message and a status in the trailers. That is less code than
//! a gRPC client, so all exporters share hyper's client.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::RootCertStore;

use super::otlp;
use crate::config::traces::{Exporter, Protocol, Traces};
use crate::tls;

/// The most bytes of a response that are read. It takes a few bytes to report the rejected spans.
const RESPONSE_BYTES: usize = 64 << 10;
/// Time to connect, if `traces.timeout` is longer. Leaves time for another attempt if a host drops packets.
const CONNECT: Duration = Duration::from_secs(5);
/// Interval and timeout of HTTP/2 keep-alive pings. Without them, a dead connection would lose every batch for about 15
/// minutes.
const PING: Duration = Duration::from_secs(20);
/// The most characters of a collector's message in the log.
const SAID: usize = 200;

/// A client of the collector.
pub(super) struct Collector {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    target: Uri,
    /// The URL for the log, without its query, which may contain a key.
    pub(super) shown: String,
    headers: HeaderMap,
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Grpc,
    Protobuf,
    Zipkin,
}

/// The reason why a batch was not accepted.
#[derive(Debug)]
pub(super) struct ExportFailure {
    pub(super) why: String,
    /// Whether to retry.
    pub(super) again: bool,
    /// The delay that the collector asked for.
    pub(super) after: Option<Duration>,
}

impl Collector {
    /// Creates a client for the collector of these settings. Reads the system's root certificates if the URL is https.
    ///
    /// # Errors
    /// One line, if it needs root certificates and there are none.
    pub(super) fn new(traces: &Traces) -> Result<Self, String> {
        let https = traces.target().scheme_str() == Some("https");
        let roots = if https { tls::system_roots().map_err(named)? } else { RootCertStore::empty() };
        Self::trusting(traces, roots)
    }

    /// Like [`new`](Self::new), with these root certificates.
    pub(super) fn trusting(traces: &Traces, roots: RootCertStore) -> Result<Self, String> {
        let format = match (traces.exporter, traces.protocol) {
            (Exporter::Zipkin, _) => Format::Zipkin,
            (_, Protocol::Grpc) => Format::Grpc,
            (_, Protocol::HttpProtobuf) => Format::Protobuf,
        };
        let tls = tls::client(roots).map_err(named)?;
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT.min(traces.timeout)));
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let grpc = format == Format::Grpc;
        let connector =
            if grpc { https.enable_http2().wrap_connector(http) } else { https.enable_http1().wrap_connector(http) };
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(1)
            .http1_max_buf_size(RESPONSE_BYTES)
            .http2_only(grpc)
            .http2_initial_stream_window_size(RESPONSE_BYTES as u32)
            .http2_initial_connection_window_size(RESPONSE_BYTES as u32)
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PING)
            .http2_keep_alive_while_idle(true)
            .build(connector);
        let target = traces.target();
        let shown = target.to_string().split('?').next().unwrap_or_default().to_owned();
        Ok(Self { client, target, shown, headers: headers(format, traces), format })
    }

    /// Sends one batch and returns the number of rejected spans. Has no timeout of its own.
    ///
    /// # Errors
    /// Why the batch did not arrive or was not accepted.
    pub(super) async fn send(&self, message: Bytes) -> Result<u64, ExportFailure> {
        let body = if self.format == Format::Grpc { otlp::framed(&message) } else { message };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.target.clone();
        request.headers_mut().clone_from(&self.headers);
        let response = self.client.request(request).await.map_err(|error| ExportFailure::lost(&error))?;
        let status = response.status();
        if !status.is_success() {
            return Err(ExportFailure::refused(status, response.headers()));
        }
        self.taken(response).await
    }

    async fn taken(&self, response: Response<Incoming>) -> Result<u64, ExportFailure> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, RESPONSE_BYTES).collect().await.map_err(|error| ExportFailure::lost(&*error))?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let body = body.to_bytes();
        match self.format {
            Format::Zipkin => Ok(0),
            Format::Protobuf => Ok(otlp::rejected(&body)),
            Format::Grpc => {
                // A response without a message has its status in the head.
                let both = if head.headers.contains_key(STATUS) { &head.headers } else { &trailers };
                ExportFailure::grpc(both).map_or_else(|| Ok(otlp::rejected(body.get(5..).unwrap_or_default())), Err)
            }
        }
    }
}

const STATUS: HeaderName = HeaderName::from_static("grpc-status");

impl ExportFailure {
    fn lost(error: &dyn Error) -> Self {
        let mut why = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            why = format!("{why}: {error}");
            source = error.source();
        }
        Self { why, again: true, after: None }
    }

    /// Decides about retries by the OTLP specification, also for Zipkin.
    fn refused(status: StatusCode, headers: &HeaderMap) -> Self {
        let again = matches!(status.as_u16(), 429 | 502 | 503 | 504);
        let after = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Self { why: format!("the collector returned {status}"), again, after: after.map(Duration::from_secs) }
    }

    fn grpc(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let code = match text(&STATUS).map(str::parse::<u8>) {
            Some(Ok(0)) => return None,
            Some(Ok(code)) => code,
            _ => return Some(Self { why: "the collector returned no grpc-status".into(), again: false, after: None }),
        };
        let message: String =
            text(&HeaderName::from_static("grpc-message")).unwrap_or_default().chars().take(SAID).collect();
        // Cancelled, deadline exceeded, aborted, out of range, unavailable, data loss.
        let again = matches!(code, 1 | 4 | 10 | 11 | 14 | 15);
        Some(Self { why: format!("the collector returned grpc-status {code}: {message}"), again, after: None })
    }
}

fn headers(format: Format, traces: &Traces) -> HeaderMap {
    let mut headers: HeaderMap = traces.headers.iter().cloned().collect();
    let kind = match format {
        Format::Grpc => "application/grpc",
        Format::Protobuf => "application/x-protobuf",
        Format::Zipkin => "application/json",
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    let agent = concat!("lodge/", env!("CARGO_PKG_VERSION"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
    if format == Format::Grpc {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    headers
}

/// Prefixes an error of TLS with the key.
fn named(error: String) -> String {
    format!("traces.endpoint: {error}")
}
