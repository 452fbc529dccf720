//! The cluster: hosts that share a server for their state know each other by records there, which expire.
//!
//! Each host renews a record of its own and reads those of the others, at an interval. There is nothing between the hosts themselves:
//! no gossip and no votes. While the server is away, a host serves as before, knows the others for `cluster.keep`, and says so.

mod leader;
mod members;
mod names;
mod rates;
pub(crate) mod record;
mod registration;
mod roster;
mod rounds;
mod served;
#[cfg(test)]
mod simulation;
mod status;
mod view;
mod work;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use lodge_base::config::Config;
use lodge_base::ids::Ids;
use lodge_base::lock::lock;
use lodge_state::{Error, Key, LockName, Quota, Store};
use lodge_traffic::admission::{ClusterRates, Concurrency};
use lodge_traffic::proxy::host_key::HostKey;
use lodge_traffic::service::deployment::Deployment;
use lodge_traffic::upstreams::SharedUpstreams;
use lodge_traffic::upstreams::cluster_calls::ClusterCalls;
use lodge_traffic::upstreams::discover::cluster::ServingHosts;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use self::names::Names;
use self::record::HostRecord;
use self::rounds::Participation;
use self::view::{ClusterView, ELECT, OPERATIONS, RATES, READ, RENEW, ShownCluster};
use crate::guests::snapshot::Current;
use crate::guests::stores::Stores;

pub use self::leader::Leadership;
pub use self::status::{ClusterCall, ClusterMember, ClusterNumbers, ClusterStatus, STATES};

/// The namespace of clusters. No service has such a name.
const NAMESPACE: &str = "@cluster";

/// Bytes that the records of all clusters with one server may have.
const QUOTA: Quota = Quota { keys: 20_000, bytes: 256 << 20 };

/// The longest time for leaving the cluster while the host stops.
const LEAVE: Duration = Duration::from_secs(2);

/// The part of `cluster.ttl` that a step of a round may take. A round has three: so a slow server ends no term.
const STEP: u32 = 4;

/// The parts of `cluster.interval` after each of which a host looks whether what it serves has changed.
const LOOKS: u32 = 10;

/// The age up to which one text of the status is shared by all requests for it.
const SHARED: Duration = Duration::from_millis(200);

/// The cluster that a host is in.
pub struct Cluster {
    names: Names,
    address: Option<String>,
    zone: Option<String>,
    interval: Duration,
    ttl: Duration,
    keep: Duration,
    /// The longest time of an operation on the store.
    step: Duration,
    /// A random number of this process.
    id: String,
    /// The key by which other hosts know what this process sends.
    key: HostKey,
    leader: Leadership,
    work: tokio::sync::Mutex<Option<Participation>>,
    /// The store, once it is open, for the readings, which wait for no round.
    store: Mutex<Option<Arc<dyn Store>>>,
    opened: Notify,
    leaving: watch::Sender<bool>,
    /// Whether a host that starts need not wait any more.
    settled: AtomicBool,
    view: Mutex<ClusterView>,
    /// The last text of the status.
    shared: tokio::sync::Mutex<Option<(Instant, Bytes)>>,
    failures: [AtomicU64; OPERATIONS.len()],
    /// Where upstreams look for hosts.
    hosts: ServingHosts,
    /// What this host has sent to others.
    calls: Arc<ClusterCalls>,
    /// The rate limits that hold for all hosts together.
    rates: Arc<ClusterRates>,
    /// Exchanges with the server about keys of these limits.
    exchanges: AtomicU64,
}

/// The sources of what a host says of itself.
#[derive(Clone)]
pub struct LocalServices {
    /// What it serves.
    pub current: Current,
    /// The slots for requests.
    pub slots: Arc<Concurrency>,
}

impl Cluster {
    /// Creates the cluster that the configuration names; `None` if it names none. What it knows of other hosts is passed on to `upstreams`,
    /// and how many there are to `rates`.
    ///
    /// # Errors
    /// If the host has no name, and which setting gives it one.
    pub fn new(
        config: &Config,
        upstreams: &SharedUpstreams,
        rates: Arc<ClusterRates>,
    ) -> Result<Option<Arc<Self>>, String> {
        let settings = &config.cluster;
        let Some(cluster) = settings.name.clone() else { return Ok(None) };
        let names = Names::new(cluster, settings.host.as_ref())?;
        let (hosts, key) = (upstreams.serving_hosts(), HostKey::random());
        hosts.join(key.clone());
        rates.join();
        Ok(Some(Arc::new(Self {
            names,
            address: settings.advertise.as_ref().map(ToString::to_string),
            zone: settings.zone.clone().or_else(|| config.kubernetes.zone.clone()),
            interval: settings.interval,
            ttl: settings.ttl,
            keep: settings.keep,
            step: config.state.timeout.min(settings.ttl / STEP),
            id: Ids::new().request().to_string(),
            key,
            leader: Leadership::default(),
            work: tokio::sync::Mutex::default(),
            store: Mutex::default(),
            opened: Notify::new(),
            leaving: watch::Sender::new(false),
            settled: AtomicBool::new(false),
            view: Mutex::default(),
            shared: tokio::sync::Mutex::default(),
            failures: Default::default(),
            hosts,
            calls: upstreams.cluster_calls(),
            rates,
            exchanges: AtomicU64::default(),
        })))
    }

