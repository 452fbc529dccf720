//! The HTTP client of one service. Its connections are used by no other service.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::uri::Uri;
use http::{Request, Response, Version, header};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime_wasi_http::{RequestOptions, WasiBody};

use super::counted::CountedStream;
use super::dial::{Dialer, NameResolver};
use super::failure::OutgoingFailure;
use super::rate::TokenBucket;
use super::response_deadline;
use super::retry::{ConnectionUses, LostRequest, SecondAttempt};
use crate::capabilities::sandbox::RequestContext;
use lodge_base::address::is_public;
use lodge_base::config::limits::Limits;
use lodge_base::lock::lock;
use lodge_base::telemetry::traces::ClientSpan;
use lodge_manifest::grants::Grants;
use lodge_traffic::proxy::cluster_hop::CLUSTER_HOP;
use lodge_traffic::proxy::frames::WindowedBody;
use lodge_traffic::proxy::headers;
use lodge_traffic::proxy::via::Via;
use lodge_traffic::service::Service;
use lodge_traffic::upstreams::replay::ReplayMemory;
use lodge_traffic::upstreams::transport::interim::InterimCount;

/// The timeout for DNS, connecting and TLS, unless the guest sets a shorter one.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an idle connection stays open.
const IDLE: Duration = Duration::from_secs(30);
/// The most idle connections per host.
const IDLE_PER_HOST: usize = 8;
/// When there are more connections than this for each request allowed in flight, a new pool replaces the old one, which
/// closes the old one's idle connections.
const RENEW_FACTOR: usize = 2;
/// The most connections for each request allowed in flight. Above [`RENEW_FACTOR`], since a replaced pool stays until
/// its last pending response has a head.
const LIMIT_FACTOR: usize = 4;
/// The shortest time between two replacements of the pool.
const RENEW_INTERVAL: Duration = Duration::from_secs(1);
/// The interval of HTTP/2 pings, and the timeout for the reply.
const PING: Duration = Duration::from_secs(20);
/// The most bytes of a response head.
const HEAD_BYTES: usize = 64 << 10;
/// The most header fields of a response.
const HEADERS: usize = 100;
/// Bytes that a server may send ahead of the guest: per response, and per HTTP/2 connection.
const STREAM: u32 = 128 << 10;
const CONNECTION: u32 = 512 << 10;
/// The most buffered bytes of a request body per HTTP/2 stream.
const SEND: usize = 32 << 10;

/// Sends requests to the world for one service.
pub(super) struct WorldClient {
    pool: Mutex<CurrentPool>,
    /// Opens connections for a pool.
    connector: TimedConnector,
    dial: Dialer,
    /// The number of connections above which the pool is replaced.
    renew_above: usize,
    slots: Arc<Semaphore>,
    rate: Mutex<TokenBucket>,
    /// The memory for bodies that may have to be sent a second time.
    replay_memory: Arc<ReplayMemory>,
    /// Set if requests may reach addresses that are not public, or come back through a trusted proxy: they carry `Via`
    /// then.
    via: Option<Arc<Via>>,
}

/// What the clients of all services share.
#[derive(Clone, Copy)]
pub(super) struct ClientContext<'a> {
    pub(super) resolver: &'a NameResolver,
    pub(super) via: &'a Arc<Via>,
    pub(super) replay_memory: &'a Arc<ReplayMemory>,
    /// Whether every request carries `Via`, because the host trusts proxies and any address may lead back through one.
    pub(super) marks_all: bool,
}

/// Opens connections, with TLS for https, within [`CONNECT`].
#[derive(Clone)]
struct TimedConnector(HttpsConnector<Dialer>);

/// A response of the world, with the slot that it occupies.
pub(super) type PermittedResponse = (Response<Incoming>, OwnedSemaphorePermit);

type BoxError = Box<dyn StdError + Send + Sync>;

/// The outcome of a request. Counted when it is known, or as cancelled when the request is dropped.
struct OutcomeGuard<'a> {
    service: &'a Service,
    word: &'static str,
    /// Starts when the request is sent: a request over a limit has no span, since it would displace others.
    span: ClientSpan,
}

type HyperPool = legacy::Client<TimedConnector, WindowedBody<WasiBody>>;

/// The pool for new requests.
struct CurrentPool {
    pool: HyperPool,
    /// When the pool was last replaced.
    begun: Option<Instant>,
}

