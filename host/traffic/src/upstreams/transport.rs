//! Sends requests to one replica over pooled connections.
//!
//! A [`Pool`] belongs to one replica. Its address is fixed, whatever host a request names, and dropping the pool closes
//! its connections. [`Pool::send`] returns with the head of the response. The response's body holds the connection
//! until its last byte. Both bodies and their trailers are streamed with back-pressure.
//!
//! # What the caller may send again
//! A request of which nothing was sent comes back in [`SendError::never_sent`]. If the replica closed a connection
//! while it was idle, the pool itself uses another or a new one, as long as it still has the request. Whether a request
//! that was sent may be repeated depends on its method, except for [`ErrorKind::Refused`], which always may.
//!
//! # Invariants
//! * At most [`PoolSettings::connections`] sockets to the replica exist, including those being opened: each socket owns
//!   a slot. All pools together stay within [`ConnectionLimit`]. A connection that switches protocols gives its slot
//!   back; the caller bounds the number of tunnels.
//! * Connecting, waiting for a connection and waiting for the head of a response have timeouts. A stalled body is
//!   bounded by the deadline of the request.
//! * There is one task per connection and one per pool. HTTP/1.1 needs none per request. hyper's HTTP/2 has one per
//!   stream, and another while its upload waits.
//!
//! # Decisions
//! * 2026-11: not hyper-util's legacy client, whose pool is keyed by the request's host. Not its `client::pool` either:
//!   it bounds neither connections nor idle time, needs `&mut`, and drops the request that hyper gives back.
//! * 2026-11: upgrades only over HTTP/1.1. The caller removes hop-by-hop headers, except `Upgrade` and its
//!   `Connection`. `Expect` is passed on without waiting for a 100; interim responses are dropped here.

mod connect;
mod error;
mod form;
mod h2_stats;
mod idle_pool;
pub mod interim;
mod limit;
mod received;
mod slots;
mod target;
mod upload;

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::uri::Authority;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use rustls::ClientConfig;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use bytes::Bytes;
use connect::{Connector, Opened};
pub use error::{ErrorKind, SendError, is_refusal};
use error::{SendFailure, chain, judge};
use http_body_util::combinators::UnsyncBoxBody;
use idle_pool::{Connection, HttpVersion, IdlePool, Opening, PERIODS, Step};
pub use limit::ConnectionLimit;
use limit::HTTP2_UNITS;
use lodge_base::lasting::forever;
use lodge_manifest::upstream::protocol::{Protocol, Scheme};
pub use received::ReceivedBody;
use received::{received, unusable};
use slots::{ConnectionSlot, Full};
pub use target::Target;
use upload::{UploadBody, UploadProgress};

/// The body of any request.
pub type AnyBody = UnsyncBoxBody<Bytes, BoxError>;

/// The error of any body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// New connections that one request may use while each closes before it takes the request.
const FRESH: usize = 2;

/// Limits and protocol of the connections to a replica.
#[derive(Clone)]
pub struct PoolSettings {
    /// The timeout for opening a connection, including TLS.
    pub connect: Duration,
    /// The longest wait for a connection while all are in use.
    pub wait: Duration,
    /// The timeout for the head of the response, counted from the last part of the request that was sent. Starts over
    /// while an upload progresses.
    pub read: Duration,
    /// The longest idle time of a connection; some close after three quarters of it. Should be shorter than the
    /// replica's own, or the replica may close a connection while a request is on its way.
    pub idle: Duration,
    /// The most connections at once.
    pub connections: usize,
    /// The bound on the connections to all replicas.
    pub total: Arc<ConnectionLimit>,
    /// The HTTP version.
    pub protocol: Protocol,
    /// For replicas with TLS: the trusted roots ([`tls::client`](lodge_base::tls::client)). Its ALPN protocols are
    /// replaced.
    pub tls: Option<Arc<ClientConfig>>,
}

impl PoolSettings {
    /// Returns whether HTTP/2 may be used.
    pub fn may_use_http2(&self) -> bool {
        match self.protocol {
            Protocol::Http1 => false,
            Protocol::Http2 => true,
            Protocol::Auto => self.tls.is_some(),
        }
    }
}

/// The connections of one replica, to be shared in an `Arc`. Dropping it closes idle connections at once, others after
/// their exchange.
pub struct Pool<B> {
    idle_pool: Arc<IdlePool<B>>,
    connector: Connector,
    scheme: Scheme,
    /// The host of requests that name none.
    default_authority: Authority,
    connect: Duration,
    wait: Duration,
    read: Duration,
    reaper: AbortHandle,
}

/// The outcome of a request on one connection.
enum ExchangeOutcome<B> {
    Responded(Response<ReceivedBody<B>>),
    /// Nothing was sent, and the request is not the cause.
    Back(Request<B>, SendFailure),
    Failed(SendError<B>),
}

type HyperResult<B> = Result<Response<Incoming>, TrySendError<Request<UploadBody<B>>>>;

