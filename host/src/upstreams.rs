//! Replicas elsewhere that answer for a service: other hosts of Lodge, or the containers that are still there.
//!
//! [`manifest::upstream`](crate::manifest::upstream) is what a manifest's `[upstream]` says; [`discover`] finds out where the replicas are. [`replicas`] knows how
//! each of them does ([`health`]) and which gets a request ([`balance`]); [`transport`] sends it there; [`send`] tries
//! again where that is safe ([`retry`]) and there is room for it ([`budget`]); `check` asks replicas how they are.
//!
//! An upstream is published like a guest, under the same routes and with the same limits, so that a service can move over
//! from one to the other by its files. What is known of a replica survives new manifests and new addresses of others.

pub mod balance;
pub mod budget;
mod check;
pub mod discover;
pub mod health;
#[cfg(test)]
mod lockstep;
pub mod replay;
pub mod replicas;
pub mod retry;
pub mod send;
pub mod status;
pub mod transport;
pub mod tunnels;
pub mod upload_wait;

use std::collections::HashMap;
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use self::budget::Budget;
use self::discover::{Discovery, Endpoint, Pace, Resolver, SourceErrors};
use self::health::HealthChange;
use self::replay::ReplayMemory;
use self::replicas::{PanicChange, Replicas};
pub use self::status::{ReplicaStatus, UpstreamStatus};
use self::transport::{ConnectionLimit, Pool, PoolSettings, Target};
use self::tunnels::Tunnels;
use crate::base::ids::mix;
use crate::base::lasting::forever;
use crate::base::lock::lock;
use crate::manifest::upstream::Spec;
use crate::proxy::via::Via;
use crate::service::deployment::Deployment;
use crate::telemetry::logs::CHANGE;
use crate::telemetry::metrics::Tally;
use crate::upstreams::transport::AnyBody;

/// How long a new upstream waits for the addresses of its replicas before it is published without some of them.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// The longest that a request waits for a connection to a replica while all are in use. Others may have one.
const WAIT: Duration = Duration::from_millis(500);

/// Replicas elsewhere, as one backend.
pub struct Upstream {
    deployment: Deployment,
    inner: Arc<Inner>,
    via: Arc<Via>,
    tasks: [AbortHandle; 2],
}

/// What the tasks of an upstream share with it.
struct Inner {
    service: Arc<str>,
    spec: Arc<Spec>,
    settings: PoolSettings,
    /// What is wrong with where its replicas are said to be.
    source_errors: SourceErrors,
    members: ArcSwap<Members>,
    /// What was asked and retried. Survives new manifests.
    budget: Arc<Budget>,
    /// For bodies that a replica may refuse after some of them was read.
    replay_memory: Arc<ReplayMemory>,
    counts: Arc<UpstreamCounts>,
    /// Connections that have become something else. Survives new manifests.
    tunnels: Arc<Tunnels>,
    /// Of a generator of numbers that need not be a secret.
    random: AtomicU64,
}

/// The replicas of a moment, and the connections to each, in the same order.
struct Members {
    replicas: Replicas,
    pools: Vec<Arc<Pool<AnyBody>>>,
}

/// What was counted of an upstream. Survives new manifests.
#[derive(Debug, Default)]
pub struct UpstreamCounts {
    /// Tries that were answered, and not to say that the replica is failing.
    pub answered: AtomicU64,
    /// The other tries, by what became of them.
    pub failed: Tally,
    /// Tries after the first of their request.
    pub retries: AtomicU64,
    /// Retries that there was no room for in the budget.
    pub unaffordable: AtomicU64,
    /// Times that a replica was ejected.
    pub ejections: AtomicU64,
}

/// What every upstream of a host needs, made when there is a first one.
pub struct Upstreams {
    /// The bound on the connections to their replicas.
    total: Arc<ConnectionLimit>,
    resolver: OnceLock<Arc<Resolver>>,
    /// How often those are asked for.
    pace: Pace,
    tls: OnceLock<Result<Arc<ClientConfig>, String>>,
    via: Arc<Via>,
    replay_memory: Arc<ReplayMemory>,
    /// Tunnels of all upstreams.
    tunnels: watch::Sender<usize>,
    /// The latest upstream of each service: what it knows goes on in the next one.
    latest: Mutex<HashMap<Arc<str>, Weak<Upstream>>>,
}

impl Upstreams {
    /// For a host that has at most so many connections to replicas, of which one over HTTP/2 counts as four.
    pub fn new(connections: usize) -> Self {
        Self {
            total: ConnectionLimit::new(connections),
            resolver: OnceLock::new(),
            pace: Pace::default(),
            tls: OnceLock::new(),
            via: Arc::default(),
            replay_memory: Arc::default(),
            tunnels: watch::Sender::default(),
            latest: Mutex::default(),
        }
    }

