//! Upstreams: services whose replicas run elsewhere, such as other Lodge hosts or containers.
//!
//! [`discover`] resolves the sources of a manifest's `[upstream]` section to addresses. [`replicas`] holds their state:
//! health ([`health`]) and the choice of a replica for a request ([`balance`]). [`transport`] sends a request to a
//! replica over pooled connections. [`send`] makes one or more attempts: [`retry`] decides whether another attempt is
//! safe, and [`budget`] bounds their number. `check` runs the health checks.
//!
//! An upstream is published like a guest, under the same routes and limits, so a service can move between the two when
//! its files change. The state of a replica survives a new manifest and changes of other addresses.

pub mod balance;
pub mod budget;
mod check;
pub mod cluster_calls;
pub mod discover;
pub mod health;
#[cfg(test)]
mod lockstep;
pub mod replay;
pub mod replicas;
pub mod retry;
pub mod send;
mod shared;
pub mod status;
pub mod tls;
pub mod transport;
pub mod tunnels;
pub mod upload_wait;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use self::budget::RetryBudget;
use self::cluster_calls::ClusterCalls;
use self::discover::cluster::ServingHosts;
use self::discover::{Discovery, Endpoint, SourceErrors};
use self::health::HealthChange;
use self::replay::ReplayMemory;
use self::replicas::{PanicChange, Replicas};
pub use self::shared::SharedUpstreams;
pub use self::status::{ReplicaStatus, UpstreamStatus};
use self::tls::{OwnCertificate, ReplicaTls};
use self::transport::{Pool, PoolSettings, Target};
use self::tunnels::Tunnels;
use crate::proxy::host_key::HostKey;
use crate::proxy::via::Via;
use crate::service::deployment::Deployment;
use crate::upstreams::transport::AnyBody;
use lodge_base::ids::mix;
use lodge_base::lasting::forever;
use lodge_base::telemetry::logs::CHANGE;
use lodge_base::telemetry::logs::throttle::LogThrottle;
use lodge_base::telemetry::metrics::ReasonCounter;
use lodge_manifest::upstream::{MOST_REPLICAS, Spec};

/// The longest wait for the addresses of a new upstream. After it, the upstream is published with those that are known.
const FIRST_ADDRESSES: Duration = Duration::from_secs(5);

/// The longest wait for a connection while all to the replica are in use. Then the request may try another replica.
const WAIT: Duration = Duration::from_millis(500);

/// A backend whose replicas run elsewhere. Dropping it ends its tasks.
pub struct Upstream {
    deployment: Arc<Deployment>,
    inner: Arc<Inner>,
    via: Arc<Via>,
    tasks: [AbortHandle; 2],
}

/// The state that an upstream shares with its tasks.
struct Inner {
    service: Arc<str>,
    spec: Arc<Spec>,
    settings: PoolSettings,
    /// The TLS of this upstream alone, which replaces that of `settings` when it changes.
    tls: Option<ReplicaTls>,
    /// Errors of the sources that name the replicas.
    source_errors: SourceErrors,
    members: ArcSwap<Members>,
    /// The retry budget. Survives new manifests.
    budget: Arc<RetryBudget>,
    /// The memory for bodies that may have to be sent a second time.
    replay_memory: Arc<ReplayMemory>,
    counts: Arc<UpstreamCounts>,
    /// The service of other hosts of the cluster that the requests are for, and their counts by host.
    calls: Option<(Arc<str>, Arc<ClusterCalls>)>,
    /// The other hosts of the cluster, and the key of this one.
    hosts: ServingHosts,
    /// Open tunnels. Survives new manifests.
    tunnels: Arc<Tunnels>,
    /// State of the pseudorandom generator; not for secrets.
    random: AtomicU64,
}

/// A set of replicas and the connection pool of each, in the same order.
struct Members {
    replicas: Replicas,
    pools: Vec<Arc<Pool<AnyBody>>>,
}

/// Counters of an upstream. Survive new manifests.
#[derive(Debug, Default)]
pub struct UpstreamCounts {
    /// Attempts with a response that does not count against the replica.
    pub responded: AtomicU64,
    /// The other attempts, by reason.
    pub failed: ReasonCounter,
    /// Attempts after the first one of a request.
    pub retries: AtomicU64,
    /// Retries that the budget refused.
    pub unaffordable: AtomicU64,
    /// Ejections of replicas.
    pub ejections: AtomicU64,
}