    /// Whether the record of this host has said all that it serves, and this host has read those of the others; or whether the store could
    /// not be used, so that it makes no sense to wait. Stays true.
    pub fn is_settled(&self) -> bool {
        self.settled.load(Relaxed)
    }

    /// Whether this host leads.
    pub fn leader(&self) -> Leadership {
        self.leader.clone()
    }

    /// Renews the record, reads those of the others, and shares rates, for as long as the host serves. None waits for another one.
    pub async fn run(self: Arc<Self>, stores: Arc<Stores>, load: LocalServices) {
        let renewing = async {
            while !self.has_left() {
                let (next, known) = (Instant::now() + self.pause(), load.current.snapshot().generation);
                self.round(&stores, &load).await;
                self.wait(next, &load.current, known).await;
            }
        };
        let reading = async {
            if lock(&self.store).is_none() {
                self.opened.notified().await;
            }
            while !self.has_left() {
                let next = Instant::now() + self.pause();
                self.read().await;
                tokio::time::sleep_until(next).await;
            }
        };
        let mut leaving = self.leaving.subscribe();
        // What waits for the store when the host leaves ends there. Rates hold until the last request.
        let member = async {
            tokio::select! {
                biased;
                _ = leaving.wait_for(|leaving| *leaving) => {}
                () = async { tokio::join!(renewing, reading); } => {}
            }
        };
        tokio::join!(member, self.share_rates(&stores));
    }

    /// Stops leading, removes the record of this host, and lets another one lead, while requests still finish.
    pub async fn leave(&self) {
        self.leader.leave();
        self.leaving.send_replace(true);
        let left = timeout(LEAVE, async {
            let Some(mut work) = self.work.lock().await.take() else { return Ok(()) };
            let (deadline, name) = (Instant::now() + LEAVE, LockName::new(&self.names.leader)?);
            let resigned = work.election.resign(&*work.locks, name, deadline).await;
            work.registration.leave(&*work.store, self.key()?, deadline).await.and(resigned)
        });
        let done = left.await.unwrap_or(Err(Error::Timeout));
        let was_member = {
            let mut view = lock(&self.view);
            view.left = true;
            view.taken.is_none() && view.renewed.is_some()
        };
        let (Names { cluster, host, .. }, ttl) = (&self.names, humantime::format_duration(self.ttl));
        match done {
            Ok(()) if !was_member => tracing::info!("stopping; this host was not in the cluster {cluster}"),
            Ok(()) => tracing::info!("left the cluster {cluster}, of which this host was {host}"),
            Err(error) => tracing::warn!(
                "the record of {host} in the cluster {cluster}, or its lease as the leader, may last for {ttl} more: {}",
                error.for_operators()
            ),
        }
    }

    /// Waits until `next`, or until other services are served than those that were `known`: others need not find out at the next interval
    /// that a host which has just started serves what one that stops now does not serve any more.
    async fn wait(&self, next: Instant, current: &Current, known: u64) {
        while Instant::now() < next {
            tokio::time::sleep_until(next.min(Instant::now() + self.interval / LOOKS)).await;
            if current.snapshot().generation != known {
                return;
            }
        }
    }

    fn has_left(&self) -> bool {
        *self.leaving.borrow()
    }

    /// Returns the time to the next round, a tenth of which is random, so that hosts which have started together do not stay
    /// together.
    fn pause(&self) -> Duration {
        let per_mille = u32::try_from(Ids::new().span() % 101).unwrap_or(0);
        self.interval * (950 + per_mille) / 1000
    }

