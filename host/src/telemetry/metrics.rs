//! What is counted. Counting is an atomic addition or two where the thing happens; everything else is done when
//! somebody asks.
//!
//! Label values are service names, which come from files, and words of Lodge's own: neither a guest nor a client can
//! make a series.

mod cached;
pub mod judged;

pub use cached::{CacheOutcome, Cached};
pub use judged::Judged;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::base::lock::lock;

/// Upper bounds of a histogram's buckets in microseconds. A guest answers in tens of them, and may take half a minute.
const BOUNDS: [u64; 18] = [
    25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000, 30_000_000,
];

/// Counts of the buckets, and of what is above the last bound.
type Buckets = [u64; BOUNDS.len() + 1];

/// Samples of which quantiles are made: the last minute.
const SAMPLES: usize = 6;

/// Why an answer broke off when nothing was wrong with it.
pub const CLIENT_GONE: &str = "client-gone";

/// Why a response was cut off when nothing was wrong with it: its client took too little of it in `listener.idle`.
pub const CLIENT_STALLED: &str = "client-stalled";

/// Between two samples.
pub const SAMPLE: Duration = Duration::from_secs(10);

/// How long things took.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

/// What is counted of a service, in all its versions.
#[derive(Debug, Default)]
pub struct ServiceMetrics {
    /// Answers whose head was sent, by the first digit of the status.
    pub answers: [AtomicU64; 5],
    /// From a request's head to the last byte of its answer.
    pub duration: Histogram,
    /// In queues, for requests that had to wait.
    pub waited: Histogram,
    /// A new sandbox, until its start code has run.
    pub instantiated: Histogram,
    /// Bytes of request bodies that guests have read.
    pub received: AtomicU64,
    /// Bytes of answers that were sent, without heads.
    pub sent: AtomicU64,
    /// Bytes of the largest sandbox so far.
    pub memory: AtomicU64,
    /// Bytes of stdout and stderr that were dropped.
    pub output_dropped: AtomicU64,
    /// Calls of its guests to other services of the host.
    pub calls: AtomicU64,
    /// Requests of its guests to the world, by how they went.
    pub outgoing: ReasonCounter,
    /// Requests that were turned away before a guest was at work on them, by reason.
    pub refused: ReasonCounter,
    /// Requests that a guest was at work on and did not answer, by reason.
    pub failed: ReasonCounter,
    /// Answers that broke off after their head was sent, by reason.
    pub aborted: ReasonCounter,
    /// Answers that are kept.
    pub cached: Cached,
    /// What it is compared by with other versions.
    pub judged: Arc<Judged>,
    /// Durations and errors of the last minute's samples.
    recent: Mutex<VecDeque<(Buckets, u64)>>,
}

/// What is counted of the host.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Open now.
    connections: AtomicI64,
    /// Accepted so far.
    pub accepted: AtomicU64,
    /// Responses that were cut off because their clients took too little of them.
    pub stalled: AtomicU64,
    /// Components that are being compiled, or wait for it.
    compiling: AtomicI64,
    /// Machine code from a component's bytes.
    pub compiled: Histogram,
    /// Found in the compile cache.
    pub cache_hits: AtomicU64,
    /// Not found there.
    pub cache_misses: AtomicU64,
    /// New versions that were refused.
    pub reload_failures: AtomicU64,
    /// Nanoseconds that a timer of the runtime was late the last time.
    pub lag: AtomicU64,
}

/// Something that counts for as long as this lives.
#[derive(Debug)]
pub struct GaugeGuard<'a>(&'a AtomicI64);

/// Counts by reason. The reasons are words of the program, so there are few.
#[derive(Debug, Default)]
pub struct ReasonCounter(Mutex<BTreeMap<&'static str, u64>>);

impl Histogram {
    /// Counts one that took so long.
    pub fn record(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| bound * 1_000 < nanos);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Relaxed);
        }
        self.nanos.fetch_add(nanos, Relaxed);
    }

    /// Seconds of all together, and (upper bound in seconds, count) of every bucket, the last without a bound.
    pub fn read(&self) -> (f64, Vec<(f64, u64)>) {
        let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
        (self.nanos.load(Relaxed) as f64 / 1e9, bounds.zip(self.counts()).collect())
    }

    fn counts(&self) -> Buckets {
        std::array::from_fn(|n| self.buckets.get(n).map_or(0, |bucket| bucket.load(Relaxed)))
    }
}

impl ServiceMetrics {
    /// Counts an answer, when it is over.
    pub fn answered(&self, status: http::StatusCode, took: Duration, sent: u64) {
        if let Some(class) = self.answers.get(usize::from(status.as_u16() / 100).wrapping_sub(1)) {
            class.fetch_add(1, Relaxed);
        }
        self.duration.record(took);
        if sent > 0 {
            self.sent.fetch_add(sent, Relaxed);
        }
    }

    /// Answers so far.
    pub fn requests(&self) -> u64 {
        self.answers.iter().map(|class| class.load(Relaxed)).sum()
    }

    /// Answers of 500 and more, and those that broke off.
    pub fn errors(&self) -> u64 {
        self.answers[4].load(Relaxed) + self.aborted.sum()
    }

    /// Remembers the counts of this moment; called every [`SAMPLE`].
    pub fn sample(&self) {
        let mut recent = lock(&self.recent);
        if recent.len() == SAMPLES {
            recent.pop_front();
        }
        recent.push_back((self.duration.counts(), self.broken()));
        self.judged.sample();
    }

    /// Responses of the last minute, and how many of them were errors: of 500 and more, or broken off and not because their
    /// client left.
    pub fn minute(&self) -> (u64, u64) {
        let (durations, errors) = lock(&self.recent).front().copied().unwrap_or_default();
        let all = |counts: Buckets| counts.iter().sum::<u64>();
        let requests = all(self.duration.counts()).saturating_sub(all(durations));
        (requests, self.broken().saturating_sub(errors))
    }

    fn broken(&self) -> u64 {
        let broken =
            self.aborted.read().into_iter().filter(|(reason, _)| ![CLIENT_GONE, CLIENT_STALLED].contains(reason));
        self.answers[4].load(Relaxed) + broken.map(|(_, count)| count).sum::<u64>()
    }

    /// The time within which this part of the last minute's requests was answered; `None` if there were none. As exact
    /// as the buckets: between two bounds it is a straight line.
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
        // Above the last bound nothing is known but that.
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
    /// Counts a connection, as open until this is dropped.
    pub fn open(&self) -> GaugeGuard<'_> {
        self.accepted.fetch_add(1, Relaxed);
        GaugeGuard::new(&self.connections)
    }

    /// Counts a component that is to be compiled, until this is dropped.
    pub fn compiling(&self) -> GaugeGuard<'_> {
        GaugeGuard::new(&self.compiling)
    }

    /// Components being compiled, or waiting for it.
    pub fn compile_queue(&self) -> u64 {
        u64::try_from(self.compiling.load(Relaxed)).unwrap_or(0)
    }

    /// A timer of the runtime was so late.
    pub fn late(&self, lag: Duration) {
        self.lag.store(u64::try_from(lag.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Connections open now.
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
    /// One more.
    pub fn count(&self, reason: &'static str) {
        *lock(&self.0).entry(reason).or_default() += 1;
    }

    /// All of them.
    pub fn sum(&self) -> u64 {
        lock(&self.0).values().sum()
    }

    /// Each of them.
    pub fn read(&self) -> Vec<(&'static str, u64)> {
        lock(&self.0).iter().map(|(reason, count)| (*reason, *count)).collect()
    }
}

#[cfg(test)]
mod tests;
