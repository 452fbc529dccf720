//! Metrics. Recording is one or two atomic additions; everything else is computed when the metrics are read.
//!
//! Label values are service names, which come from files, and constants, so neither a guest nor a client can create a
//! series.

mod cached;
mod compressed;
pub mod judged;
pub mod messages;

pub use cached::{CacheMetrics, CacheOutcome};
pub use compressed::CompressionMetrics;
pub use judged::VersionStats;
pub use messages::{MessageBacklog, MessageMetrics};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::lock::lock;

/// Upper bounds of histogram buckets in microseconds. A guest can respond within tens of microseconds or half a minute.
const BOUNDS: [u64; 18] = [
    25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000, 30_000_000,
];

/// Counts per bucket; the last one is above the highest bound.
type Buckets = [u64; BOUNDS.len() + 1];

/// Samples for quantiles: those of the last minute.
const SAMPLES: usize = 6;

/// Reason of a response that was aborted because its client disconnected.
pub const CLIENT_GONE: &str = "client-gone";

/// Reason of a response that was aborted because its client read too little of it within `listener.idle`.
pub const CLIENT_STALLED: &str = "client-stalled";

/// Time between two samples.
pub const SAMPLE: Duration = Duration::from_secs(10);

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

/// The metrics of a service, for all its versions.
#[derive(Debug, Default)]
pub struct ServiceMetrics {
    /// Responses whose head was sent, by class of status.
    pub responses: [AtomicU64; 5],
    /// Time from the request head to the last byte of the response.
    pub duration: Histogram,
    /// Time in queues, of requests that waited.
    pub waited: Histogram,
    /// Time to create a sandbox, including its start code.
    pub instantiated: Histogram,
    /// Bytes of request bodies that guests read.
    pub received: AtomicU64,
    /// Bytes of response bodies that were sent.
    pub sent: AtomicU64,
    /// Bytes of the largest sandbox.
    pub memory: AtomicU64,
    /// Bytes of stdout and stderr that were dropped.
    pub output_dropped: AtomicU64,
    /// Calls of its guests to other services of this host.
    pub calls: AtomicU64,
    /// Requests of its guests to the world, by outcome.
    pub outgoing: ReasonCounter,
    /// Operations of its guests on its store, by outcome.
    pub state: ReasonCounter,
    /// Time of operations on its store.
    pub state_duration: Histogram,
    /// Statements of its guests on its databases, by outcome.
    pub sql: ReasonCounter,
    /// Time of statements on its databases.
    pub sql_duration: Histogram,
    /// Operations of its guests on its objects, by outcome.
    pub blobs: ReasonCounter,
    /// Time of operations on its objects.
    pub blob_duration: Histogram,
    /// Its messages.
    pub messages: MessageMetrics,
    /// Spans that its guests have made while their request was recorded, by outcome.
    pub guest_spans: ReasonCounter,
    /// Exports of metrics by its guests, which are dropped.
    pub guest_metrics_dropped: AtomicU64,
    /// Keys and bytes in its store, when they were last read.
    pub stored: Mutex<Option<(u64, u64)>>,
    /// Requests that were refused before a guest ran, by reason.
    pub refused: ReasonCounter,
    /// Requests that were refused because of their credentials, by cause.
    pub denied: ReasonCounter,
    /// Requests without a response of the guest, by reason.
    pub failed: ReasonCounter,
    /// Responses that were aborted after their head was sent, by reason.
    pub aborted: ReasonCounter,
    /// Metrics of compressed responses.
    pub compressed: CompressionMetrics,
    /// Metrics of the response cache.
    pub cached: CacheMetrics,
    /// What the service is compared by with its versions.
    pub judged: Arc<VersionStats>,
    /// Durations and errors at the samples of the last minute.
    recent: Mutex<VecDeque<(Buckets, u64)>>,
}

/// The metrics of the host.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Open connections.
    connections: AtomicI64,
    /// Accepted connections.
    pub accepted: AtomicU64,
    /// Connections that were ended for new ones, since all places were in use.
    pub given_up: AtomicU64,
    /// Responses that were aborted because their clients read too slowly.
    pub stalled: AtomicU64,
    /// TLS handshakes, by result.
    pub handshakes: ReasonCounter,
    /// Connections that have to begin with a header of the PROXY protocol, by result.
    pub proxy_headers: ReasonCounter,
    /// Orders of certificates from an authority, by result.
    pub acme_orders: ReasonCounter,
    /// Fetches of the keys of issuers, by result.
    pub key_fetches: ReasonCounter,
    /// Logins that came back from a provider, by result.
    pub logins: ReasonCounter,
    /// Hashes of passwords that were computed, by result.
    pub password_hashes: ReasonCounter,
    /// Pulls of components from registries, by result.
    pub pulls: ReasonCounter,
    /// Components that are being compiled or wait for it.
    compiling: AtomicI64,
    /// Time to compile a component.
    pub compiled: Histogram,
    /// Hits of the compile cache.
    pub cache_hits: AtomicU64,
    /// Misses of the compile cache.
    pub cache_misses: AtomicU64,
    /// Changes of files that were refused.
    pub reload_failures: AtomicU64,
    /// Nanoseconds by which the last timer of the runtime fired late.
    pub lag: AtomicU64,
}

/// A guard that increments a gauge and decrements it when it is dropped.
#[derive(Debug)]
pub struct GaugeGuard<'a>(&'a AtomicI64);

