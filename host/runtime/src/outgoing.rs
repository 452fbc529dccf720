//! Requests that guests send.
//!
//! A request to `http://users.internal/` is a call ([`LocalCalls`]): the service of that name on this host handles it
//! in this process, through the same path as a client's request. Any other request goes to the world through a client
//! that belongs to the calling service (`client.rs`), if the manifest lists its origin (`egress.rs`).
//!
//! Two checks guard the world. A manifest lists origins; a request to any other is denied. And the addresses of a name
//! must be public ([`is_public`](lodge_base::address::is_public)) unless the manifest lists them, so a listed name cannot lead to this machine, a
//! neighbour or a cloud's metadata service. The connection goes to the very addresses that were checked (`dial.rs`).
//!
//! A request that may reach this host again carries in `Via` the number of calls that led to it, so that a loop ends as
//! a loop of calls does. Requests to public addresses do not carry it: the number is of no use there, and some servers
//! respond differently to proxied requests (nginx does not compress). A loop through the public world is bounded by the
//! limits on clients. The address is known only once a connection is chosen, so `Via` is set if the manifest lists any
//! address that is not public: without one, no name leads to such an address.
//!
//! With `trusted_proxies`, every request of a guest carries `Via`: the public address of this host or of its load
//! balancer may be a trusted proxy, and the host would believe forwarded headers of a request without it.

mod client;
mod counted;
mod dial;
mod egress;
mod failure;
mod rate;
mod retry;
pub mod timeouts;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use http::Request;
use rustls::{ClientConfig, RootCertStore};
use wasmtime_wasi_http::{RequestOptions, WasiBody};

use self::client::WorldClient;
use self::dial::{NameResolver, system};
pub use self::egress::Egress;
use crate::capabilities::http::{Denied, Sender};
use crate::capabilities::outbox::SendFuture;
use crate::capabilities::sandbox::{RequestContext, Sandbox};
use lodge_base::config::limits::Limits;
use lodge_base::lock::lock;
use lodge_base::tls;
use lodge_manifest::grants::Grants;
use lodge_traffic::proxy::via::Via;
use lodge_traffic::service::Service;
use lodge_traffic::upstreams::replay::ReplayMemory;

/// How long after the deadline of a request its guest's own requests end, in a warm instance. (In others they end with
/// the sandbox.) Not at the deadline itself: the guest would see a timeout error instead of running into the deadline.
const GRACE: Duration = Duration::from_secs(1);

/// Returns when a request sent in this context must have ended.
pub fn response_deadline(context: &RequestContext) -> Instant {
    context.deadline + GRACE
}

/// Handles requests of guests to services of this host.
pub trait LocalCalls: Send + Sync {
    /// Sends a request from `egress`, in this sandbox and request context, to the service whose host name is `host`.
    fn call(
        self: Arc<Self>,
        egress: Arc<Egress>,
        host: String,
        from: (Arc<Sandbox>, RequestContext),
        request: Request<WasiBody>,
        options: RequestOptions,
    ) -> SendFuture;
}

/// The means of guests to send requests.
pub struct Outgoing(Option<World>);

struct World {
    /// The handler of calls. Weak, since the handler owns this.
    calls: Weak<dyn LocalCalls>,
    /// The pseudonym of this host in `Via`, by which it recognises its own requests.
    via: Arc<Via>,
    /// Whether all requests carry `Via`, because the host trusts proxies.
    marks_all: bool,
    /// The memory for bodies that may have to be sent a second time.
    replay_memory: Arc<ReplayMemory>,
    /// The domain of service names, with a leading dot.
    suffix: Arc<str>,
    resolver: NameResolver,
    /// The TLS configuration with the system's roots, made when a manifest first lists an origin.
    tls: OnceLock<Option<ClientConfig>>,
    /// The latest egress of each service. The next version takes it over if its grants and limits are the same.
    egresses: Mutex<HashMap<Arc<str>, Weak<Egress>>>,
}

impl Outgoing {
    /// Creates an `Outgoing` that denies every request, for guests that are only checked.
    pub fn disabled() -> Self {
        Self(None)
    }

    /// Returns whether every request is denied.
    pub fn is_disabled(&self) -> bool {
        self.0.is_none()
    }

    /// Creates the access to the services of `calls`, below the domain `suffix`, and to the world. `via` names this
    /// host; `marks_all` is whether the host trusts proxies.
    pub fn new(calls: Weak<dyn LocalCalls>, via: Arc<Via>, marks_all: bool, suffix: &str) -> Self {
        Self(Some(World {
            calls,
            via,
            marks_all,
            replay_memory: Arc::default(),
            suffix: format!(".{suffix}").into(),
            resolver: system(),
            tls: OnceLock::new(),
            egresses: Mutex::default(),
        }))
    }

    /// Returns the sender for the guests of `service`.
    pub fn sender(&self, service: &Arc<Service>, grants: &Grants, limits: &Limits) -> Arc<dyn Sender> {
        let Some(world) = &self.0 else { return Arc::new(Denied) };
        let mut egresses = lock(&world.egresses);
        let known = egresses.get(&service.name).and_then(Weak::upgrade);
        // The connection pool and requests in flight outlive a version, but only with the same grants: the pool could
        // hold a connection to an address that is no longer allowed.
        if let Some(egress) = known.filter(|egress| egress.can_be_reused(grants, limits)) {
            return egress;
        }
        let tls = if grants.http.is_empty() { None } else { world.tls() };
        let shared = client::ClientContext {
            resolver: &world.resolver,
            via: &world.via,
            replay_memory: &world.replay_memory,
            marks_all: world.marks_all,
        };
        let client = tls.map(|tls| WorldClient::new(grants, limits, tls, shared));
        let (calls, suffix) = (Weak::clone(&world.calls), Arc::clone(&world.suffix));
        let egress = Arc::new(Egress::new(service, grants, limits, calls, suffix, client));
        egresses.retain(|_, egress| egress.strong_count() > 0);
        egresses.insert(Arc::clone(&service.name), Arc::downgrade(&egress));
        egress
    }
}

impl World {
    fn tls(&self) -> Option<ClientConfig> {
        self.tls.get_or_init(tls).clone()
    }
}

/// Creates the TLS configuration with the system's roots. Logs the error and returns `None` if that is not possible.
fn tls() -> Option<ClientConfig> {
    let roots = tls::system_roots().unwrap_or_else(|problem| {
        tracing::warn!("https requests of guests will fail: {problem}");
        RootCertStore::empty()
    });
    tls::client(roots)
        .inspect_err(|problem| tracing::error!("cannot set up TLS, so guests cannot send requests: {problem}"))
        .ok()
}