impl Upstream {
    /// Creates the upstream of a manifest that lies in `directory`, with the state of `before`. Waits for the first
    /// addresses of its replicas, at most `FIRST_ADDRESSES`.
    ///
    /// # Errors
    /// One line that says what is missing on this machine.
    pub async fn new(
        deployment: Arc<Deployment>,
        spec: Arc<Spec>,
        directory: &Path,
        shared: &SharedUpstreams,
        before: Option<&Self>,
    ) -> Result<Self, String> {
        let before = before.map(|before| &before.inner);
        let tls = match spec.tls.is_default() {
            true => None,
            false => Some(ReplicaTls::open(&spec.tls, directory, &deployment.name, || shared.roots()).await?),
        };
        let settings = PoolSettings {
            connect: spec.connect,
            wait: WAIT.min(spec.read),
            read: spec.read,
            idle: spec.idle,
            connections: spec.connections,
            total: Arc::clone(&shared.total),
            protocol: spec.protocol,
            tls: match &tls {
                Some(own) => Some(Arc::clone(&own.current().borrow().config)),
                None if spec.may_speak_tls() => Some(shared.tls()?),
                None => None,
            },
        };
        let sources = spec.sources(directory);
        let tls_only = tls.is_some();
        let discovery = Discovery::start(
            sources,
            shared.resolver(),
            (&shared.watches, &shared.hosts),
            shared.pace.clone(),
            tls_only,
        );
        let first_round = tokio::time::timeout(FIRST_ADDRESSES, discovery.first_round()).await;
        let service = Arc::clone(&deployment.name);
        if first_round.is_err() {
            let within = humantime::format_duration(FIRST_ADDRESSES);
            tracing::warn!(
                service = &*service,
                "not all replicas have an address after {within}; serving with those that do"
            );
        }
        let (now, endpoints) = (Instant::now(), discovery.endpoints());
        let old = before.map(|before| before.members.load_full());
        let members = Members::new(&spec, &settings, &endpoints.borrow(), old.as_deref(), true, &service);
        let inner = Arc::new(Inner {
            service,
            source_errors: discovery.source_errors(),
            members: ArcSwap::from_pointee(members),
            budget: before.map_or_else(|| Arc::new(RetryBudget::new(now)), |before| Arc::clone(&before.budget)),
            counts: before.map(|before| Arc::clone(&before.counts)).unwrap_or_default(),
            calls: spec.cluster_service().map(|service| (Arc::clone(service), Arc::clone(&shared.calls))),
            hosts: shared.hosts.clone(),
            replay_memory: Arc::clone(&shared.replay_memory),
            tunnels: before
                .map_or_else(|| Arc::new(Tunnels::new(&shared.tunnels)), |before| Arc::clone(&before.tunnels)),
            random: AtomicU64::new(now.elapsed().subsec_nanos().into()),
            spec,
            settings,
            tls,
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

    /// Returns the key of this host in its cluster.
    pub fn host_key(&self) -> Option<&HostKey> {
        self.inner.hosts.own_key()
    }

    /// Returns the version that the replicas respond for.
    pub fn deployment(&self) -> &Arc<Deployment> {
        &self.deployment
    }

    /// Returns the settings of the manifest.
    pub fn spec(&self) -> &Spec {
        &self.inner.spec
    }

    /// Returns the pseudonym of this host in `Via`.
    pub fn via(&self) -> &Via {
        &self.via
    }

    /// Takes a slot for a tunnel; `None` if all of `upstream.tunnels` are taken.
    pub fn take_tunnel(&self) -> Option<tunnels::TunnelSlot> {
        self.inner.tunnels.take(self.inner.spec.tunnels)
    }

    /// Returns the number of tunnels that are open or being opened.
    pub fn open_tunnels(&self) -> usize {
        self.inner.tunnels.open()
    }

    /// Returns the certificate of this host for the replicas.
    pub fn certificate(&self) -> Option<OwnCertificate> {
        self.inner.tls.as_ref()?.current().borrow().own.clone()
    }

    /// Returns the counters.
    pub fn counts(&self) -> &UpstreamCounts {
        &self.inner.counts
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Inner {
    /// Replaces the set of replicas whenever discovery publishes other addresses, or the TLS of this upstream changes. `again` is
    /// true after a panic, which may have lost a change.
    async fn follow(self: Arc<Self>, discovery: Arc<Discovery>, again: bool) {
        let (mut endpoints, mut settings) = (discovery.endpoints(), self.settings.clone());
        let (mut tls, mut log) = (self.tls.as_ref().map(ReplicaTls::current), LogThrottle::default());
        if again {
            endpoints.mark_changed();
            tls.iter_mut().for_each(watch::Receiver::mark_changed);
        }
        loop {
            // An error means that there are no further changes: fixed addresses have none.
            let is_tls = tokio::select! {
                Ok(()) = endpoints.changed() => false,
                Some(Ok(())) = async { Some(tls.as_mut()?.changed().await) } => true,
                else => return std::future::pending().await,
            };
            if let Some(tls) = tls.as_mut().filter(|_| is_tls) {
                settings.tls = Some(Arc::clone(&tls.borrow_and_update().config));
            }
            let found = Arc::clone(&endpoints.borrow_and_update());
            let old = self.members.load_full();
            // With other TLS, connections that exist are only for their present requests.
            let new = Members::new(&self.spec, &settings, &found, Some(&old), is_tls, &self.service);
            if log.record(Instant::now()).is_some() {
                tracing::info!(target: CHANGE, service = &*self.service, "{}", count(new.replicas.len()));
            }
            self.members.store(Arc::new(new));
        }
    }

    /// Returns 64 pseudorandom bits (splitmix64).
    fn random(&self) -> u64 {
        mix(self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed))
    }

    /// Logs a change of a replica's health.
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
                // Evaluated outside the macro, which would skip it when the log level disables the line.
                let why = self.set_cause(address, cause());
                let time = humantime::format_duration(Duration::from_millis(time.as_millis() as u64));
                tracing::warn!(target: CHANGE, service, "{address} is left out for {time}: {why}");
            }
        }
    }

    /// Stores why a replica is unavailable, without its address, for `lodge inspect`. Returns that text.
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
                let all = self.members.load().replicas.len();
                let which = if available == 0 { "no replica is".into() } else { format!("only {}", are(available)) };
                tracing::error!(target: CHANGE, service, "{which} available: requests go to all {all} in any state");
            }
            Some(PanicChange::Left { available }) => {
                tracing::info!(target: CHANGE, service, "{} available again: requests go only there", are(available));
            }
        }
    }
}

