//! The listener for operators: health, metrics, the page, and the API that the page and the commands use.
//!
//! `/healthz`, `/readyz`, `/metrics` and the page without data are open to every client of the address. The API requires the
//! token `admin_token`, or a key of `admin_keys` with the scope of the request. If neither is configured, it accepts connections from
//! this machine, except requests whose headers show that a proxy or a guest sent them. A browser on this machine may show pages of
//! other origins, so requests with another host or origin are refused.
//!
//! `/readyz` is 200 once every file was loaded or refused, and a host of a cluster knows the others and they can know it, and 503 from
//! the time when the host begins to stop.

mod access;
mod api;
mod body;
mod compare;
pub mod contract;
pub mod data;
pub mod deploy;
mod doubts;
mod page;
mod parameters;
pub mod problems;
pub mod readiness;
mod record;
pub(crate) mod report;
pub(crate) mod rollout;
mod routes;
pub mod scrape;
pub mod slots;
mod upload;
pub(crate) mod verdict;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;

pub use self::access::misplaced;
pub(crate) use self::access::{OPERATOR_SCOPES, is_operator_scope};
use self::body::{Body, problem, text};
use self::contract::{CertificateStatus, ClusterStatus, HostStatus};
pub use self::doubts::questionable;
use self::readiness::HostReadiness;
use self::record::OperatorRecord;
use self::slots::OperatorSlots;
pub(crate) use self::upload::SIGNATURE;
use crate::admin::scrape::{Format, Scrape};
use crate::audit::AuditTrail;
use crate::certificates::acme::{AcmeClient, OrderedCertificate};
use crate::guests::remote::ServicesElsewhere;
use crate::guests::service_files::remove_abandoned;
use crate::guests::snapshot::Current;
use crate::guests::stores::Stores;
use crate::listener::accept;
use crate::listener::activity::Activity;
use crate::listener::connection;
use crate::listener::connection::Responder;
use crate::listener::intake::{Account, Buffers, Upload};
use crate::listener::places::{ClientConnection, ConnectionPlaces};
use crate::request::handler::Handler;
use crate::request::respond::Reserve;
use lodge_base::budget::Budget;
use lodge_base::config::Config;
use lodge_base::drain::StopSignal;
use lodge_base::telemetry::logs::Logs;
use lodge_base::telemetry::logs::throttle::LogThrottle;
use lodge_runtime::compile::Reset;
use lodge_traffic::admission::rate::FailedAttempts;
use lodge_traffic::auth::api_keys::KeyRing;
use lodge_traffic::cache::ResponseCache;
use lodge_traffic::live_files::LiveValue;

/// The most connections for any request. For a further one, an idle one is closed, of the address that has most; if none is idle, one
/// whose client has shown no credentials.
const CONNECTIONS: usize = 64;

/// The most of these that follow the log or the events of the page, for any time.
pub const FOLLOWERS: usize = 32;

/// The most connections in addition, which are only for `/healthz` and `/readyz`. A further one closes the oldest.
const PROBES: usize = 16;

/// The bound of every wait on a connection for probes.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The most concurrent HTTP/2 streams of a connection.
const STREAMS: usize = 16;

/// The bytes of memory for data that operators send, apart from `listener.memory`, so that clients cannot use it up.
const MEMORY: usize = 8 << 20;

/// The bytes of complete responses that operators have not read yet, apart from `listener.unsent`, so that clients cannot use
/// them up.
const UNSENT: usize = 8 << 20;

/// The state of the host that the listener shows and changes.
pub struct Admin {
    /// The configuration that the host was started with.
    pub config: Arc<Config>,
    /// The audit trail, if there is one.
    pub audit: Option<Arc<AuditTrail>>,
    /// The address of the services.
    pub listen: Option<SocketAddr>,
    /// The path of the served directory, without symbolic links, and its device and inode.
    pub directory: [String; 2],
    /// The current snapshot.
    pub current: Current,
    /// What the host waits for when it starts.
    pub readiness: HostReadiness,
    /// Whether the host is stopping.
    pub stop_signal: StopSignal,
    /// Makes the host stop.
    pub stop: Arc<Notify>,
    /// Where services are that only other hosts of the cluster have.
    pub elsewhere: ServicesElsewhere,
    /// How the memory of sandboxes is reset.
    pub reset: Reset,
    /// The stored responses, if the cache is on.
    pub responses: Option<Arc<ResponseCache>>,
    /// The sources of metrics.
    pub scrape: Scrape,
    /// The log and its latest lines.
    pub logs: Arc<Logs>,
    /// Permits for followers.
    pub followers: Arc<Semaphore>,
    /// Permits for operations on the data of services.
    pub data: Arc<Semaphore>,
    /// The stores of services.
    pub stores: Arc<Stores>,
    /// The keys that the API takes beside the token, if there is a file of them.
    pub keys: Option<Arc<LiveValue<KeyRing>>>,
    /// The handler of requests, which has the pages of the host.
    pub handler: Arc<Handler>,
    /// The failed attempts at the API; `None` if any number is allowed.
    pub attempts: Option<FailedAttempts>,
    /// Lines of the log about refused operators.
    pub refusals: Mutex<LogThrottle>,
    /// Slots for requests that take long.
    pub slots: OperatorSlots,
}

