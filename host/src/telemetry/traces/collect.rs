//! One attempt to hand a batch to the collector, over HTTP/1.1 or, for gRPC, HTTP/2; with TLS when its URL says so.
//!
//! gRPC's unary call is a POST with five bytes before the message and a status in the trailers. That is less than what
//! a client of gRPC brings along, and so all exporters share one client, hyper's.

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
use crate::base::tls;
use crate::config::traces::{Exporter, Protocol, Traces};

/// The most of an answer that is read: it says in a few bytes how many spans were refused.
const ANSWER_BYTES: usize = 64 << 10;
/// Time to connect, when the export's own is longer: a host that drops packets is tried again then.
const CONNECT: Duration = Duration::from_secs(5);
/// How often an HTTP/2 connection is asked whether it lives, and how long it may take to say so. One that died silently
/// would take every batch with it for a quarter of an hour.
const PING: Duration = Duration::from_secs(20);
/// Characters of what a collector says that go into the log.
const SAID: usize = 200;

/// Who gets the spans.
pub(super) struct Collector {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    target: Uri,
    /// Where they go, for the log: without a query, which may have a key in it.
    pub(super) shown: String,
    headers: HeaderMap,
    speaks: Speaks,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Grpc,
    Protobuf,
    Zipkin,
}

/// Why a batch did not arrive.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) why: String,
    /// Whether it may be sent again.
    pub(super) again: bool,
    /// When the collector would like that.
    pub(super) after: Option<Duration>,
}

impl Collector {
    /// The collector that the settings name. Reads the system's certificates if its URL is an https one.
    ///
    /// # Errors
    /// One line, when it would need certificates and there are none.
    pub(super) fn new(traces: &Traces) -> Result<Self, String> {
        let https = traces.target().scheme_str() == Some("https");
        let roots = if https { tls::system_roots().map_err(named)? } else { RootCertStore::empty() };
        Self::trusting(traces, roots)
    }

    /// The same, with certificates of one's own.
    pub(super) fn trusting(traces: &Traces, roots: RootCertStore) -> Result<Self, String> {
        let speaks = match (traces.exporter, traces.protocol) {
            (Exporter::Zipkin, _) => Speaks::Zipkin,
            (_, Protocol::Grpc) => Speaks::Grpc,
            (_, Protocol::HttpProtobuf) => Speaks::Protobuf,
        };
        let tls = tls::client(roots).map_err(named)?;
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT.min(traces.timeout)));
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let grpc = speaks == Speaks::Grpc;
        let connector =
            if grpc { https.enable_http2().wrap_connector(http) } else { https.enable_http1().wrap_connector(http) };
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(1)
            .http1_max_buf_size(ANSWER_BYTES)
            .http2_only(grpc)
            .http2_initial_stream_window_size(ANSWER_BYTES as u32)
            .http2_initial_connection_window_size(ANSWER_BYTES as u32)
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PING)
            .http2_keep_alive_while_idle(true)
            .build(connector);
        let target = traces.target();
        let shown = target.to_string().split('?').next().unwrap_or_default().to_owned();
        Ok(Self { client, target, shown, headers: headers(speaks, traces), speaks })
    }

    /// Sends one batch, and returns how many of its spans were refused. Waits as long as it is let.
    ///
    /// # Errors
    /// Why it did not arrive, or was not taken.
    pub(super) async fn send(&self, message: Bytes) -> Result<u64, Failure> {
        let body = if self.speaks == Speaks::Grpc { otlp::framed(&message) } else { message };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.target.clone();
        request.headers_mut().clone_from(&self.headers);
        let answer = self.client.request(request).await.map_err(|error| Failure::lost(&error))?;
        let status = answer.status();
        if !status.is_success() {
            return Err(Failure::answered(status, answer.headers()));
        }
        self.taken(answer).await
    }

    async fn taken(&self, answer: Response<Incoming>) -> Result<u64, Failure> {
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES).collect().await.map_err(|error| Failure::lost(&*error))?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let body = body.to_bytes();
        match self.speaks {
            Speaks::Zipkin => Ok(0),
            Speaks::Protobuf => Ok(otlp::rejected(&body)),
            Speaks::Grpc => {
                // An answer without a message has its status in the head.
                let both = if head.headers.contains_key(STATUS) { &head.headers } else { &trailers };
                Failure::grpc(both).map_or_else(|| Ok(otlp::rejected(body.get(5..).unwrap_or_default())), Err)
            }
        }
    }
}

const STATUS: HeaderName = HeaderName::from_static("grpc-status");

impl Failure {
    fn lost(error: &dyn Error) -> Self {
        let mut why = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            why = format!("{why}: {error}");
            source = error.source();
        }
        Self { why, again: true, after: None }
    }

    /// By the rules of OTLP, which are good for Zipkin too.
    fn answered(status: StatusCode, headers: &HeaderMap) -> Self {
        let again = matches!(status.as_u16(), 429 | 502 | 503 | 504);
        let after = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Self { why: format!("it answered {status}"), again, after: after.map(Duration::from_secs) }
    }

    fn grpc(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let code = match text(&STATUS).map(str::parse::<u8>) {
            Some(Ok(0)) => return None,
            Some(Ok(code)) => code,
            _ => return Some(Self { why: "it answered without a status of gRPC".into(), again: false, after: None }),
        };
        let message: String =
            text(&HeaderName::from_static("grpc-message")).unwrap_or_default().chars().take(SAID).collect();
        // Cancelled, deadline exceeded, aborted, out of range, unavailable, data loss.
        let again = matches!(code, 1 | 4 | 10 | 11 | 14 | 15);
        Some(Self { why: format!("it answered with status {code} of gRPC: {message}"), again, after: None })
    }
}

fn headers(speaks: Speaks, traces: &Traces) -> HeaderMap {
    let mut headers: HeaderMap = traces.headers.iter().cloned().collect();
    let kind = match speaks {
        Speaks::Grpc => "application/grpc",
        Speaks::Protobuf => "application/x-protobuf",
        Speaks::Zipkin => "application/json",
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    let agent = concat!("lodge/", env!("CARGO_PKG_VERSION"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
    if speaks == Speaks::Grpc {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    headers
}

/// An error of TLS, with the key that asked for it.
fn named(error: String) -> String {
    format!("traces.endpoint: {error}")
}