fn pool(connector: &TimedConnector) -> HyperPool {
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

impl CurrentPool {
    fn new(connector: &TimedConnector) -> Self {
        Self { pool: pool(connector), begun: None }
    }
}

impl WorldClient {
    /// Creates a client for the origins of `grants`, within `limits`.
    pub(super) fn new(grants: &Grants, limits: &Limits, tls: ClientConfig, shared: ClientContext<'_>) -> Self {
        let ClientContext { resolver, via, replay_memory, marks_all } = shared;
        let dial = Dialer::new(Arc::clone(resolver), grants, limits.outgoing * LIMIT_FACTOR);
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let connector = TimedConnector(https.enable_http1().enable_http2().wrap_connector(dial.clone()));
        let rate = Mutex::new(TokenBucket::new(limits.outgoing_rate));
        let slots = Arc::new(Semaphore::new(limits.outgoing));
        let via = (marks_all || grants.lists_private(is_public)).then(|| Arc::clone(via));
        Self {
            pool: Mutex::new(CurrentPool::new(&connector)),
            connector,
            dial,
            renew_above: limits.outgoing * RENEW_FACTOR,
            slots,
            rate,
            replay_memory: Arc::clone(replay_memory),
            via,
        }
    }

    /// Sends a request whose origin is allowed, and waits for the head of its response. The slot must be held until the
    /// end of the response's body.
    ///
    /// # Errors
    /// Why there is no response.
    pub(super) async fn send(
        &self,
        service: &Service,
        context: &RequestContext,
        request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<PermittedResponse, OutgoingFailure> {
        let mut outcome = OutcomeGuard { service, word: "cancelled", span: ClientSpan::off() };
        // A warm instance may still hold a request that it sent for an earlier client.
        let sending = self.send_with_retry(context, request, options, &mut outcome);
        let result = tokio::time::timeout_at(response_deadline(context).into(), sending).await;
        let result = result.unwrap_or(Err(OutgoingFailure::ResponseTimeout)).and_then(decodable);
        outcome.set(result.as_ref().map(|(response, _)| response));
        let (mut response, slot) = result?;
        headers::strip_hop_by_hop(response.headers_mut());
        Ok((response, slot))
    }

    /// Returns the pool, after replacing it if most of its connections must be idle. At most once per
    /// [`RENEW_INTERVAL`], unless the bound on connections is near: while pending responses keep the old connections
    /// open, a new pool for each request would reuse none.
    fn pool(&self, now: Instant) -> HyperPool {
        let mut current = lock(&self.pool);
        let open = self.dial.open();
        let rested = current.begun.is_none_or(|begun| now.saturating_duration_since(begun) >= RENEW_INTERVAL);
        if open > self.renew_above && (rested || open >= self.nearly_full()) {
            *current = CurrentPool { pool: pool(&self.connector), begun: Some(now) };
        }
        current.pool.clone()
    }

    /// Returns the number of connections at which another round of requests might not fit.
    fn nearly_full(&self) -> usize {
        self.renew_above / RENEW_FACTOR * (LIMIT_FACTOR - 1)
    }

    async fn send_with_retry(
        &self,
        context: &RequestContext,
        mut request: Request<WasiBody>,
        options: RequestOptions,
        outcome: &mut OutcomeGuard<'_>,
    ) -> Result<PermittedResponse, OutgoingFailure> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| OutgoingFailure::Requests)?;
        let now = Instant::now();
        if !lock(&self.rate).take(now) {
            return Err(OutgoingFailure::Rate);
        }
        // The connection determines the version, and with it the form of the host.
        *request.version_mut() = Version::HTTP_11;
        request.headers_mut().remove(header::HOST);
        headers::strip_hop_by_hop(request.headers_mut());
        // Only the host says which service calls another host of the cluster.
        request.headers_mut().remove(CLUSTER_HOP);
        if let Some(via) = &self.via {
            via.mark_from_guest(request.headers_mut(), context.depth);
        }
        if let Some(onward) = &context.onward {
            outcome.span = onward.begin_guest_request(&mut request, &outcome.service.name);
        }
        let (request, retry) = SecondAttempt::of(request, &self.replay_memory);
        let mut timeouts = Timeouts::new(&options);
        let lost = match send_once(self.pool(now), request, &mut timeouts).await {
            Ok(response) => return Ok((response, slot)),
            Err(lost) => lost,
        };
        let Some(request) = retry.and_then(|retry| retry.after(&lost)) else { return Err(lost.failure) };
        // A retry is another request to the server.
        if !lock(&self.rate).take(Instant::now()) {
            return Err(lost.failure);
        }
        // Other connections of the pool may be closed as well. A separate pool opens a new one.
        let second = send_once(pool(&self.connector), request, &mut timeouts).await;
        second.map(|response| (response, slot)).map_err(|lost| lost.failure)
    }
}

