//! Serves HTTP on one connection until its client, a bound or the stop of the host ends it.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};

use super::activity::{Activity, Verdict, Watched};
use super::intake::{self, Account, Buffers, Charged, Metered, Upload};
use super::places::ClientConnection;
use crate::request::handler::Handler;
use crate::request::respond::{Body, Last};
use lodge_base::config;
use lodge_base::cpu::turn::yield_turn;
use lodge_base::drain::{DrainGuard, StopSignal};
use lodge_traffic::proxy::headers::{Peer, TooManyFields};
use lodge_traffic::proxy::outbound::Outbound;

/// What all connections to the services share.
pub struct Server {
    /// Responds to requests.
    pub handler: Arc<Handler>,
    /// Counts connections, and signals them to finish when the host stops.
    pub drain: DrainGuard,
    /// The bounds of a connection.
    pub bounds: config::Listener,
    /// The memory for data that clients send.
    pub buffers: Arc<Buffers>,
}

/// The most bytes of a response that hyper buffers for an HTTP/2 stream: one frame, while the frame before is written.
const SEND: usize = 16 << 10;

/// The most streams that a client may have reset before their tasks have noticed; more end the connection (CVE-2023-44487).
const RESETS: usize = 20;

/// The most streams that the host resets because of protocol errors of the client; more end the connection.
const FAULTS: usize = 1024;

/// Responds to the requests of a connection.
pub trait Responder: Clone + Send + Sync + 'static {
    /// The body of the responses.
    type Body: Outbound;

    /// Responds to a request.
    fn respond(&self, request: Request<Upload<Incoming>>) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// The bytes of a connection, with or without TLS.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> ByteStream for S {}

/// Spawns the streams of an HTTP/2 connection as tasks, so that each can be reset alone.
#[derive(Clone)]
struct Spawner(Arc<Activity>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, stream: F) {
        self.0.spawned(tokio::spawn(stream).abort_handle());
    }
}

/// Returns the builder of connections: HTTP/1.1, and HTTP/2 with prior knowledge, on one port.
fn http(bounds: &config::Listener, spawner: Spawner) -> auto::Builder<Spawner> {
    let head = u32::try_from(bounds.head).unwrap_or(u32::MAX);
    let streams = u32::try_from(bounds.streams).unwrap_or(u32::MAX);
    let (stream, connection) = intake::windows(bounds.memory);
    let mut http = auto::Builder::new(spawner);
    http.http1()
        .timer(TokioTimer::new())
        // `activity` has a timeout for the head that distinguishes an idle connection from a slow head; hyper's does not.
        .header_read_timeout(None)
        .max_headers(bounds.headers)
        .max_buf_size(bounds.head)
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(head)
        .max_concurrent_streams(streams)
        .initial_stream_window_size(stream)
        .initial_connection_window_size(connection)
        .max_send_buf_size(SEND)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(FAULTS);
    http
}

/// A client's connection to the services.
#[derive(Clone)]
struct Client {
    server: Arc<Server>,
    peer: Arc<Peer>,
}

/// Serves a client's connection to its end. `open` is what gives it up for another one.
pub async fn connection(server: Arc<Server>, stream: impl ByteStream, peer: Peer, open: Option<&ClientConnection>) {
    let client = Client { server: Arc::clone(&server), peer: Arc::new(peer) };
    let activity = Activity::new(&server.bounds, &server.handler.unsent, &server.handler.metrics);
    let activity = Arc::new(activity.valid_until(client.peer.valid_until()));
    if let Some(open) = open {
        open.set_activity(&activity);
    }
    let account = Account::new(&server.buffers, server.bounds.streams);
    serve(stream, (activity, account), &server.bounds, Some(server.drain.stop_signal()), client).await;
}

/// Serves a connection until the client ends it, a bound is exceeded, or `stop_signal` fires and its requests are finished.
pub async fn serve(
    stream: impl ByteStream,
    (activity, account): (Arc<Activity>, Arc<Account>),
    bounds: &config::Listener,
    stop_signal: Option<&StopSignal>,
    responder: impl Responder,
) {
    let metered = Metered::new(stream, Arc::clone(&account));
    let io = TokioIo::new(Watched::new(metered, Arc::clone(&activity)));
    let service = service_fn(|request: Request<Incoming>| {
        let upload = !request.body().is_end_stream();
        let (active, charge) = (activity.begin(upload), account.begin(request.headers(), upload));
        let request = bounded(request, &account, bounds.headers);
        let responder = responder.clone();
        async move {
            if active.is_late() {
                std::future::pending::<()>().await;
            }
            let response = responder.respond(request).await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                active.switch();
                charge.leave();
            }
            Ok::<_, Infallible>(active.track(response).map(|body| Charged::new(body, charge)))
        }
    });
    let http = http(bounds, Spawner(Arc::clone(&activity)));
    let mut served = pin!(http.serve_connection_with_upgrades(io, service));
    let mut watch = activity.watch();
    if stop_signal.is_some_and(StopSignal::is_stopping) {
        activity.stop();
    }
    let mut stops = pin!(async {
        match stop_signal {
            Some(stop_signal) => stop_signal.clone().stopping().await,
            None => std::future::pending().await,
        }
    });
    let (mut listens, mut stopping) = (false, false);
    loop {
        tokio::select! {
            // The connection is polled before the watch, which judges the state that this leaves.
            biased;
            ended = poll_fn(|cx| {
                account.turn();
                let polled = served.as_mut().poll(cx);
                if polled.is_pending() && account.wears_out() {
                    served.as_mut().graceful_shutdown();
                    return yield_turn(cx);
                }
                polled
            }) => {
                if let Err(error) = ended {
                    tracing::debug!("connection ended: {error}");
                }
                return;
            }
            () = poll_fn(|cx| match stop_signal.is_some_and(StopSignal::is_stopping) || !std::mem::replace(&mut listens, true) {
                true => stops.as_mut().poll(cx),
                // Polled again only when woken: each poll takes a lock that all connections share.
                false => Poll::Pending,
            }), if !stopping => {
                stopping = true;
                activity.stop();
            }
            verdict = poll_fn(|cx| watch.poll(cx)) => match verdict {
                Verdict::Finish => served.as_mut().graceful_shutdown(),
                Verdict::Cut(why) => {
                    tracing::debug!("closed a connection: {why}");
                    return;
                }
            },
        }
    }
}

/// Returns the request with a body that is charged to `account`. Head and trailers may have at most `fields` fields each.
/// hyper enforces this for the head of HTTP/1.1; for HTTP/2 it limits only bytes.
fn bounded(request: Request<Incoming>, account: &Arc<Account>, fields: usize) -> Request<Upload<Incoming>> {
    let mut request = request.map(|body| Upload::new(body, account, fields));
    if request.version() == Version::HTTP_2 && TooManyFields::applies(request.headers(), fields) {
        request.extensions_mut().insert(TooManyFields);
    }
    request
}

impl Responder for Client {
    type Body = Body;

    fn respond(&self, request: Request<Upload<Incoming>>) -> impl Future<Output = Response<Body>> + Send {
        let version = request.version();
        async move {
            let mut response = self.server.handler.respond(&self.peer, None, request).await;
            let last = |response: &Response<Body>| response.extensions().get::<Last>().is_some();
            // HTTP/2 sends GOAWAY instead.
            if version < Version::HTTP_2 && (self.server.drain.stop_signal().is_stopping() || last(&response)) {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    }
}