impl<B> Pool<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Creates a pool without connections. Must be called inside the runtime.
    ///
    /// # Errors
    /// One line, if the target's host is invalid, or if it needs TLS and `settings` has no roots.
    pub fn new(target: Target, settings: &PoolSettings) -> Result<Self, String> {
        let default_authority =
            Authority::try_from(target.authority()).map_err(|error| format!("{target}: {error}"))?;
        let scheme = target.scheme;
        let connector = Connector::new(target, settings)?;
        let idle_pool = IdlePool::new(settings.connections.max(1), connector.known_version(), &settings.total);
        let pool: Weak<IdlePool<B>> = Arc::downgrade(&idle_pool);
        settings.total.add(pool);
        let period = (settings.idle / PERIODS).max(Duration::from_millis(1));
        let reaped = Arc::clone(&idle_pool);
        let reaper =
            tokio::spawn(forever("idle connections", move || reap(Arc::clone(&reaped), period))).abort_handle();
        let PoolSettings { connect, wait, read, .. } = *settings;
        Ok(Self { idle_pool, connector, scheme, default_authority, connect, wait, read, reaper })
    }

    /// Sends a request and returns the head of its response. The host is taken from the URI or from `Host`, as a server
    /// receives it. Dropping the future closes the connection or resets the stream.
    ///
    /// # Errors
    /// Why there is no response, together with the request if nothing of it was sent.
    pub async fn send(&self, mut request: Request<B>) -> Result<Response<ReceivedBody<B>>, SendError<B>> {
        let mut fresh = 0;
        loop {
            let connection = match self.acquire().await {
                Ok(connection) => connection,
                Err(failure) => return Err(SendError::unsent(failure, request)),
            };
            fresh += usize::from(!connection.reused());
            match self.exchange(connection, request).await {
                ExchangeOutcome::Responded(response) => return Ok(response),
                ExchangeOutcome::Failed(error) => return Err(error),
                ExchangeOutcome::Back(back, failure) if fresh >= FRESH => return Err(SendError::unsent(failure, back)),
                ExchangeOutcome::Back(back, _) => request = back,
            }
        }
    }

    /// Returns the number of sockets that are open or being opened.
    pub fn open(&self) -> usize {
        self.idle_pool.slots.taken()
    }

    /// Returns the number of idle connections.
    pub fn idle(&self) -> usize {
        self.idle_pool.idle()
    }

    /// Returns a connection that can take a request.
    async fn acquire(&self) -> Result<Connection<B>, SendFailure> {
        loop {
            let step = match self.idle_pool.next() {
                Ok(step) => step,
                Err(_) => self.wait_for_step().await?,
            };
            match step {
                Step::Open(opening, slot) => return self.connected(opening, slot).await,
                Step::Use(Connection::Http1(mut exchange)) if !exchange.conn.sender.is_ready() => {
                    // The last response was read to its end, but the connection's task has not noticed yet.
                    if let Ok(Ok(())) = tokio::time::timeout(self.wait, exchange.conn.sender.ready()).await {
                        return Ok(Connection::Http1(exchange));
                    }
                }
                Step::Use(connection) => return Ok(connection),
            }
        }
    }

    /// Waits until a connection is usable or may be opened. At the bound on all connections, closes an idle one to get
    /// its units.
    async fn wait_for_step(&self) -> Result<Step<B>, SendFailure> {
        let (slots, total) = (&self.idle_pool.slots, &self.idle_pool.slots.total);
        let _waiting = (slots.add_waiter(), total.add_waiter());
        let turn = async {
            let mut woken_by_total = false;
            loop {
                // Registers for notifications before checking, so that none is missed in between. One that was received
                // and not awaited is passed on to the next waiter.
                let (mut freed, mut elsewhere) = (pin!(slots.freed.notified()), pin!(total.freed.notified()));
                freed.as_mut().enable();
                elsewhere.as_mut().enable();
                match self.idle_pool.next() {
                    Ok(step) => return step,
                    Err(Full::Replica) => {
                        if std::mem::take(&mut woken_by_total) {
                            total.notify_free();
                        }
                        freed.await;
                    }
                    Err(Full::Host) => {
                        total.close_idle();
                        woken_by_total = tokio::select! {
                            () = freed => false,
                            () = elsewhere => true,
                        };
                    }
                }
            }
        };
        tokio::time::timeout(self.wait, turn).await.map_err(|_| {
            let wait = humantime::format_duration(self.wait);
            if self.idle_pool.is_opening() {
                (ErrorKind::ConnectTimeout, self.connector.message(&format!("no connection within {wait}")))
            } else if total.is_full(1)
                || self.connector.known_version() != Some(HttpVersion::Http1) && total.is_full(HTTP2_UNITS)
            {
                let most = total.limit();
                let why = format!(
                    "all {most} of upstreams.connections are in use, and none became free or idle within {wait}"
                );
                (ErrorKind::Overloaded, self.connector.message(&why))
            } else {
                let open = self.open();
                (
                    ErrorKind::Overloaded,
                    self.connector.message(&format!("none of {open} connections was free within {wait}")),
                )
            }
        })
    }

    async fn connected(&self, opening: Opening<B>, slot: ConnectionSlot) -> Result<Connection<B>, SendFailure> {
        let opened = tokio::time::timeout(self.connect, self.connector.connect(slot)).await.unwrap_or_else(|_| {
            let within = humantime::format_duration(self.connect);
            Err((ErrorKind::ConnectTimeout, self.connector.message(&format!("no connection within {within}"))))
        })?;
        Ok(match opened {
            Opened::Http1(conn) => Connection::Http1(opening.opened_http1(conn)),
            Opened::Http2(sender, stats) => Connection::Http2(opening.opened_http2(sender, stats)),
        })
    }

    async fn exchange(&self, mut connection: Connection<B>, mut request: Request<B>) -> ExchangeOutcome<B> {
        let formed = match &connection {
            Connection::Http1(_) => form::to_http1(&mut request, &self.default_authority),
            Connection::Http2(_) => form::to_http2(&mut request, self.scheme.uri(), &self.default_authority),
        };
        if let Err(why) = formed {
            connection.finish();
            return ExchangeOutcome::Failed(SendError::unsent(
                (ErrorKind::Unsendable, self.connector.message(&why)),
                request,
            ));
        }
        if matches!(connection, Connection::Http1(_)) {
            form::set_chunked(&mut request);
        }
        if let Connection::Http1(exchange) = &connection {
            exchange.conn.interim().watch(&mut request);
        }
        let request = request.map(UploadBody::new);
        let upload = request.body().upload();
        let before = connection.reads();
        let outcome = match &mut connection {
            Connection::Http1(exchange) => {
                self.in_time(exchange.conn.sender.try_send_request(request), upload.as_deref()).await
            }
            Connection::Http2(stream) => self.in_time(stream.sender.try_send_request(request), upload.as_deref()).await,
        };
        match outcome {
            Some(Ok(response)) => match unusable(&response, &connection) {
                Some(why) => {
                    let (cause, reused) = (self.connector.message(&why), connection.reused());
                    ExchangeOutcome::Failed(SendError { kind: ErrorKind::Rubbish, cause, reused, never_sent: None })
                }
                None => ExchangeOutcome::Responded(received(response, connection, upload)),
            },
            Some(Err(error)) => self.failed(error, connection, upload.as_deref()),
            None => {
                let read = humantime::format_duration(self.read);
                let cause = self.connector.message(&format!("no response within {read}"));
                let reused = connection.reused();
                // Nothing arrived for any stream in all that time, so the connection is dead rather than the request
                // slow.
                if connection.reads() == before {
                    connection.retire();
                }
                ExchangeOutcome::Failed(SendError { kind: ErrorKind::ReadTimeout, cause, reused, never_sent: None })
            }
        }
    }

    /// Waits for the head of the response for [`PoolSettings::read`], counted from the last part of the request that
    /// was sent. Returns `None` on timeout.
    async fn in_time(
        &self,
        sent: impl Future<Output = HyperResult<B>>,
        upload: Option<&UploadProgress>,
    ) -> Option<HyperResult<B>> {
        let mut sent = pin!(sent);
        let mut until = Instant::now() + self.read;
        loop {
            if let Ok(outcome) = tokio::time::timeout_at(until, &mut sent).await {
                return Some(outcome);
            }
            let next = upload.map_or(until, |upload| upload.last_part() + self.read);
            if next <= until {
                return None;
            }
            until = next;
        }
    }

    fn failed(
        &self,
        mut error: TrySendError<Request<UploadBody<B>>>,
        connection: Connection<B>,
        upload: Option<&UploadProgress>,
    ) -> ExchangeOutcome<B> {
        let (back, reused) = (error.take_message(), connection.reused());
        let error = error.into_error();
        let is_closed = !reused && (back.is_some() || judge(&error) == ErrorKind::Reset);
        let cause = if is_closed { self.connector.closed(&error) } else { self.connector.message(&chain(&error)) };
        if let Some(back) = back {
            connection.retire();
            return ExchangeOutcome::Back(back.map(UploadBody::into_inner), (ErrorKind::Reset, cause));
        }
        let broken = upload.is_some_and(UploadProgress::is_broken);
        let kind = if broken { ErrorKind::Upload } else { judge(&error) };
        ExchangeOutcome::Failed(SendError { kind, cause, reused, never_sent: None })
    }
}

impl<B> Drop for Pool<B> {
    fn drop(&mut self) {
        self.reaper.abort();
        self.idle_pool.close();
    }
}

async fn reap<B>(idle_pool: Arc<IdlePool<B>>, period: Duration) {
    let mut periods = tokio::time::interval(period);
    periods.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        periods.tick().await;
        idle_pool.sweep();
    }
}

#[cfg(test)]
mod tests;
