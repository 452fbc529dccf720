//! Rate limits: the generic cell rate algorithm (GCRA).
//!
//! A bucket is stored as the time at which it is full again. A request moves that time on by one interval, and is
//! refused when it would move further than a whole burst from now. Never more than `burst + rate × time` requests are
//! admitted, whatever their timing and number of threads.

mod cluster;
mod failures;
mod key;
mod status;
mod table;

pub use cluster::{BucketCharge, BucketExchange, ClusterRates};
pub use failures::{Attempter, FailedAttempts};
pub use status::RateStatus;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::header::HeaderValue;

use super::request_view::RequestView;
use cluster::ClusterBuckets;
use key::BucketKey;
use lodge_manifest::rate::{By, Scope, Settings};
use table::Table;

/// A rate limit with its settings and state.
#[derive(Debug)]
pub struct Rate {
    settings: Settings,
    quota: Quota,
    name: String,
    policy: HeaderValue,
    state: Arc<State>,
    /// The buckets that the hosts of a cluster have together.
    cluster: Option<Arc<ClusterBuckets>>,
}

/// The parameters of GCRA, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quota {
    /// The interval between two requests at the full rate.
    interval: u64,
    /// The furthest that a bucket's time may be from now: a whole burst.
    span: u64,
}

/// The state of the buckets. Versions of the service and of its manifest share it.
#[derive(Debug)]
struct State {
    /// Times are stored relative to this.
    epoch: Instant,
    single: AtomicU64,
    /// Allocated for the first request that needs it, because most services are idle.
    table: OnceLock<Table>,
}

impl Quota {
    /// Returns the parameters, rounded so that never more than the rate is admitted.
    fn of(settings: &Settings) -> Self {
        let per = u64::try_from(settings.per.as_nanos()).unwrap_or(u64::MAX);
        let interval = per.div_ceil(u64::from(settings.count.max(1)));
        Self::new(interval, settings.burst)
    }

    /// Returns the parameters for one request in each interval, and a burst.
    fn new(interval: u64, burst: u32) -> Self {
        Self { interval, span: interval.saturating_mul(u64::from(burst.max(1))) }
    }

    /// Returns when a bucket that is full again at `full` would be full again after one more request.
    ///
    /// # Errors
    /// The nanoseconds until there is room for one request.
    fn take(self, full: u64, now: u64) -> Result<u64, u64> {
        let next = full.max(now).saturating_add(self.interval);
        let room = now.saturating_add(self.span);
        if next <= room { Ok(next) } else { Err(next - room) }
    }

    /// Returns when a bucket that is full again at `full` would be full again after so many more requests, allowed or not.
    fn after(self, full: u64, count: u64) -> u64 {
        full.saturating_add(self.interval.saturating_mul(count))
    }

    /// Returns the number of requests for which a bucket that is full again at `full` has room.
    fn room(self, full: u64, now: u64) -> u64 {
        self.span.saturating_sub(full.saturating_sub(now)) / self.interval.max(1)
    }

    /// Converts a bucket's time to another quota, so that the same number of requests is used: at most its whole burst, and what was
    /// admitted beyond that of this one.
    fn convert(self, full: u64, now: u64, to: Self) -> u64 {
        let converted = |nanos: u64| {
            let used = (u128::from(nanos) * u128::from(to.interval)).div_ceil(u128::from(self.interval.max(1)));
            u64::try_from(used).unwrap_or(u64::MAX)
        };
        let ahead = full.saturating_sub(now);
        let beyond = ahead.saturating_sub(self.span);
        now.saturating_add(converted(ahead - beyond).min(to.span)).saturating_add(converted(beyond))
    }
}

impl Rate {
    /// Returns an unused limit. `scope` distinguishes the limits of routes from their service's.
    pub fn new(settings: &Settings, scope: &str, now: Instant) -> Self {
        Self::with(settings, scope, Arc::new(State::new(now)))
    }

