//! The client of one service: its own connections, which no other service can see or use up.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::uri::Uri;
use http::{Request, Response, Version, header};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime_wasi_http::{RequestOptions, WasiBody};

use super::address::is_public;
use super::again::{Again, Lost, Uses};
use super::dial::{Dial, Line, Resolver};
use super::end;
use super::failure::Failure;
use super::quota::Quota;
use crate::base::lock::lock;
use crate::capabilities::sandbox::RequestContext;
use crate::config::limits::Limits;
use crate::manifest::grants::Grants;
use crate::proxy::headers;
use crate::proxy::via::Via;
use crate::service::Service;
use crate::telemetry::traces::ClientSpan;
use crate::upstreams::replay::ReplayMemory;

/// To resolve a name, connect and shake hands, when the guest gives it longer or no time at all.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a connection that nobody uses stays.
const IDLE: Duration = Duration::from_secs(30);
/// Connections to one host that stay.
const IDLE_PER_HOST: usize = 8;
/// Connections for each request that may be under way, with those that idle. When there are more a new pool is begun, so that
/// the idle ones of the old one go.
const KEPT: usize = 2;
/// The same, at most: an old pool only goes with the last head that is waited for there, and meanwhile others need room.
const CONNECTIONS: usize = 4;
/// From one new pool to the next.
const PAUSE: Duration = Duration::from_secs(1);
/// How often an HTTP/2 connection is asked whether it lives, and how long it may take to say so.
const PING: Duration = Duration::from_secs(20);
/// Bytes of the head of an answer.
const HEAD_BYTES: usize = 64 << 10;
/// Header fields of an answer.
const HEADERS: usize = 100;
/// Bytes that a server may send ahead of the guest, of one response and of all on an HTTP/2 connection.
const STREAM: u32 = 128 << 10;
const CONNECTION: u32 = 512 << 10;
/// Bytes of a request's body that the server does not take yet, HTTP/2.
const SEND: usize = 32 << 10;

/// Sends requests to the world for one service.
pub(super) struct Client {
    pool: Mutex<Kept>,
    /// What a pool is made of.
    connector: Connector,
    dial: Dial,
    /// Connections that are too many for one pool.
    kept: usize,
    places: Arc<Semaphore>,
    quota: Mutex<Quota>,
    /// For bodies of requests that may be sent again.
    room: Arc<ReplayMemory>,
    /// For requests that may lead to addresses which are not public, or back to this host by a proxy that it trusts.
    via: Option<Arc<Via>>,
}

/// What the clients of all services share.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) resolver: &'a Resolver,
    pub(super) via: &'a Arc<Via>,
    pub(super) room: &'a Arc<ReplayMemory>,
    /// The host trusts proxies, so every request of a guest has to be marked: any address may lead back to the host by one.
    pub(super) marks: bool,
}

/// Makes connections, with TLS where the scheme says so, within [`CONNECT`].
#[derive(Clone)]
struct Connector(HttpsConnector<Dial>);

/// An answer of the world, and the place that it takes.
pub(super) type Asked = (Response<Incoming>, OwnedSemaphorePermit);

type BoxError = Box<dyn StdError + Send + Sync>;

/// How a request goes, counted when that is known, or when nobody waits for it any more.
struct Outcome<'a> {
    service: &'a Service,
    word: &'static str,
    /// Only of what was sent: what is over a limit would push out the spans of others.
    span: ClientSpan,
}

type Pool = legacy::Client<Connector, WasiBody>;

/// The pool of new requests.
struct Kept {
    pool: Pool,
    /// When another one was begun the last time, if ever.
    begun: Option<Instant>,
}

fn pool(connector: &Connector) -> Pool {
    legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .http1_max_headers(HEADERS)
        .http1_max_buf_size(HEAD_BYTES)
        .http2_max_header_list_size(HEAD_BYTES as u32)
        .http2_initial_stream_window_size(STREAM)
        .http2_initial_connection_window_size(CONNECTION)
        .http2_max_send_buf_size(SEND)
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
        .build(connector.clone())
}

impl Kept {
    fn new(connector: &Connector) -> Self {
        Self { pool: pool(connector), begun: None }
    }
}

impl Client {
    /// One for what `grants` allows, within `limits`.
    pub(super) fn new(grants: &Grants, limits: &Limits, tls: ClientConfig, shared: Shared<'_>) -> Self {
        let Shared { resolver, via, room, marks } = shared;
        let dial = Dial::new(Arc::clone(resolver), grants, limits.outgoing * CONNECTIONS);
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let connector = Connector(https.enable_http1().enable_http2().wrap_connector(dial.clone()));
        let quota = Mutex::new(Quota::new(limits.outgoing_rate));
        let places = Arc::new(Semaphore::new(limits.outgoing));
        let via = (marks || grants.lists_private(is_public)).then(|| Arc::clone(via));
        Self {
            pool: Mutex::new(Kept::new(&connector)),
            connector,
            dial,
            kept: limits.outgoing * KEPT,
            places,
            quota,
            room: Arc::clone(room),
            via,
        }
    }

    /// Sends a request that may be sent, and waits for the head of its answer. The place that it takes is to be held to
    /// the end of the answer's body.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(super) async fn send(
        &self,
        service: &Service,
        context: &RequestContext,
        request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Asked, Failure> {
        let mut outcome = Outcome { service, word: "cancelled", span: ClientSpan::off() };
        // A guest that is used again may keep what it sent for an earlier request.
        let answering = self.answer(context, request, options, &mut outcome);
        let answered = tokio::time::timeout_at(end(context).into(), answering).await;
        let answered = answered.unwrap_or(Err(Failure::AnswerTimeout));
        outcome.is(answered.as_ref().map(|(response, _)| response));
        let (mut response, place) = answered?;
        headers::strip_hop_by_hop(response.headers_mut());
        Ok((response, place))
    }