/// Returns a response unless its body has a coding that is not decoded: without the header, the guest would take it for a plain one.
fn decodable(response: PermittedResponse) -> Result<PermittedResponse, OutgoingFailure> {
    match headers::has_known_coding(response.0.headers()) {
        true => Ok(response),
        false => Err(OutgoingFailure::Protocol("the Transfer-Encoding is not `chunked`, exactly once".into())),
    }
}

/// The timeouts of a request, shared by its attempts.
struct Timeouts {
    /// What is left of the time for connecting.
    connect: Duration,
    first_byte: Option<Duration>,
    /// When the first byte of the response is due; set once the first attempt is connected.
    end: Option<Instant>,
}

impl Timeouts {
    fn new(options: &RequestOptions) -> Self {
        let connect = options.connect_timeout.map_or(CONNECT, |limit| limit.min(CONNECT));
        Self { connect, first_byte: options.first_byte_timeout, end: None }
    }

    /// Returns how long an attempt that begins now may take to connect.
    fn to_connect(&self, now: Instant) -> Duration {
        self.end.map_or(self.connect, |end| self.connect.min(end.saturating_duration_since(now)))
    }

    /// Records that an attempt that began at `begun` is connected. Returns when the first byte is due; `None` also if
    /// the guest's timeout is too long for the clock.
    fn connected(&mut self, begun: Instant, now: Instant) -> Option<Instant> {
        self.connect = self.connect.saturating_sub(now.saturating_duration_since(begun));
        self.end = self.end.or_else(|| now.checked_add(self.first_byte?));
        self.end
    }
}

/// Sends a request through this pool and waits for the head of its response.
async fn send_once(
    pool: HyperPool,
    mut request: Request<WasiBody>,
    timeouts: &mut Timeouts,
) -> Result<Response<Incoming>, LostRequest> {
    let begun = Instant::now();
    let mut connection = capture_connection(&mut request);
    let interim = Arc::<InterimCount>::default();
    interim.watch(&mut request);
    let mut asked = std::pin::pin!(async {
        tokio::select! {
            result = pool.request(request.map(WindowedBody::new)) => Ok(result),
            error = interim.over() => Err(LostRequest::late(OutgoingFailure::Protocol(error.to_string()))),
        }
    });
    let limit = timeouts.to_connect(begun);
    let connected = async { tokio::time::timeout(limit, connection.wait_for_connection_metadata()).await.is_ok() };
    let result = tokio::select! {
        biased;
        result = asked.as_mut() => {
            timeouts.connected(begun, begun);
            result
        }
        connected = connected => {
            if !connected {
                return Err(LostRequest::late(OutgoingFailure::ConnectTimeout));
            }
            match timeouts.connected(begun, Instant::now()) {
                Some(end) => {
                    let late = |_| LostRequest::late(OutgoingFailure::ResponseTimeout);
                    tokio::time::timeout_at(end.into(), asked).await.map_err(late)?
                }
                None => asked.await,
            }
        }
    };
    let reused = ConnectionUses::count(&connection);
    result?.map_err(|error| LostRequest::new(&error, reused))
}

impl OutcomeGuard<'_> {
    fn set(&mut self, result: Result<&Response<Incoming>, &OutgoingFailure>) {
        let span = std::mem::take(&mut self.span);
        self.word = match result {
            Ok(response) => {
                span.finish(response);
                match response.status().as_u16() {
                    100..200 => "1xx",
                    200..300 => "2xx",
                    300..400 => "3xx",
                    400..500 => "4xx",
                    _ => "5xx",
                }
            }
            Err(failure) => {
                span.fail(failure.outcome());
                failure.outcome()
            }
        };
    }
}

impl Drop for OutcomeGuard<'_> {
    fn drop(&mut self) {
        self.service.metrics.outgoing.count(self.word);
    }
}

impl tower_service::Service<Uri> for TimedConnector {
    type Response = TokioIo<CountedStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<CountedStream>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let connecting = self.0.call(target);
        Box::pin(async move {
            let late = |_| Err(OutgoingFailure::ConnectTimeout.into());
            let stream = tokio::time::timeout(CONNECT, connecting).await.unwrap_or_else(late)?;
            Ok(TokioIo::new(CountedStream::new(stream)))
        })
    }
}

#[cfg(test)]
mod tests;
