//! The cluster: hosts that share a server for their state know each other by records there, which expire.
//!
//! Each host renews a record of its own and reads those of the others, at an interval. There is nothing between the hosts themselves:
//! no gossip and no votes. While the server is away, a host serves as before, knows the others for `cluster.keep`, and says so.

mod leader;
mod members;
pub(crate) mod record;
mod registration;
mod roster;
mod status;
mod view;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use lodge_base::config::Config;
use lodge_base::config::cluster::{MOST_HOST, is_plain};
use lodge_base::files;
use lodge_base::ids::Ids;
use lodge_base::lock::lock;
use lodge_state::{Error, Key, LockName, Locks, Quota, Store, Token};
use lodge_traffic::admission::Concurrency;
use tokio::time::{Instant, timeout};

use self::leader::{Election, FencedValue};
use self::members::{Changes, named};
use self::record::HostRecord;
use self::registration::{Registration, Renewal};
use self::roster::Roster;
use self::view::ClusterView;
use crate::guests::snapshot::Current;
use crate::guests::stores::Stores;

pub use self::leader::Leadership;
pub use self::status::{ClusterMember, ClusterNumbers, ClusterStatus, STATES};

/// The namespace of clusters. No service has such a name.
const NAMESPACE: &str = "@cluster";

/// Bytes that the records of all clusters with one server may have.
const QUOTA: Quota = Quota { keys: 20_000, bytes: 256 << 20 };

/// The longest time for leaving the cluster while the host stops.
const LEAVE: Duration = Duration::from_secs(2);

/// The key with the name of the leader.
const LEADER: &str = "leader";

/// What can fail, and its places in the list of failures.
const OPERATIONS: [&str; 3] = ["renew", "read", "elect"];
const RENEW: usize = 0;
const READ: usize = 1;
const ELECT: usize = 2;

/// The cluster that a host is in.
pub struct Cluster {
    names: Names,
    address: Option<String>,
    zone: Option<String>,
    interval: Duration,
    ttl: Duration,
    keep: Duration,
    timeout: Duration,
    /// A random number of this process.
    id: String,
    leader: Leadership,
    work: tokio::sync::Mutex<Option<Participation>>,
    leaving: AtomicBool,
    view: Mutex<ClusterView>,
    failures: [AtomicU64; OPERATIONS.len()],
}

/// The names under which the cluster is in the store.
struct Names {
    cluster: String,
    host: String,
    /// The bucket of the records.
    members: String,
    /// The bucket of the name of the leader, and its lock.
    leader: String,
}

/// What this host does with the store.
struct Participation {
    store: Arc<dyn Store>,
    locks: Arc<dyn Locks>,
    registration: Registration,
    election: Election,
    /// The token with which this host has last written that it leads.
    announced: Option<Token>,
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
    /// Creates the cluster that the configuration names; `None` if it names none.
    ///
    /// # Errors
    /// If the host has no name, and which setting gives it one.
    pub fn new(config: &Config) -> Result<Option<Arc<Self>>, String> {
        let settings = &config.cluster;
        let Some(cluster) = settings.name.clone() else { return Ok(None) };
        let host = match &settings.host {
            Some(host) => host.clone(),
            None => machine().ok_or("cluster.host: the machine has no name that is plain text; set cluster.host")?,
        };
        let [members, leader] = ["members", "leader"].map(|what| format!("{what}/{cluster}"));
        Ok(Some(Arc::new(Self {
            names: Names { cluster, host, members, leader },
            address: settings.advertise.as_ref().map(ToString::to_string),
            zone: settings.zone.clone().or_else(|| config.kubernetes.zone.clone()),
            interval: settings.interval,
            ttl: settings.ttl,
            keep: settings.keep,
            timeout: config.state.timeout,
            id: Ids::new().request().to_string(),
            leader: Leadership::default(),
            work: tokio::sync::Mutex::default(),
            leaving: AtomicBool::new(false),
            view: Mutex::default(),
            failures: Default::default(),
        })))
    }

    /// Whether this host leads.
    pub fn leader(&self) -> Leadership {
        self.leader.clone()
    }

    /// Renews the record and reads those of the others, for as long as the host serves.
    pub async fn run(self: Arc<Self>, stores: Arc<Stores>, load: LocalServices) {
        while !self.leaving.load(Relaxed) {
            let done = self.round(&stores, &load).await;
            self.report(done, Instant::now());
            tokio::time::sleep(self.pause()).await;
        }
        std::future::pending().await
    }

