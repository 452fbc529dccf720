//! The operator's listener: health, metrics, the page, and the API that the page and the command line use.
//!
//! `/healthz`, `/readyz`, `/metrics` and the page itself are open to everybody who reaches the address. The API needs the
//! token of `admin_token`. Without one it is for connections from this machine, and not for requests that a proxy or a guest
//! has sent, which their headers say. A browser on this machine carries other people's pages, so requests that name another
//! host or origin are refused.
//!
//! `/readyz` is 200 once every file was loaded or refused, and 503 again from the moment the host is told to stop.

mod api;
mod body;
pub mod contract;
mod page;
pub(crate) mod report;
pub mod scrape;
mod versions;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Authority, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;

use self::body::{Body, problem, text};
use self::contract::HostStatus;
use crate::admin::scrape::{Format, Scrape};
use crate::guests::snapshot::Current;
use crate::listener::accept;
use crate::listener::activity::Activity;
use crate::listener::connection;
use crate::listener::connection::Answer;
use crate::listener::intake::{Account, Buffers, Upload};
use crate::request::respond::Reserve;
use lodge_base::budget::Budget;
use lodge_base::canonical;
use lodge_base::config::Config;
use lodge_base::drain::StopSignal;
use lodge_base::telemetry::logs::Logs;
use lodge_runtime::compile::Reset;
use lodge_traffic::cache::ResponseCache;
use lodge_traffic::proxy::headers::is_forwarded;

/// Connections at once.
const CONNECTIONS: usize = 64;

/// Of those, connections that follow the log or the page's events for as long as they like.
pub const FOLLOWERS: usize = 32;

/// Connections beyond [`CONNECTIONS`], which are only for `/healthz` and `/readyz`. The oldest is closed for one more.
const PROBES: usize = 16;

/// The time that such a connection has for anything.
const PROBE: Duration = Duration::from_secs(1);

/// Concurrent HTTP/2 streams of a connection.
const STREAMS: usize = 16;

/// Memory for what operators send, as `listener.memory` is for clients: whatever those send, operators are answered.
const MEMORY: usize = 8 << 20;

/// Bytes of complete responses that operators have not taken yet, as `listener.unsent` is for clients: whatever those leave
/// unread, operators are answered.
const UNSENT: usize = 8 << 20;

/// What the listener tells, and what it can do.
pub struct Admin {
    /// As the host was started.
    pub config: Arc<Config>,
    /// Where guests are served.
    pub listen: Option<SocketAddr>,
    /// The directory that is served, without links in its path, and its device and inode.
    pub directory: [String; 2],
    /// What is served.
    pub current: Current,
    /// Whether the host is stopping.
    pub stop_signal: StopSignal,
    /// Tells it to.
    pub stop: Arc<Notify>,
    /// How the memory of sandboxes is made clean.
    pub reset: Reset,
    /// Answers that are kept, if any are.
    pub responses: Option<Arc<ResponseCache>>,
    /// What is counted.
    pub scrape: Scrape,
    /// What was said.
    pub logs: Arc<Logs>,
    /// Places of those who follow.
    pub followers: Arc<Semaphore>,
}

/// A connection to the listener.
#[derive(Clone)]
struct Operator {
    admin: Arc<Admin>,
    peer: IpAddr,
    buffers: Arc<Buffers>,
    unsent: Arc<Budget>,
    /// Every ordinary place is taken.
    probe: bool,
}

/// Answers until it is dropped: also while the host stops. The connections have the bounds of those to the services.
pub async fn serve(listener: Arc<TcpListener>, admin: Arc<Admin>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let (buffers, unsent) = (Buffers::new(MEMORY), Budget::new(UNSENT));
    let mut probes: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = accept::accepted(&listener).await;
        let Ok(peer) = stream.peer_addr() else { continue };
        let place = Arc::clone(&places).try_acquire_owned().ok();
        let probe = place.is_none();
        let (admin, buffers, unsent) = (Arc::clone(&admin), Arc::clone(&buffers), Arc::clone(&unsent));
        let operator = Operator { admin, peer: peer.ip(), buffers, unsent, probe };
        let task = tokio::spawn(async move {
            operator.serve(stream).await;
            drop(place);
        });
        if probe {
            probes.retain(|probe| !probe.is_finished());
            if probes.len() == PROBES {
                probes.pop_front().into_iter().for_each(|oldest| oldest.abort());
            }
            probes.push_back(task.abort_handle());
        }
    }
}

impl Operator {
    async fn serve(self, stream: TcpStream) {
        let mut bounds = self.admin.config.listener.clone();
        bounds.streams = bounds.streams.min(STREAMS);
        if self.probe {
            bounds.first_byte = bounds.first_byte.min(PROBE);
            bounds.header_read = bounds.header_read.min(PROBE);
            bounds.idle = bounds.idle.min(PROBE);
        }
        let activity = Activity::new(&bounds, &self.unsent, &self.admin.scrape.metrics);
        let account = Account::new(&self.buffers, bounds.streams);
        connection::serve(stream, (activity, account), &bounds, None, self).await;
    }
}

impl Answer for Operator {
    type Body = Body;