    /// The pool; a new one when there are so many connections that most of them must be idle. That those of an old one are
    /// held by a head that somebody waits for is no reason to begin one for each request, which could reuse none: it is done
    /// once in a [`PAUSE`], unless there is hardly room for another connection.
    fn pool(&self, now: Instant) -> Pool {
        let mut kept = lock(&self.pool);
        let open = self.dial.open();
        let rested = kept.begun.is_none_or(|begun| now.saturating_duration_since(begun) >= PAUSE);
        if open > self.kept && (rested || open >= self.urgent()) {
            *kept = Kept { pool: pool(&self.connector), begun: Some(now) };
        }
        kept.pool.clone()
    }

    /// So many connections that one more request for each that may be under way could find no room.
    fn urgent(&self) -> usize {
        self.kept / KEPT * (CONNECTIONS - 1)
    }

    async fn answer(
        &self,
        context: &RequestContext,
        mut request: Request<WasiBody>,
        options: RequestOptions,
        outcome: &mut Outcome<'_>,
    ) -> Result<Asked, Failure> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Failure::Requests)?;
        let now = Instant::now();
        if !lock(&self.quota).take(now) {
            return Err(Failure::Rate);
        }
        // The connection says what is spoken on it, and so what becomes of the host.
        *request.version_mut() = Version::HTTP_11;
        request.headers_mut().remove(header::HOST);
        headers::strip_hop_by_hop(request.headers_mut());
        if let Some(via) = &self.via {
            via.mark_from_guest(request.headers_mut(), context.depth);
        }
        if let Some(onward) = &context.onward {
            outcome.span = onward.sends(&mut request, &outcome.service.name);
        }
        let (request, again) = Again::of(request, &self.room);
        let mut timeouts = Timeouts::new(&options);
        let lost = match once(self.pool(now), request, &mut timeouts).await {
            Ok(response) => return Ok((response, place)),
            Err(lost) => lost,
        };
        let Some(request) = again.and_then(|again| again.after(&lost)) else { return Err(lost.failure) };
        // To the server it is one more request.
        if !lock(&self.quota).take(Instant::now()) {
            return Err(lost.failure);
        }
        // The other connections of the pool may be closed as well: one of a pool of its own is new.
        let second = once(pool(&self.connector), request, &mut timeouts).await;
        second.map(|response| (response, place)).map_err(|lost| lost.failure)
    }
}

/// The timeouts of a request, which its tries share.
struct Timeouts {
    /// What is left of the time to connect.
    connect: Duration,
    first_byte: Option<Duration>,
    /// When the first byte of the response has to be there; known once the first try has a connection.
    end: Option<Instant>,
}

impl Timeouts {
    fn new(options: &RequestOptions) -> Self {
        let connect = options.connect_timeout.map_or(CONNECT, |limit| limit.min(CONNECT));
        Self { connect, first_byte: options.first_byte_timeout, end: None }
    }

    /// How long a try that begins now may take to connect.
    fn to_connect(&self, now: Instant) -> Duration {
        self.end.map_or(self.connect, |end| self.connect.min(end.saturating_duration_since(now)))
    }

    /// A try that began at `begun` has a connection. Returns when the first byte has to be there; a guest may set a timeout
    /// that no clock can represent, which is none.
    fn connected(&mut self, begun: Instant, now: Instant) -> Option<Instant> {
        self.connect = self.connect.saturating_sub(now.saturating_duration_since(begun));
        self.end = self.end.or_else(|| now.checked_add(self.first_byte?));
        self.end
    }
}

/// Sends a request by this pool, and waits for the head of its response.
async fn once(pool: Pool, mut request: Request<WasiBody>, timeouts: &mut Timeouts) -> Result<Response<Incoming>, Lost> {
    let begun = Instant::now();
    let mut connection = capture_connection(&mut request);
    let mut asked = std::pin::pin!(pool.request(request));
    let limit = timeouts.to_connect(begun);
    let connected = async { tokio::time::timeout(limit, connection.wait_for_connection_metadata()).await.is_ok() };
    let answered = tokio::select! {
        biased;
        answered = asked.as_mut() => {
            timeouts.connected(begun, begun);
            answered
        }
        connected = connected => {
            if !connected {
                return Err(Lost::late(Failure::ConnectTimeout));
            }
            match timeouts.connected(begun, Instant::now()) {
                Some(end) => {
                    let late = |_| Lost::late(Failure::AnswerTimeout);
                    tokio::time::timeout_at(end.into(), asked).await.map_err(late)?
                }
                None => asked.await,
            }
        }
    };
    let reused = Uses::count(&connection);
    answered.map_err(|error| Lost::new(&error, reused))
}

impl Outcome<'_> {
    fn is(&mut self, answered: Result<&Response<Incoming>, &Failure>) {
        let span = std::mem::take(&mut self.span);
        self.word = match answered {
            Ok(response) => {
                span.answered(response);
                match response.status().as_u16() {
                    100..200 => "1xx",
                    200..300 => "2xx",
                    300..400 => "3xx",
                    400..500 => "4xx",
                    _ => "5xx",
                }
            }
            Err(failure) => {
                span.failed(failure.outcome());
                failure.outcome()
            }
        };
    }
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        self.service.figures.outgoing.count(self.word);
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = MaybeHttpsStream<Line>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<MaybeHttpsStream<Line>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let connecting = self.0.call(target);
        Box::pin(async move {
            let late = |_| Err(Failure::ConnectTimeout.into());
            tokio::time::timeout(CONNECT, connecting).await.unwrap_or_else(late)
        })
    }
}

#[cfg(test)]
mod tests;