    /// Removes the record of this host, and lets another one lead, while requests still finish.
    pub async fn leave(&self) {
        self.leaving.store(true, Relaxed);
        let left = timeout(LEAVE, async {
            let Some(mut work) = self.work.lock().await.take() else { return Ok(()) };
            let (deadline, name) = (Instant::now() + LEAVE, LockName::new(&self.names.leader)?);
            let resigned = work.election.resign(&*work.locks, name, deadline).await;
            work.registration.leave(&*work.store, self.key()?, deadline).await.and(resigned)
        });
        let done = left.await.unwrap_or(Err(Error::Timeout));
        lock(&self.view).left = true;
        let (Names { cluster, host, .. }, ttl) = (&self.names, humantime::format_duration(self.ttl));
        match done {
            Ok(()) => tracing::info!("left the cluster {cluster}, of which this host was {host}"),
            Err(error) => tracing::warn!("the record of {host} in the cluster {cluster} lasts for {ttl} more: {error}"),
        }
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
        Instant::now() + self.timeout
    }

    /// Does everything once.
    ///
    /// # Errors
    /// Why the store cannot be used.
    async fn round(&self, stores: &Stores, load: &LocalServices) -> Result<(), String> {
        let own = self.own(load);
        {
            let mut view = lock(&self.view);
            view.started.get_or_insert_with(Instant::now);
            view.own = own.clone();
        }
        let mut work = self.work.lock().await;
        if self.leaving.load(Relaxed) {
            return Ok(());
        }
        let work = match &mut *work {
            Some(work) => work,
            none => none.insert(self.open(stores).await.inspect_err(|_| self.count(RENEW))?),
        };
        let failed = |operation| {
            move |error: Error| {
                self.count(operation);
                error.to_string()
            }
        };
        self.renew(work, own).await.map_err(failed(RENEW))?;
        self.read(work).await.map_err(failed(READ))?;
        self.elect(work).await.map_err(failed(ELECT))
    }

    async fn open(&self, stores: &Stores) -> Result<Participation, String> {
        let (store, locks) = stores.of_hosts(NAMESPACE, QUOTA, self.deadline()).await?;
        let new = || {
            let registration = Registration::new(self.id.clone(), self.ttl)?;
            Ok((registration, Election::new(self.leader.clone(), self.ttl)?))
        };
        let (registration, election) = new().map_err(|error: Error| error.to_string())?;
        Ok(Participation { store, locks, registration, election, announced: None })
    }

    /// What this host says of itself.
    fn own(&self, load: &LocalServices) -> HostRecord {
        let snapshot = load.current.snapshot();
        let served = snapshot.targets.iter().filter(|target| !target.is_disabled());
        let served = served.map(|target| target.deployment()).filter(|deployment| deployment.withdrawn().is_none());
        HostRecord {
            id: self.id.clone(),
            address: self.address.clone(),
            zone: self.zone.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            in_flight: load.slots.taken() as u64,
            slots: load.slots.size() as u64,
            services: served.map(|deployment| (deployment.name.to_string(), deployment.digest().short())).collect(),
            more: 0,
        }
    }

    async fn renew(&self, work: &mut Participation, own: HostRecord) -> Result<(), Error> {
        let renewal = work.registration.renew(&*work.store, self.key()?, own.write().into(), self.deadline()).await?;
        let mut view = lock(&self.view);
        let taken = view.taken.take();
        let Names { cluster, host, .. } = &self.names;
        match renewal {
            Renewal::Done => {
                if view.renewed.is_none() || taken.is_some() {
                    tracing::info!("this host is {host} in the cluster {cluster}");
                }
                view.renewed = Some((Instant::now(), SystemTime::now()));
            }
            Renewal::Taken { by, alive } => {
                let by = by.map_or(String::new(), |by| format!(" at {by}"));
                let advice = match alive {
                    true => "give one of the two another cluster.host",
                    false => "if that one has ended, this one joins when its record expires",
                };
                let problem =
                    format!("another host{by} is {host} in the cluster {cluster}, so this host is not in it; {advice}");
                if taken.as_ref() != Some(&problem) {
                    tracing::warn!("{problem}");
                }
                view.taken = Some(problem);
            }
        }
        Ok(())
    }