    /// Returns this limit with other settings. The used part carries over, unless the new settings use other keys, or another scope. They
    /// hold for the buckets of a cluster as soon as they are [active](Self::activate).
    pub fn with_settings(&self, settings: &Settings, scope: &str, now: Instant) -> Self {
        let to = Quota::of(settings);
        let is_alike = self.settings.by == settings.by && self.settings.scope == settings.scope;
        if !is_alike {
            return Self::new(settings, scope, now);
        }
        if self.quota == to {
            let cluster = self.cluster.clone();
            return Self { cluster, ..Self::with(settings, scope, Arc::clone(&self.state)) };
        }
        let cluster = self.cluster.as_ref().map(|cluster| cluster.with_terms((to, settings.burst), now));
        let (from, to) = match (&self.cluster, &cluster) {
            (Some(before), Some(after)) => (before.own(), after.own()),
            _ => (self.quota, to),
        };
        let state = Arc::new(self.state.converted(now, |full, now| from.convert(full, now, to)));
        Self { cluster, ..Self::with(settings, scope, state) }
    }

    /// Lets the settings hold for the buckets of a cluster, which the limit with the last ones shares.
    pub fn activate(&self, now: Instant) {
        self.cluster.iter().for_each(|cluster| cluster.activate(now));
    }

    /// Lets the limit of a service or of one of its routes hold for all hosts of the cluster, if its settings say so. What the server
    /// knows of its keys stays with other rates and bursts.
    #[must_use]
    pub fn in_cluster(mut self, rates: &Arc<ClusterRates>, service: &str, route: &str) -> Self {
        if self.settings.scope == Scope::Cluster && self.cluster.is_none() {
            let limit = key::limit_of([service, route, &self.settings.by.to_string()]);
            let terms = (self.quota, self.settings.burst);
            self.cluster = Some(ClusterBuckets::new(rates, limit, terms, self.state.epoch));
        }
        self
    }

    fn with(settings: &Settings, scope: &str, state: Arc<State>) -> Self {
        let quota = Quota::of(settings);
        let by = match &settings.by {
            By::Service => "service",
            By::Client => "client",
            By::Header(name) => name.as_str(),
            By::Identity => "identity",
            By::Claim(name) => name,
        };
        let name = format!("{scope}{by}");
        let window = quota.span.div_ceil(1_000_000_000);
        let policy = format!("\"{name}\";q={};w={window}", settings.burst);
        // A header's name and a number are always a valid header value.
        let policy = HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static(""));
        Self { settings: settings.clone(), quota, name, policy, state, cluster: None }
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes one request from its bucket.
    ///
    /// # Errors
    /// When there is no room for the request; the status says when there is.
    pub fn take(&self, view: &RequestView<'_>, now: Instant) -> Result<RateStatus, RateStatus> {
        let at = self.state.since(now);
        let (key, other) = self.keys_of(view);
        let taken = self.take_from(&key, at).and_then(|full| match other {
            Some(other) => self.take_from(&other, at).map(|other| full.max(other)),
            None => Ok(full),
        });
        match taken {
            Ok(full) => Ok(self.status(full.saturating_sub(at), 0)),
            Err((full, wait)) => Err(self.status(full.saturating_sub(at), wait)),
        }
    }

    /// Takes one request from the bucket of this key. Returns when it is full again.
    ///
    /// # Errors
    /// The same, and the nanoseconds until there is room.
    fn take_from(&self, key: &BucketKey<'_>, at: u64) -> Result<u64, (u64, u64)> {
        match &self.cluster {
            Some(cluster) => cluster.take(key, &self.state, at),
            None => self.state.take(key, self.quota, at),
        }
    }

