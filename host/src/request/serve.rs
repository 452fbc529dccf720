//! One connection, and the frame around each of its requests: an id, a clock, and an `Err` made into a response once.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use http::header::{self, HeaderValue};
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;

use super::activity::{Activity, Verdict, Watched};
use super::handle::handle;
use super::headers::{Peer, REQUEST_ID};
use super::record::Record;
use super::respond::{self, Body};
use crate::config;
use crate::drain::Drain;
use crate::guests::snapshot::Current;
use crate::ids::Ids;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::responses::Responses;
use crate::service::Service;
use crate::traces::Tracer;

/// What every connection shares.
pub struct Server {
    /// What is served.
    pub current: Current,
    /// Whether the host is stopping.
    pub drain: Drain,
    /// Peers that are believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// How HTTP is spoken.
    pub http: auto::Builder<TokioExecutor>,
    /// Bounds of the listener.
    pub bounds: config::Listener,
    /// Where ids come from.
    pub ids: Ids,
    /// Where requests are counted that no service owns.
    pub nobody: Arc<Service>,
    /// What is counted of the host.
    pub metrics: Arc<Metrics>,
    /// Who follows them through many hosts.
    pub tracer: Tracer,
    /// Who wants to know of requests.
    pub logs: Arc<Logs>,
    /// Answers that are kept, if any are.
    pub responses: Option<Arc<Responses>>,
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
        move |request| {
            let (server, peer, working) = (Arc::clone(&server), Arc::clone(&peer), activity.begin());
            async move { Ok::<_, Infallible>(working.until(frame(&server, &peer, request).await)) }
        }
    });
    let mut served = pin!(server.http.serve_connection(io, service));
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

/// One request: the only place where a failure becomes a response.
async fn frame(server: &Server, peer: &Peer, mut request: Request<Incoming>) -> Response<Body> {
    let version = request.version();
    let id = peer.request_id(request.headers()).map_or_else(|| server.ids.request(), Arc::from);
    // The id is made of hexadecimal digits, or was a header already.
    let id_header = HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("invalid"));
    request.headers_mut().insert(REQUEST_ID, id_header.clone());
    let mut record = Record::new(Arc::clone(&id), server.tracer.begin(request.headers_mut()));
    let mut response = match handle(server, peer, request, &mut record).await {
        Ok(response) => response,
        Err(error) => {
            record.failed(&error, &server.nobody, peer.address());
            respond::problem(&error, &id)
        }
    };
    record.answered(response.status());
    response.headers_mut().insert(REQUEST_ID, id_header);
    // HTTP/2 has GOAWAY for this.
    if version < Version::HTTP_2 && server.drain.told().is_stopping() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|body| body.with(record))
}
