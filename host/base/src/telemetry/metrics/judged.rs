//! The counts by which versions of a service are compared: responses to requests that could have gone to any version.
//!
//! For services whose versions may be withdrawn, every result that goes to the breaker is counted here as well: whether
//! the service failed, and the time to the response head, without time in queues and time of waiting for the request
//! body. How fast a client reads does not depend on the version, so it does not count.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::{Buckets, Histogram, SAMPLES, quantile};
use crate::lock::lock;

/// Standard deviations above the mean that a normal distribution exceeds with a probability of 5 %.
pub const CERTAINTY: f64 = 1.645;

/// The responses of one version that count for the comparison.
#[derive(Debug, Default)]
pub struct VersionStats {
    heads: Histogram,
    failed: AtomicU64,
    recent: Mutex<VecDeque<JudgedCounts>>,
}

/// The counts at some moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct JudgedCounts {
    heads: Buckets,
    failed: u64,
}

/// The counts of the last minute.
#[derive(Clone, Copy, Debug, Default)]
pub struct LastMinute {
    /// Requests.
    pub requests: u64,
    /// Requests that the service failed.
    pub errors: u64,
    /// The 99th percentile of the time to the response head.
    pub p99: Option<Duration>,
    /// The lower bound of the true p99, with 95 % confidence: one slow request of a hundred can be chance.
    pub p99_at_least: Option<Duration>,
}

impl JudgedCounts {
    /// Returns the number of requests since `earlier` counts.
    pub fn requests_since(&self, earlier: &Self) -> u64 {
        self.heads.iter().sum::<u64>().saturating_sub(earlier.heads.iter().sum())
    }
}

impl VersionStats {
    /// Counts a request and the time to its response head or failure.
    pub fn count(&self, failed: bool, took: Duration) {
        self.heads.record(took);
        self.failed.fetch_add(failed.into(), Relaxed);
    }

    /// Changes a request that was counted as good to failed, because its response was aborted.
    pub fn mark_failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    /// Takes a sample of the counts. Called every [`SAMPLE`](super::SAMPLE).
    pub(super) fn sample(&self) {
        let mut recent = lock(&self.recent);
        if recent.len() == SAMPLES {
            recent.pop_front();
        }
        recent.push_back(self.counts());
    }

    /// The current counts.
    pub fn counts(&self) -> JudgedCounts {
        JudgedCounts { heads: self.heads.counts(), failed: self.failed.load(Relaxed) }
    }

    /// Returns the counts of the last minute, without those before `since`.
    pub fn window(&self, since: &JudgedCounts) -> LastMinute {
        let before = lock(&self.recent).front().copied().unwrap_or_default();
        let now = self.counts();
        let began = before.heads.iter().zip(since.heads).map(|(before, since)| since.max(*before));
        let counts: Vec<_> = now.heads.iter().zip(began).map(|(now, began)| now.saturating_sub(began)).collect();
        let requests: u64 = counts.iter().sum();
        // The share that may be above the true p99 by chance.
        let above = 0.01 + CERTAINTY * (0.01 * 0.99 / requests.max(1) as f64).sqrt();
        LastMinute {
            requests,
            errors: now.failed.saturating_sub(before.failed.max(since.failed)),
            p99: quantile(&counts, 0.99),
            p99_at_least: quantile(&counts, 1.0 - above.min(1.0)),
        }
    }
}