    /// Returns the key of a request, and that of the address which its client claims to have, if it counts as well.
    fn keys_of<'a>(&'a self, view: &RequestView<'a>) -> (BucketKey<'a>, Option<BucketKey<'a>>) {
        match &self.settings.by {
            By::Service => (BucketKey::Service, None),
            By::Header(name) => {
                (BucketKey::Header(view.headers.get(name).map_or(&[] as &[u8], HeaderValue::as_bytes)), None)
            }
            By::Client => keys_of_client(view),
            By::Identity => keys_of_sender(view, None),
            By::Claim(name) => keys_of_sender(view, Some(name)),
        }
    }

    /// `ahead` is the time until the bucket is full again, `wait` the time until there is room for one more request,
    /// both in nanoseconds.
    fn status(&self, ahead: u64, wait: u64) -> RateStatus {
        let remaining = self.quota.room(ahead, 0);
        let seconds = |nanos: u64| nanos.div_ceil(1_000_000_000);
        RateStatus::new(&self.policy, &self.name, remaining, seconds(ahead), seconds(wait))
    }

    /// Returns the number of buckets that are not full; `None` where all requests share one bucket.
    pub fn keys(&self, now: Instant) -> Option<usize> {
        let at = self.state.since(now);
        (self.settings.by != By::Service).then(|| self.state.table.get().map_or(0, |table| table.in_use(at)))
    }

    /// Returns the number of requests for which there is room; `None` where there are several buckets.
    pub fn remaining(&self, now: Instant) -> Option<u64> {
        let at = self.state.since(now);
        let room = || match &self.cluster {
            Some(cluster) => cluster.remaining(&self.state, at),
            None => self.state.room(self.quota, at),
        };
        (self.settings.by == By::Service).then(room)
    }

    /// Describes for how many hosts the limit holds; `None` for this host by itself.
    pub fn shared(&self) -> Option<String> {
        self.cluster.as_ref().map(|cluster| cluster.described())
    }
}

impl State {
    fn new(now: Instant) -> Self {
        Self { epoch: now, single: AtomicU64::new(0), table: OnceLock::new() }
    }

    fn since(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    fn table(&self) -> &Table {
        self.table.get_or_init(Table::default)
    }

    /// Takes one request from the bucket of this key. Returns when it is full again.
    ///
    /// # Errors
    /// The same, and the nanoseconds until there is room.
    fn take(&self, key: &BucketKey<'_>, quota: Quota, at: u64) -> Result<u64, (u64, u64)> {
        let take = |full: u64| quota.take(full, at);
        let BucketKey::Service = key else { return self.table().take(key, take) };
        let next = self.single.fetch_update(Relaxed, Relaxed, |full| take(full).ok());
        // Either variant holds the value from before this request.
        let (Ok(full) | Err(full)) = next;
        take(full).map_err(|wait| (full, wait))
    }

    /// Returns the number of requests for which the bucket of all keys has room.
    fn room(&self, quota: Quota, at: u64) -> u64 {
        quota.room(self.single.load(Relaxed), at)
    }

    /// Returns a copy in which every bucket is converted. It lacks the requests that the old limit admits in the
    /// microseconds until the new version is active.
    fn converted(&self, now: Instant, convert: impl Fn(u64, u64) -> u64) -> Self {
        let at = self.since(now);
        let table = OnceLock::new();
        if let Some(old) = self.table.get() {
            let _ = table.set(old.converted(|full| convert(full, at)));
        }
        Self { epoch: self.epoch, single: AtomicU64::new(convert(self.single.load(Relaxed), at)), table }
    }
}

/// Returns the address of a client, or the calling service there, and the address that it claims.
fn keys_of_client<'a>(view: &RequestView<'a>) -> (BucketKey<'a>, Option<BucketKey<'a>>) {
    let own = key_of(view.client);
    let claimed = view.claimed.map(key_of).filter(|key| *key != own);
    let key = view.calling.map_or(BucketKey::Client(own), |calling| BucketKey::Calling(own, calling));
    (key, claimed.map(BucketKey::Client))
}

/// Returns the key of the sender, or of its claim.
fn keys_of_sender<'a>(view: &RequestView<'a>, claim: Option<&str>) -> (BucketKey<'a>, Option<BucketKey<'a>>) {
    let Some(identity) = view.identity else { return keys_of_client(view) };
    let key = match claim.and_then(|name| identity.claim(name)) {
        Some(value) => BucketKey::Claim(value),
        None => BucketKey::Identity([identity.method().name(), identity.issuer(), identity.subject()]),
    };
    (key, None)
}

/// Returns the key of a client: its IPv4 address, or the /64 network of its IPv6 address, which one client has to
/// itself.
pub fn key_of(client: IpAddr) -> u64 {
    match client {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        // No assigned /64 network equals an IPv4 key with the highest bit set.
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64 | 1 << 63,
    }
}

#[cfg(test)]
mod tests;