    fn key(&self) -> Result<Key<'_>, Error> {
        Key::new(&self.names.members, &self.names.host)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.step
    }

    /// What this host says of itself.
    fn own(&self, load: &LocalServices) -> HostRecord {
        let snapshot = load.current.snapshot();
        let served = snapshot.targets.iter().filter(|target| !target.is_disabled());
        let served = served.map(|target| target.deployment()).filter(|deployment| deployment.withdrawn().is_none());
        // What this host only forwards to others that serve it is not served here: requests would go in circles.
        let forwards = |deployment: &Deployment| {
            deployment.spec.manifest.upstream.as_ref().is_some_and(|upstream| upstream.cluster_service().is_some())
        };
        let served = served.filter(|deployment| !forwards(deployment));
        HostRecord {
            id: self.id.clone(),
            address: self.address.clone(),
            key: Some(self.key.clone()),
            zone: self.zone.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            in_flight: load.slots.taken() as u64,
            slots: load.slots.size() as u64,
            services: served.map(|deployment| (deployment.name.to_string(), deployment.version.to_string())).collect(),
            list: None,
            more: 0,
        }
    }

    /// Passes on to upstreams which other hosts serve what.
    fn pass_on(&self, view: &ClusterView) {
        self.hosts.replace(view.serving(self.zone.as_deref(), self.address.as_deref()));
    }

    /// Counts a failure, and says once that the store cannot be used, and once that it can be used again.
    fn report(&self, operation: usize, done: Result<(), Error>, now: Instant) {
        let done = done.map_err(|error| error.for_operators());
        self.report_reason(operation, done, now);
    }

    fn report_reason(&self, operation: usize, done: Result<(), String>, now: Instant) {
        let cluster = &self.names.cluster;
        let mut view = lock(&self.view);
        let since = view.failing.iter().flatten().map(|(_, since)| *since).min();
        let before = view.failing.get_mut(operation).and_then(Option::take);
        if let Err(why) = done {
            self.failures.get(operation).map(|failures| failures.fetch_add(1, Relaxed));
            let what = match operation {
                RENEW => "this host cannot renew its record",
                READ => "this host cannot read the records of the others",
                RATES => "this host cannot share rates with the others",
                _ => "this host cannot find out which host leads",
            };
            let why = format!("{what} on the server of `state.url`: {why}");
            if since.is_none() {
                let keep = humantime::format_duration(self.keep);
                tracing::warn!("cluster {cluster}: {why}; this host serves on, and the others stay known for {keep}");
            }
            if let Some(failing) = view.failing.get_mut(operation) {
                *failing = Some((why, before.map_or(now, |(_, since)| since)));
            }
        } else if let Some(since) = since.filter(|_| view.failing.iter().all(Option::is_none)) {
            // The others could not renew their records either.
            self.unsettle(&mut view, now, self.ttl);
            let away = now.saturating_duration_since(since).as_secs();
            let away = humantime::format_duration(Duration::from_secs(away));
            tracing::info!("cluster {cluster}: the server of `state.url` can be used again after {away}");
        }
        let knows_and_is_known = view.announced && view.members.read.is_some();
        let is_away = [RENEW, READ].iter().any(|operation| view.failing.get(*operation).is_some_and(Option::is_some));
        if knows_and_is_known || is_away {
            self.settled.store(true, Relaxed);
        }
        if view.members.expire(self.keep, now) {
            self.pass_on(&view);
            tracing::warn!("cluster {cluster}: the other hosts were not seen for too long, and are not known any more");
        }
    }

    /// Returns what operators see.
    pub fn status(&self) -> ClusterStatus {
        self.shown().status()
    }

    fn shown(&self) -> ShownCluster {
        let leads = self.leader.token().is_some();
        lock(&self.view).shown(&self.names.cluster, &self.names.host, leads, Instant::now()).with_calls(&self.calls)
    }

    /// Returns what operators see as JSON. Requests that come at once share one text, which no worker of the runtime writes.
    pub async fn json(&self) -> Bytes {
        let mut shared = self.shared.lock().await;
        if let Some((_, text)) = shared.as_ref().filter(|(at, _)| at.elapsed() < SHARED) {
            return text.clone();
        }
        let shown = self.shown();
        let write = move || Bytes::from(serde_json::to_vec(&shown.status()).unwrap_or_default());
        let text = tokio::task::spawn_blocking(write).await.unwrap_or_default();
        *shared = Some((Instant::now(), text.clone()));
        text
    }

    /// Returns what this host has sent to services of others.
    pub fn calls(&self) -> &ClusterCalls {
        &self.calls
    }

    /// Returns the numbers for metrics.
    pub fn numbers(&self) -> ClusterNumbers {
        let view = lock(&self.view);
        let mut failures = OPERATIONS.map(|name| (name, 0));
        for ((_, count), failed) in failures.iter_mut().zip(&self.failures) {
            *count = failed.load(Relaxed);
        }
        ClusterNumbers {
            members: view.count(),
            state: view.state_number(),
            leads: self.leader.token().is_some(),
            renewed: view.renewed_at(),
            ignored: view.members.ignored as u64,
            failures,
            rate_keys: self.rates.keys() as u64,
            rate_exchanges: self.exchanges.load(Relaxed),
            divides_rates: self.rates.is_away(),
        }
    }
}

#[cfg(test)]
mod tests;