    async fn answer(&self, request: Request<Upload<Incoming>>) -> Response<Body> {
        let version = request.version();
        let health = matches!(request.uri().path(), "/healthz" | "/readyz");
        let mut response = if self.probe && !health {
            let why = "all connections of this listener are taken, and this one is for /healthz and /readyz; try again";
            problem(StatusCode::SERVICE_UNAVAILABLE, "busy", why)
        } else {
            self.admin.answer(self.peer, request).await
        };
        let counts = response.body_mut().count(Reserve { version, unsent: &self.unsent });
        if !counts {
            *response.body_mut() = Body::Whole(None, None);
            if !health {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
        }
        if self.probe && version < Version::HTTP_2 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl Admin {
    async fn answer(self: &Arc<Self>, peer: IpAddr, request: Request<Upload<Incoming>>) -> Response<Body> {
        let read = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" if self.stop_signal.is_stopping() => text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
            "/readyz" if !self.current.snapshot().complete => text(StatusCode::SERVICE_UNAVAILABLE, "loading\n"),
            "/readyz" => text(StatusCode::OK, "ready\n"),
            "/metrics" if read => match self.metrics(request.headers()) {
                Ok(response) => response,
                Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "metrics", "the metrics cannot be written"),
            },
            "/" if read => page::page(),
            path if path.starts_with("/v1/") => match self.refuse(peer, request.uri(), request.headers()) {
                Some(refused) => refused,
                None => api::answer(self, request).await,
            },
            _ => problem(StatusCode::NOT_FOUND, "not-found", "here are /, /metrics, /healthz, /readyz and /v1/…"),
        }
    }

    fn metrics(&self, headers: &HeaderMap) -> Result<Response<Body>, std::fmt::Error> {
        let format = Format::preferred(headers);
        let mut response = body::typed(format.content_type(), self.scrape.text(format)?.into_bytes());
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
        Ok(response)
    }

    /// Who may not use the API, and why.
    fn refuse(&self, peer: IpAddr, uri: &Uri, headers: &HeaderMap) -> Option<Response<Body>> {
        let says = |name: &header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        // HTTP/2 has the host in the place of the URI.
        let host = says(&header::HOST).or(uri.authority().map(Authority::as_str)).unwrap_or_default();
        if let Some(origin) = says(&header::ORIGIN)
            && origin.split_once("://").is_none_or(|(_, of)| of != host)
        {
            return Some(problem(StatusCode::FORBIDDEN, "foreign-origin", "a page of another origin may not use this"));
        }
        match &self.config.admin_token {
            Some(token) => {
                let shown = says(&header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
                // Compared by their hashes, so that the time it takes tells nothing.
                let same = shown.is_some_and(|shown| Sha256::digest(shown) == Sha256::digest(token));
                (!same).then(|| unauthorized("show the token of `admin_token`: `authorization: Bearer …`"))
            }
            None if !peer.to_canonical().is_loopback() => {
                Some(unauthorized("set `admin_token`: without one, only the machine of the host may use this"))
            }
            // The other end is a proxy on this machine, or a guest of this host, and the client may be anywhere.
            None if is_forwarded(headers) => Some(unauthorized(
                "set `admin_token`: without one, only the machine of the host may use this, and no proxy",
            )),
            // A name that somebody else has pointed here, in a browser of this machine.
            None if !is_local(host) => {
                Some(problem(StatusCode::FORBIDDEN, "foreign-host", "ask for localhost, or set `admin_token`"))
            }
            None => None,
        }
    }

    fn host(&self) -> HostStatus {
        let process = scrape::Process::read();
        let [version, wasmtime] = self.scrape.versions;
        let [directory, directory_id] = self.directory.clone();
        let snapshot = self.current.snapshot();
        HostStatus {
            version: version.into(),
            wasmtime: wasmtime.into(),
            pid: std::process::id(),
            started: lodge_base::time::rfc3339(self.scrape.started),
            uptime_seconds: SystemTime::now().duration_since(self.scrape.started).unwrap_or_default().as_secs_f64(),
            listen: self.listen.map(|listen| listen.to_string()),
            directory,
            directory_id,
            generation: snapshot.generation,
            ready: snapshot.complete && !self.stop_signal.is_stopping(),
            stopping: self.stop_signal.is_stopping(),
            connections: self.scrape.metrics.connections(),
            log_level: self.logs.level(),
            memory_bytes: process.resident,
            cpu_seconds: process.cpu.as_secs_f64(),
            sandbox_reset: self.reset.to_string(),
        }
    }
}

fn unauthorized(why: &str) -> Response<Body> {
    let mut response = problem(StatusCode::UNAUTHORIZED, "unauthorized", why);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn is_local(host: &str) -> bool {
    let Some(authority) = canonical::authority(host.as_bytes(), &Scheme::HTTP) else { return false };
    let name = canonical::host(authority.as_str());
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn local_names() {
        for (host, local) in [
            ("localhost:9090", true),
            ("LocalHost", true),
            ("127.0.0.1:1", true),
            ("127.1.2.3", true),
            ("[::1]:9090", true),
            ("localhost.:9090", true),
            ("[::ffff:127.0.0.1]", true),
            ("localhost:80:80", false),
            ("localhost:x", false),
            ("", false),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com", false),
            ("10.0.0.1", false),
            ("[::2]", false),
        ] {
            assert_eq!(is_local(host), local, "{host}");
        }
    }
}