/// A counter per reason. Reasons are constants, so their number is bounded.
#[derive(Debug, Default)]
pub struct ReasonCounter(Mutex<BTreeMap<&'static str, u64>>);

impl Histogram {
    /// Records a duration.
    pub fn record(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| bound * 1_000 < nanos);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Relaxed);
        }
        self.nanos.fetch_add(nanos, Relaxed);
    }

    /// Returns the sum in seconds, and (upper bound in seconds, count) of every bucket; the last bound is infinite.
    pub fn read(&self) -> (f64, Vec<(f64, u64)>) {
        let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
        (self.nanos.load(Relaxed) as f64 / 1e9, bounds.zip(self.counts()).collect())
    }

    fn counts(&self) -> Buckets {
        std::array::from_fn(|n| self.buckets.get(n).map_or(0, |bucket| bucket.load(Relaxed)))
    }
}

impl ServiceMetrics {
    /// Records a finished response.
    pub fn record_response(&self, status: http::StatusCode, took: Duration, sent: u64) {
        if let Some(class) = self.responses.get(usize::from(status.as_u16() / 100).wrapping_sub(1)) {
            class.fetch_add(1, Relaxed);
        }
        self.duration.record(took);
        if sent > 0 {
            self.sent.fetch_add(sent, Relaxed);
        }
    }

    /// Returns the number of responses.
    pub fn requests(&self) -> u64 {
        self.responses.iter().map(|class| class.load(Relaxed)).sum()
    }

    /// Returns the number of responses with a status of 500 and more, plus all that were aborted.
    pub fn errors(&self) -> u64 {
        self.responses[4].load(Relaxed) + self.aborted.sum()
    }

    /// Takes a sample of the counts. Called every [`SAMPLE`].
    pub fn sample(&self) {
        let mut recent = lock(&self.recent);
        if recent.len() == SAMPLES {
            recent.pop_front();
        }
        recent.push_back((self.duration.counts(), self.broken()));
        self.judged.sample();
    }

    /// Returns the responses of the last minute and how many of them were errors: a status of 500 and more, or aborted
    /// for another reason than the client.
    pub fn minute(&self) -> (u64, u64) {
        let (durations, errors) = lock(&self.recent).front().copied().unwrap_or_default();
        let all = |counts: Buckets| counts.iter().sum::<u64>();
        let requests = all(self.duration.counts()).saturating_sub(all(durations));
        (requests, self.broken().saturating_sub(errors))
    }

    fn broken(&self) -> u64 {
        let broken =
            self.aborted.read().into_iter().filter(|(reason, _)| ![CLIENT_GONE, CLIENT_STALLED].contains(reason));
        self.responses[4].load(Relaxed) + broken.map(|(_, count)| count).sum::<u64>()
    }

    /// Returns a quantile of the durations in the last minute; `None` without requests. Interpolates linearly within a
    /// bucket.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let before = lock(&self.recent).front().copied().unwrap_or_default();
        let now = self.duration.counts();
        let counts: Vec<_> = now.iter().zip(before.0).map(|(now, was)| now.saturating_sub(was)).collect();
        quantile(&counts, part)
    }
}

fn quantile(counts: &[u64], part: f64) -> Option<Duration> {
    let all: u64 = counts.iter().sum();
    let wanted = part * all as f64;
    let (mut below, mut lower) = (0.0, 0.0);
    for (bucket, count) in counts.iter().enumerate() {
        // Above the highest bound there is nothing to interpolate, so the bound itself is the result.
        let upper = BOUNDS.get(bucket).map_or(lower, |bound| *bound as f64);
        let count = *count as f64;
        if count > 0.0 && below + count >= wanted {
            return Some(Duration::from_secs_f64((lower + (upper - lower) * (wanted - below) / count) / 1e6));
        }
        (below, lower) = (below + count, upper);
    }
    None
}

impl Metrics {
    /// Counts a connection, which is open until the guard is dropped.
    pub fn open(&self) -> GaugeGuard<'_> {
        self.accepted.fetch_add(1, Relaxed);
        GaugeGuard::new(&self.connections)
    }

    /// Counts a component in the compile queue until the guard is dropped.
    pub fn compiling(&self) -> GaugeGuard<'_> {
        GaugeGuard::new(&self.compiling)
    }

    /// Components that are being compiled or wait for it.
    pub fn compile_queue(&self) -> u64 {
        u64::try_from(self.compiling.load(Relaxed)).unwrap_or(0)
    }

    /// Records how late a timer of the runtime fired.
    pub fn late(&self, lag: Duration) {
        self.lag.store(u64::try_from(lag.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Open connections.
    pub fn connections(&self) -> u64 {
        u64::try_from(self.connections.load(Relaxed)).unwrap_or(0)
    }
}

impl<'a> GaugeGuard<'a> {
    fn new(count: &'a AtomicI64) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl ReasonCounter {
    /// Increments the counter of a reason, and returns it.
    pub fn count(&self, reason: &'static str) -> u64 {
        self.add(reason, 1)
    }

    /// Adds `more` to the counter of a reason, and returns it.
    fn add(&self, reason: &'static str, more: u64) -> u64 {
        let mut counters = lock(&self.0);
        let counter = counters.entry(reason).or_default();
        *counter += more;
        *counter
    }

    /// Returns the sum of all counters.
    pub fn sum(&self) -> u64 {
        lock(&self.0).values().sum()
    }

    /// Returns every counter.
    pub fn read(&self) -> Vec<(&'static str, u64)> {
        lock(&self.0).iter().map(|(reason, count)| (*reason, *count)).collect()
    }
}

#[cfg(test)]
mod tests;