/// A connection to the listener.
#[derive(Clone)]
struct Operator {
    admin: Arc<Admin>,
    peer: IpAddr,
    buffers: Arc<Buffers>,
    unsent: Arc<Budget>,
    /// The place of the connection. `None` if it is only for probes, because all others are in use.
    open: Option<Arc<ClientConnection>>,
}

/// Serves operators until it is dropped, also while the host stops. Connections have the bounds of those to the services.
pub async fn serve(listener: Arc<TcpListener>, admin: Arc<Admin>) {
    let directory = admin.config.guests.clone();
    tokio::task::spawn_blocking(move || remove_abandoned(&directory));
    let places = ConnectionPlaces::for_known_clients(CONNECTIONS, &admin.scrape.metrics);
    let (buffers, unsent) = (Buffers::new(MEMORY), Budget::new(UNSENT));
    let mut probes: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = accept::accepted(&listener).await;
        let Ok(peer) = stream.peer_addr() else { continue };
        let place = places.take(peer.ip());
        let open = place.as_ref().map(|place| Arc::clone(place.connection()));
        let (admin, buffers, unsent) = (Arc::clone(&admin), Arc::clone(&buffers), Arc::clone(&unsent));
        let operator = Operator { admin, peer: peer.ip(), buffers, unsent, open: open.clone() };
        let task = tokio::spawn(async move {
            operator.serve(stream).await;
            drop(place);
        });
        if let Some(open) = open {
            open.set_task(task.abort_handle());
            continue;
        }
        probes.retain(|probe| !probe.is_finished());
        if probes.len() == PROBES {
            probes.pop_front().into_iter().for_each(|oldest| oldest.abort());
        }
        probes.push_back(task.abort_handle());
    }
}

impl Operator {
    async fn serve(self, stream: TcpStream) {
        let mut bounds = self.admin.config.listener.clone();
        bounds.streams = bounds.streams.min(STREAMS);
        if self.open.is_none() {
            bounds.first_byte = bounds.first_byte.min(PROBE_TIMEOUT);
            bounds.header_read = bounds.header_read.min(PROBE_TIMEOUT);
            bounds.idle = bounds.idle.min(PROBE_TIMEOUT);
        }
        let activity = Arc::new(Activity::new(&bounds, &self.unsent, &self.admin.scrape.metrics));
        if let Some(open) = &self.open {
            open.set_activity(&activity);
        }
        let account = Account::new(&self.buffers, bounds.streams);
        connection::serve(stream, (activity, account), &bounds, None, self).await;
    }
}

impl Responder for Operator {
    type Body = Body;

