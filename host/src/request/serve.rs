//! One connection: HTTP is spoken on it until its client, its bounds or a stop end it.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;

use super::activity::{Activity, Verdict, Watched};
use super::frame::{Handler, Hop};
use super::headers::Peer;
use super::respond::{Body, Last};
use crate::config;
use crate::drain::Drain;

/// What every connection shares.
pub struct Server {
    /// Who answers its requests.
    pub handler: Arc<Handler>,
    /// Whether the host is stopping.
    pub drain: Drain,
    /// How HTTP is spoken.
    pub http: auto::Builder<TokioExecutor>,
    /// Bounds of the listener.
    pub bounds: config::Listener,
}

/// The builder of all connections, HTTP/1.1 and HTTP/2 by prior knowledge on one port.
pub fn http(bounds: &config::Listener) -> auto::Builder<TokioExecutor> {
    let head = u32::try_from(bounds.head).unwrap_or(u32::MAX);
    let streams = u32::try_from(bounds.streams).unwrap_or(u32::MAX);
    let mut http = auto::Builder::new(TokioExecutor::new());
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

/// Serves one connection to its end.
pub async fn connection(server: Arc<Server>, stream: tokio::net::TcpStream, peer: Peer) {
    let activity = Arc::new(Activity::new(&server.bounds));
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity)));
    let service = service_fn({
        let (server, activity, peer) = (Arc::clone(&server), Arc::clone(&activity), Arc::new(peer));
        move |request: Request<Incoming>| {
            let working = activity.begin(!request.body().is_end_stream());
            let (server, peer) = (Arc::clone(&server), Arc::clone(&peer));
            let activity = Arc::clone(&activity);
            async move {
                let response = frame(&server, &peer, request).await;
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    activity.switch();
                }
                Ok::<_, Infallible>(working.until(response))
            }
        }
    });
    let mut served = pin!(server.http.serve_connection_with_upgrades(io, service));
    let mut watch = activity.watch();
    let mut told = pin!(server.drain.told().clone().stopping());
    let (mut listens, mut stopping) = (false, false);
    let drain = server.drain.told();
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
            () = poll_fn(|cx| match drain.is_stopping() || !std::mem::replace(&mut listens, true) {
                true => told.as_mut().poll(cx),
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

async fn frame(server: &Server, peer: &Peer, request: Request<Incoming>) -> Response<Body> {
    let version = request.version();
    let mut response = server.handler.answer(Hop { peer, call: None }, request).await;
    let last = |response: &Response<Body>| response.extensions().get::<Last>().is_some();
    // HTTP/2 has GOAWAY for this.
    if version < Version::HTTP_2 && (server.drain.told().is_stopping() || last(&response)) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