impl Members {
    /// Builds the set of `found` replicas. Takes over the pools of replicas that were known before, unless they have
    /// other settings.
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
        for Endpoint { target, weight, .. } in found {
            let pool = match known.get(target) {
                Some(pool) => Ok(Arc::clone(pool)),
                None => Pool::new(target.clone(), settings).map(Arc::new),
            };
            match pool {
                Ok(pool) => {
                    addresses.push((target.clone(), *weight));
                    pools.insert(target.clone(), pool);
                }
                Err(error) => tracing::error!(service, "cannot use a replica: {error}"),
            }
        }
        let far = found.iter().filter(|endpoint| endpoint.is_far).map(|endpoint| &endpoint.target).collect();
        let replicas = Replicas::new(Arc::clone(spec), addresses, before.map(|before| &before.replicas), now);
        let replicas = replicas.with_far(&far);
        if replicas.left_out() > 0 {
            tracing::warn!(service, "{} left out: an upstream has at most {MOST_REPLICAS}", are(replicas.left_out()));
        }
        let pools = replicas.iter().filter_map(|(replica, _)| pools.remove(&replica.address)).collect();
        Self { replicas, pools }
    }
}

/// Formats `1 replica`, `2 replicas`.
fn count(replicas: usize) -> String {
    if replicas == 1 { "1 replica".into() } else { format!("{replicas} replicas") }
}

/// Formats `1 replica is`, `2 replicas are`.
fn are(replicas: usize) -> String {
    format!("{} {}", count(replicas), if replicas == 1 { "is" } else { "are" })
}

#[cfg(test)]
mod tests;