    async fn respond(&self, mut request: Request<Upload<Incoming>>) -> Response<Body> {
        let (version, probe) = (request.version(), self.open.is_none());
        if let Some(open) = &self.open {
            request.extensions_mut().insert(Arc::clone(open));
        }
        let health = matches!(request.uri().path(), "/healthz" | "/readyz");
        let mut response = if probe && !health {
            let why =
                "all connections of this listener are in use, and this one is only for /healthz and /readyz; try again";
            problem(StatusCode::SERVICE_UNAVAILABLE, "busy", why)
        } else {
            self.admin.respond_audited(self.peer, request).await
        };
        let has_room = response.body_mut().reserve(Reserve { version, unsent: &self.unsent });
        if !has_room {
            *response.body_mut() = Body::Whole(None, None);
            if !health {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
        }
        if probe && version < Version::HTTP_2 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl Admin {
    /// Responds, and records what an operator changes or tries to change, and reads of data. These run in a task of their own, which
    /// ends only when they do: the future of a response is dropped when its client leaves, in the middle of a change, or after it and
    /// before its lines of the log and the trail.
    async fn respond_audited(self: &Arc<Self>, peer: IpAddr, request: Request<Upload<Incoming>>) -> Response<Body> {
        let (method, path) = (request.method(), request.uri().path());
        let mut record = OperatorRecord::new(self.audit.clone(), peer.to_canonical(), method, path);
        let (admin, alone) = (Arc::clone(self), record::is_recorded(method, path));
        let respond = async move {
            let response = match admin.refuse_unaudited(request.method()) {
                Some(refused) => refused,
                None => admin.respond(peer, request, &mut record).await,
            };
            record.end(response.status());
            response
        };
        if !alone {
            return respond.await;
        }
        let response = tokio::spawn(respond).await;
        response
            .unwrap_or_else(|_| problem(StatusCode::INTERNAL_SERVER_ERROR, "panic", "the request failed; see the log"))
    }

    /// Returns the refusal of a change that the trail would not have.
    fn refuse_unaudited(&self, method: &Method) -> Option<Response<Body>> {
        let changes = !matches!(*method, Method::GET | Method::HEAD);
        let refuses = changes && self.audit.as_ref().is_some_and(|audit| audit.refuses_changes());
        refuses.then(|| {
            let why = "nothing is changed, since the audit trail cannot be written and `audit.required` is set; the log says why";
            problem(StatusCode::SERVICE_UNAVAILABLE, "audit", why)
        })
    }

    async fn respond(
        self: &Arc<Self>,
        peer: IpAddr,
        request: Request<Upload<Incoming>>,
        record: &mut OperatorRecord,
    ) -> Response<Body> {
        let read = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" if self.stop_signal.is_stopping() => text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
            "/readyz" => match self.readiness.missing() {
                Some(what) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{what}\n")),
                None => text(StatusCode::OK, "ready\n"),
            },
            "/metrics" if read => match self.metrics(request.headers()) {
                Ok(response) => response,
                Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "metrics", "the metrics cannot be written"),
            },
            "/" if read => page::page(),
            path if path.starts_with("/v1/") => match self.identify(peer, request.uri(), request.headers()) {
                Err(refused) => *refused,
                Ok(operator) => {
                    if let Some(open) = request.extensions().get::<Arc<ClientConnection>>() {
                        open.set_known();
                    }
                    record.set_operator(&operator);
                    api::respond(self, &operator, request, record).await
                }
            },
            _ => problem(
                StatusCode::NOT_FOUND,
                "not-found",
                "this listener has /, /metrics, /healthz, /readyz and /v1/…; services are at the address of `listen`",
            ),
        }
    }

    fn metrics(&self, headers: &HeaderMap) -> Result<Response<Body>, std::fmt::Error> {
        let format = Format::preferred(headers);
        let mut response = body::typed(format.content_type(), self.scrape.text(format)?.into_bytes());
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
        Ok(response)
    }

    async fn cluster(&self) -> Response<Body> {
        let Some(cluster) = &self.scrape.cluster else {
            return body::json(&ClusterStatus { state: "none".into(), ..ClusterStatus::default() });
        };
        body::typed("application/json", cluster.json().await)
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
            ready: self.readiness.missing().is_none() && !self.stop_signal.is_stopping(),
            stopping: self.stop_signal.is_stopping(),
            connections: self.scrape.metrics.connections(),
            log_level: self.logs.level(),
            memory_bytes: process.resident,
            cpu_seconds: process.cpu.as_secs_f64(),
            sandbox_reset: self.reset.to_string(),
            problems: self.scrape.files.problems(),
            certificates: self.scrape.acme.as_ref().map_or_else(Vec::new, |acme| certificates(acme)),
        }
    }
}

/// Describes the certificates from an authority.
fn certificates(acme: &AcmeClient) -> Vec<CertificateStatus> {
    let at = |seconds: u64| {
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).map_or_else(String::new, lodge_base::time::rfc3339)
    };
    let shown = acme.certificates().into_iter().map(|OrderedCertificate { names, expires, renewal, problem }| {
        let expires = expires.map(|expires| at(u64::try_from(expires).unwrap_or(0)));
        CertificateStatus { names, expires, renewal: at(renewal), problem }
    });
    shown.collect()
}