    async fn read(&self, work: &Participation) -> Result<(), Error> {
        let Names { cluster, host, members, .. } = &self.names;
        let reading = Roster::new(&*work.store, members, host, self.timeout).await?;
        let (ignored, truncated) = (reading.ignored, reading.truncated);
        let mut view = lock(&self.view);
        let before = (view.members.ignored > 0, view.members.truncated);
        let Changes { joined, left } = view.members.update(reading, Instant::now());
        drop(view);
        if !joined.is_empty() {
            tracing::info!("hosts in the cluster {cluster}: {}", named(&joined));
        }
        if !left.is_empty() {
            tracing::info!("hosts not in the cluster {cluster} any more: {}", named(&left));
        }
        if ignored > 0 && !before.0 {
            tracing::warn!(
                "{ignored} records of the cluster {cluster} are no records of hosts, and are ignored; something else writes to \
                 the namespace {NAMESPACE} of the server of state.url"
            );
        }
        if truncated && !before.1 {
            tracing::warn!("the cluster {cluster} has more hosts than this one can know; some are left out");
        }
        Ok(())
    }

    /// Leads, or finds out who does.
    async fn elect(&self, work: &mut Participation) -> Result<(), Error> {
        let (name, now) = (LockName::new(&self.names.leader)?, Instant::now());
        // A host whose name another one has is in no cluster.
        let is_member = lock(&self.view).taken.is_none();
        let token = match is_member {
            true => work.election.round(&*work.locks, name, now, self.deadline()).await?,
            false => None,
        };
        let value = FencedValue { store: &*work.store, key: Key::new(&self.names.leader, LEADER)? };
        let host = &self.names.host;
        let mut leader = value.read(self.deadline()).await?;
        if let Some(token) = token.filter(|token| work.announced != Some(*token)) {
            if value.write(token, host, self.deadline()).await? {
                work.announced = Some(token);
                tracing::info!("this host leads the cluster {}", self.names.cluster);
            }
            leader = value.read(self.deadline()).await?;
        }
        lock(&self.view).leader = leader;
        Ok(())
    }

    fn count(&self, operation: usize) {
        if let Some(failures) = self.failures.get(operation) {
            failures.fetch_add(1, Relaxed);
        }
    }

    /// Says once that the store is away, and once that it is back. Forgets the others when they were not seen for too long.
    fn report(&self, done: Result<(), String>, now: Instant) {
        let mut view = lock(&self.view);
        let cluster = &self.names.cluster;
        match (done, view.away.take()) {
            (Ok(()), None) => {}
            (Ok(()), Some((_, since))) => {
                let away =
                    humantime::format_duration(Duration::from_secs(now.saturating_duration_since(since).as_secs()));
                tracing::info!("the store of the cluster {cluster} is back after {away}");
            }
            (Err(why), before) => {
                if before.is_none() {
                    let keep = humantime::format_duration(self.keep);
                    tracing::warn!(
                        "the store of the cluster {cluster} cannot be used: {why}; this host serves on, and the other hosts \
                         stay known for {keep}"
                    );
                }
                view.away = Some((why, before.map_or(now, |(_, since)| since)));
            }
        }
        if view.members.expire(self.keep, now) {
            tracing::warn!(
                "the other hosts of the cluster {cluster} were not seen for too long, and are not known any more"
            );
        }
    }

    /// Returns what operators see.
    pub fn status(&self) -> ClusterStatus {
        lock(&self.view).status(&self.names.cluster, &self.names.host, Instant::now())
    }

    /// Returns the numbers for metrics.
    pub fn numbers(&self) -> ClusterNumbers {
        let view = lock(&self.view);
        let mut failures = OPERATIONS.map(|name| (name, 0));
        for ((_, count), failed) in failures.iter_mut().zip(&self.failures) {
            *count = failed.load(Relaxed);
        }
        ClusterNumbers {
            members: view.members.len() as u64 + 1,
            leads: self.leader.token().is_some(),
            renewed: view.renewed_at(),
            ignored: view.members.ignored as u64,
            failures,
        }
    }
}

/// Returns the name of the machine, if it can be one of a host.
fn machine() -> Option<String> {
    let text = files::read_text(Path::new("/proc/sys/kernel/hostname"), 1 << 10).ok()?;
    Some(text.trim().to_owned()).filter(|name| is_plain(name, MOST_HOST))
}

#[cfg(test)]
mod tests;
