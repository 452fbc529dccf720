//! What guests send. A request to `http://users.internal/` is a call ([`LocalCalls`]): the local service answers it in this
//! process, by the same path as a client's. Any other goes to the world, by a client of the service's own (`client.rs`), if
//! the manifest lists it (`account.rs`).
//!
//! Two guards stand before the world. A manifest lists origins, and what is on no list is denied by name. And what a name
//! resolves to must be public (`address.rs`), unless the manifest lists the address: a name on the list that points to this
//! machine, to a neighbour or to a cloud's metadata leads nowhere. The addresses that were checked are the ones that are
//! connected to (`dial.rs`).
//!
//! A request to an address that may be this host's own, or a neighbour's, says in `Via` how many calls led to it, so that a
//! circle ends like one of calls does. The public world is not told: it has no use for who asks in how many steps, servers
//! answer differently to what came through a proxy (nginx does not compress), and who would find the way back from there is
//! under the limits of any client. Which it will be is only known once a connection is chosen; what can be said before is
//! whether the manifest lists any address that is not public, without which no name leads to one.
//!
//! A host with `trusted_proxies` marks every request of a guest: its own public address, or a load balancer's, may be among
//! the proxies, and an unmarked request from there would be believed.

mod account;
mod address;
mod again;
mod client;
mod denials;
mod dial;
mod failure;
pub mod paced;
mod quota;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use http::Request;
use rustls::{ClientConfig, RootCertStore};
use wasmtime_wasi_http::{RequestOptions, WasiBody};

pub use self::account::Account;
use self::client::Client;
use self::dial::{Resolver, system};
use crate::base::lock::lock;
use crate::base::tls;
use crate::capabilities::http::{Denied, Sender};
use crate::capabilities::outbox::SendFuture;
use crate::capabilities::sandbox::{RequestContext, Sandbox};
use crate::config::limits::Limits;
use crate::manifest::grants::Grants;
use crate::proxy::via::Via;
use crate::service::Service;
use crate::upstreams::replay::ReplayMemory;

/// What a guest sends ends with the sandbox that it is in. Where that is used again, this is how long after its request's
/// time is up: not before, or the guest would be told of a late answer instead of being late itself.
const GRACE: Duration = Duration::from_secs(1);

/// When what is sent on this context has to be over.
pub fn end(context: &RequestContext) -> Instant {
    context.deadline + GRACE
}

/// Answers requests of guests to services of this host.
pub trait LocalCalls: Send + Sync {
    /// Sends a request of `account`'s guest in this sandbox, on this context, to the service whose host is `host`.
    fn call(
        self: Arc<Self>,
        account: Arc<Account>,
        host: String,
        from: (Arc<Sandbox>, RequestContext),
        request: Request<WasiBody>,
        options: RequestOptions,
    ) -> SendFuture;
}

/// Everything that can be reached from here.
pub struct Outgoing(Option<World>);

struct World {
    /// Answers calls. Not kept alive by what it serves.
    calls: Weak<dyn LocalCalls>,
    /// What this host is called by itself, when a request comes back to it.
    via: Arc<Via>,
    /// Whether the host trusts any proxies.
    marks: bool,
    /// For bodies of requests that may be sent again.
    room: Arc<ReplayMemory>,
    /// What the names of services end in, with a dot before it.
    suffix: Arc<str>,
    resolver: Resolver,
    /// Made, with the system's authorities, when the first manifest lists an origin.
    tls: OnceLock<Option<ClientConfig>>,
    /// The last account of each service: its next version goes on with it if it may send the same.
    accounts: Mutex<HashMap<Arc<str>, Weak<Account>>>,
}

impl Outgoing {
    /// For guests that are only looked at: whatever they send is denied.
    pub fn nowhere() -> Self {
        Self(None)
    }

    /// Whether that is so.
    pub fn is_nowhere(&self) -> bool {
        self.0.is_none()
    }

    /// The services that `calls` answers for, below the domain `suffix`, and the world, where this host is called `via`.
    /// `marks` is whether the host trusts any proxies.
    pub fn new(calls: Weak<dyn LocalCalls>, via: Arc<Via>, marks: bool, suffix: &str) -> Self {
        Self(Some(World {
            calls,
            via,
            marks,
            room: Arc::default(),
            suffix: format!(".{suffix}").into(),
            resolver: system(),
            tls: OnceLock::new(),
            accounts: Mutex::default(),
        }))
    }

    /// What sends for the guests of `service`: this, within these limits.
    pub fn sender(&self, service: &Arc<Service>, grants: &Grants, limits: &Limits) -> Arc<dyn Sender> {
        let Some(world) = &self.0 else { return Arc::new(Denied) };
        let mut accounts = lock(&world.accounts);
        let known = accounts.get(&service.name).and_then(Weak::upgrade);
        // The pool, and what is under way, outlive a version. Not those of other grants: a connection to what
        // was allowed before would be found in it.
        if let Some(account) = known.filter(|account| account.suits(grants, limits)) {
            return account;
        }
        let tls = if grants.http.is_empty() { None } else { world.tls() };
        let shared =
            client::Shared { resolver: &world.resolver, via: &world.via, room: &world.room, marks: world.marks };
        let client = tls.map(|tls| Client::new(grants, limits, tls, shared));
        let (calls, suffix) = (Weak::clone(&world.calls), Arc::clone(&world.suffix));
        let account = Arc::new(Account::new(service, grants, limits, calls, suffix, client));
        accounts.retain(|_, account| account.strong_count() > 0);
        accounts.insert(Arc::clone(&service.name), Arc::downgrade(&account));
        account
    }
}

impl World {
    fn tls(&self) -> Option<ClientConfig> {
        self.tls.get_or_init(tls).clone()
    }
}

/// TLS with what the system trusts; none if it cannot be had at all, which is said.
fn tls() -> Option<ClientConfig> {
    let roots = tls::system_roots().unwrap_or_else(|problem| {
        tracing::warn!("https requests of guests will fail: {problem}");
        RootCertStore::empty()
    });
    tls::client(roots).inspect_err(|problem| tracing::error!("guests can send nothing: {problem}")).ok()
}