    /// The latest upstream of a service, while it lives.
    pub fn last(&self, service: &str) -> Option<Arc<Upstream>> {
        lock(&self.latest).get(service).and_then(Weak::upgrade)
    }

    /// Keeps the latest upstream of a service for [`Self::last`].
    pub fn remember(&self, service: &Arc<str>, upstream: &Arc<Upstream>) {
        let mut latest = lock(&self.latest);
        latest.retain(|_, upstream| upstream.strong_count() > 0);
        latest.insert(Arc::clone(service), Arc::downgrade(upstream));
    }

    /// What the host is called by its replicas.
    pub fn via(&self) -> Arc<Via> {
        Arc::clone(&self.via)
    }

    /// Waits until no connection is left that has become something else.
    pub async fn wait_for_tunnels(&self) {
        // The sender is here, so there is no error.
        let _ = self.tunnels.subscribe().wait_for(|open| *open == 0).await;
    }

    fn resolver(&self) -> Arc<Resolver> {
        Arc::clone(self.resolver.get_or_init(|| Arc::new(Resolver::system())))
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        self.tls
            .get_or_init(|| crate::base::tls::system_roots().and_then(crate::base::tls::client).map(Arc::new))
            .clone()
    }
}

impl Upstream {
    /// The upstream of a manifest, whose file stands in `directory`. What `before` knows goes on. Waits for a first
    /// answer to where its replicas are, but not for long.
    ///
    /// # Errors
    /// One line that says what is missing on this machine.
    pub(crate) async fn new(
        deployment: Deployment,
        spec: Arc<Spec>,
        directory: &Path,
        shared: &Upstreams,
        before: Option<&Self>,
    ) -> Result<Self, String> {
        let before = before.map(|before| &before.inner);
        let settings = PoolSettings {
            connect: spec.connect,
            wait: WAIT.min(spec.read),
            read: spec.read,
            idle: spec.idle,
            connections: spec.connections,
            total: Arc::clone(&shared.total),
            protocol: spec.protocol,
            tls: if spec.speaks_tls() { Some(shared.tls()?) } else { None },
        };
        let discovery = Discovery::start(spec.sources(directory), shared.resolver(), shared.pace.clone());
        let first_round = tokio::time::timeout(FIRST_ANSWER, discovery.first_round()).await;
        let service = Arc::clone(&deployment.name);
        if first_round.is_err() {
            tracing::warn!(service = &*service, "not all of its replicas are found yet; it serves with those that are");
        }
        let (now, endpoints) = (Instant::now(), discovery.endpoints());
        let old = before.map(|before| before.members.load_full());
        let members = Members::new(&spec, &settings, &endpoints.borrow(), old.as_deref(), true, &service);
        let inner = Arc::new(Inner {
            service,
            source_errors: discovery.source_errors(),
            members: ArcSwap::from_pointee(members),
            budget: before.map_or_else(|| Arc::new(Budget::new(now)), |before| Arc::clone(&before.budget)),
            counts: before.map(|before| Arc::clone(&before.counts)).unwrap_or_default(),
            replay_memory: Arc::clone(&shared.replay_memory),
            tunnels: before
                .map_or_else(|| Arc::new(Tunnels::new(&shared.tunnels)), |before| Arc::clone(&before.tunnels)),
            random: AtomicU64::new(now.elapsed().subsec_nanos().into()),
            spec,
            settings,
        });
        let (follows, checks, discovery) = (Arc::clone(&inner), Arc::clone(&inner), Arc::new(discovery));
        let mut again = false;
        let follow = move || {
            let again = std::mem::replace(&mut again, true);
            Arc::clone(&follows).follow(Arc::clone(&discovery), again)
        };
        let tasks = [
            tokio::spawn(forever("replicas", follow)).abort_handle(),
            tokio::spawn(forever("health checks", move || check::run(Arc::clone(&checks)))).abort_handle(),
        ];
        Ok(Self { deployment, inner, via: Arc::clone(&shared.via), tasks })
    }

    /// What its manifest says.
    pub fn spec(&self) -> &Spec {
        &self.inner.spec
    }

    /// What this host is called by its replicas.
    pub fn via(&self) -> &Via {
        &self.via
    }

    /// A place for a connection that is to become something else, if there is one.
    pub fn take_tunnel(&self) -> Option<tunnels::TunnelSlot> {
        self.inner.tunnels.take(self.inner.spec.tunnels)
    }

    /// Connections that have become something else, or are about to.
    pub fn open_tunnels(&self) -> usize {
        self.inner.tunnels.open()
    }

    /// What was counted of it.
    pub fn counts(&self) -> &UpstreamCounts {
        &self.inner.counts
    }
}

impl Deref for Upstream {
    type Target = Deployment;

