//! One connection: HTTP is spoken on it until its client, its bounds or a stop end it.

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

use super::activity::{Activity, Verdict, Watched};
use super::frame::{Handler, Hop};
use super::headers::Peer;
use super::respond::{Body, Last};
use super::transfer::Outbound;
use crate::config;
use crate::drain::{Drain, Told};

/// What every connection shares.
pub struct Server {
    /// Who answers its requests.
    pub handler: Arc<Handler>,
    /// Whether the host is stopping.
    pub drain: Drain,
    /// Bounds of the listener.
    pub bounds: config::Listener,
}

/// What answers the requests of a connection.
pub trait Answer: Clone + Send + Sync + 'static {
    /// The body of its responses.
    type Body: Outbound;

    /// Answers one request.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// Spawns the streams of one HTTP/2 connection, which can then be reset one by one.
#[derive(Clone)]
struct Spawner(Arc<Activity>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, stream: F) {
        self.0.spawned(tokio::spawn(stream).abort_handle());
    }
}

/// The builder of a connection, HTTP/1.1 and HTTP/2 by prior knowledge on one port.
fn http(bounds: &config::Listener, spawner: Spawner) -> auto::Builder<Spawner> {
    let head = u32::try_from(bounds.head).unwrap_or(u32::MAX);
    let streams = u32::try_from(bounds.streams).unwrap_or(u32::MAX);
    let mut http = auto::Builder::new(spawner);
    http.http1()
        .timer(TokioTimer::new())
        // `activity` times the head, and tells an idle connection from a slow one; hyper's own timer does not.
        .header_read_timeout(None)
        .max_headers(bounds.headers)
        .max_buf_size(bounds.head)
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(head)
        .max_concurrent_streams(streams);
    http
}

/// A client's connection to the services.
#[derive(Clone)]
struct Client {
    server: Arc<Server>,
    peer: Arc<Peer>,
}

/// Serves a client's connection to its end.
pub async fn connection(server: Arc<Server>, stream: tokio::net::TcpStream, peer: Peer) {
    let client = Client { server: Arc::clone(&server), peer: Arc::new(peer) };
    let activity = Activity::new(&server.bounds, &server.handler.unsent, &server.handler.metrics);
    serve(stream, activity, &server.bounds, Some(server.drain.told()), client).await;
}

/// Serves one connection to its end: the client's, that of its bounds, or the host's where `told` tells of it.
pub async fn serve(
    stream: tokio::net::TcpStream,
    activity: Activity,
    bounds: &config::Listener,
    told: Option<&Told>,
    answer: impl Answer,
) {
    let activity = Arc::new(activity);
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity)));
    let service = service_fn(|request: Request<Incoming>| {
        let working = activity.begin(!request.body().is_end_stream());
        let (answer, activity) = (answer.clone(), Arc::clone(&activity));
        async move {
            let response = answer.answer(request).await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                activity.switch();
            }
            Ok::<_, Infallible>(working.until(response))
        }
    });
    let http = http(bounds, Spawner(Arc::clone(&activity)));
    let mut served = pin!(http.serve_connection_with_upgrades(io, service));
    let mut watch = activity.watch();
    let mut stops = pin!(async {
        match told {
            Some(told) => told.clone().stopping().await,
            None => std::future::pending().await,
        }
    });
    let (mut listens, mut stopping) = (false, false);
    loop {
        tokio::select! {
            // The connection first: the watch judges what it has just done.
            biased;
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!("connection ended: {error}");
                }
                return;
            }
            () = poll_fn(|cx| match told.is_some_and(Told::is_stopping) || !std::mem::replace(&mut listens, true) {
                true => stops.as_mut().poll(cx),
                // It is woken, then: asking at every turn would take a lock that all connections share.
                false => Poll::Pending,
            }), if !stopping => {
                stopping = true;
                activity.stop();
            }
            verdict = poll_fn(|cx| watch.poll(cx)) => match verdict {
                Verdict::Finish => served.as_mut().graceful_shutdown(),
                Verdict::Cut(why) => {
                    tracing::debug!("connection cut: {why}");
                    return;
                }
            },
        }
    }
}

impl Answer for Client {
    type Body = Body;

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (version, told) = (request.version(), self.server.drain.told());
        let mut response = self.server.handler.answer(Hop { peer: &self.peer, call: None }, request).await;
        let last = |response: &Response<Body>| response.extensions().get::<Last>().is_some();
        // HTTP/2 has GOAWAY for this.
        if version < Version::HTTP_2 && (told.is_stopping() || last(&response)) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