    fn deref(&self) -> &Deployment {
        &self.deployment
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Inner {
    /// Keeps the replicas in agreement with what is found, for as long as the upstream lives; `again` after a panic, which may
    /// have lost a change.
    async fn follow(self: Arc<Self>, discovery: Arc<Discovery>, again: bool) {
        let mut endpoints = discovery.endpoints();
        if again {
            endpoints.mark_changed();
        }
        while endpoints.changed().await.is_ok() {
            let found = Arc::clone(&endpoints.borrow_and_update());
            let old = self.members.load_full();
            let new = Members::new(&self.spec, &self.settings, &found, Some(&old), false, &self.service);
            tracing::info!(target: CHANGE, service = &*self.service, "{}", count(new.replicas.len()));
            self.members.store(Arc::new(new));
        }
        // Where all addresses are fixed nobody changes them.
        std::future::pending().await
    }

    /// 64 bits that look like chance: splitmix64.
    fn random(&self) -> u64 {
        mix(self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed))
    }

    /// Tells the operator what became of a replica.
    fn log_change(&self, address: &Target, change: Option<HealthChange>, cause: impl FnOnce() -> String) {
        let service = &*self.service;
        match change {
            None => {}
            Some(HealthChange::Up) => tracing::info!(target: CHANGE, service, "{address} is up again"),
            Some(HealthChange::Down) => {
                let why = self.set_cause(address, cause());
                tracing::warn!(target: CHANGE, service, "{address} is down: {why}");
            }
            Some(HealthChange::Ejected(time)) => {
                self.counts.ejections.fetch_add(1, Relaxed);
                // Not in the macro, which would not ask for it where the log leaves the line out.
                let why = self.set_cause(address, cause());
                let time = humantime::format_duration(Duration::from_millis(time.as_millis() as u64));
                tracing::warn!(target: CHANGE, service, "{address} is left out for {time}: {why}");
            }
        }
    }

    /// Why a replica is out, in so many words as say it beside its address; who asks for the replica is told, too.
    fn set_cause(&self, address: &Target, cause: String) -> String {
        let why = cause.strip_prefix(&format!("{address}: ")).map_or_else(|| cause.clone(), str::to_owned);
        let members = self.members.load();
        if let Some((replica, _)) = members.replicas.iter().find(|(replica, _)| replica.address == *address) {
            replica.set_cause(&why);
        }
        why
    }

    fn log_panic_change(&self, change: Option<PanicChange>) {
        let service = &*self.service;
        match change {
            None => {}
            Some(PanicChange::Entered { available }) => {
                tracing::error!(
                    target: CHANGE,
                    service,
                    "only {} available: all are used, whatever their state, until there are more",
                    are(available)
                );
            }
            Some(PanicChange::Left { available }) => {
                tracing::info!(target: CHANGE, service, "{} available again, and only what is available is used", are(available));
            }
        }
    }
}

impl Members {
    /// What was found, with the connections of those that were there; not if they are to be made by other `settings`.
    fn new(
        spec: &Arc<Spec>,
        settings: &PoolSettings,
        found: &[Endpoint],
        before: Option<&Self>,
        other_settings: bool,
        service: &str,
    ) -> Self {
        let now = Instant::now();
        let known = before.filter(|_| !other_settings).into_iter();
        let known = known.flat_map(|before| before.replicas.iter().zip(&before.pools));
        let known: HashMap<_, _> = known.map(|((replica, _), pool)| (replica.address.clone(), pool)).collect();
        let mut pools = HashMap::new();
        let mut addresses = Vec::new();
        for Endpoint { target, weight } in found {
            let pool = match known.get(target) {
                Some(pool) => Ok(Arc::clone(pool)),
                None => Pool::new(target.clone(), settings).map(Arc::new),
            };
            match pool {
                Ok(pool) => {
                    addresses.push((target.clone(), *weight));
                    pools.insert(target.clone(), pool);
                }
                Err(error) => tracing::error!(service, "a replica cannot be used: {error}"),
            }
        }
        let replicas = Replicas::new(Arc::clone(spec), addresses, before.map(|before| &before.replicas), now);
        if replicas.left_out() > 0 {
            tracing::warn!(service, "{} left out: there are too many", are(replicas.left_out()));
        }
        let pools = replicas.iter().filter_map(|(replica, _)| pools.remove(&replica.address)).collect();
        Self { replicas, pools }
    }
}

/// `1 replica`, `2 replicas`.
fn count(replicas: usize) -> String {
    if replicas == 1 { "1 replica".into() } else { format!("{replicas} replicas") }
}

/// `1 replica is`, `2 replicas are`.
fn are(replicas: usize) -> String {
    format!("{} {}", count(replicas), if replicas == 1 { "is" } else { "are" })
}

#[cfg(test)]
mod tests;
