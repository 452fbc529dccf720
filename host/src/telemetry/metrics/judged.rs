//! What versions of a service are compared by: the responses to requests that could have gone to any of them.
//!
//! What the breaker learns of a request is counted here, for services whose versions may be withdrawn: whether the service
//! failed, and how long the head of its response took, without queues and without what it has waited for its client's
//! body. How fast a client reads says nothing of a version.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::{Buckets, Histogram, SAMPLES, quantile};
use crate::base::lock::lock;

/// Of a normal distribution one in twenty lies more than so many standard deviations above the middle.
pub(crate) const CERTAINTY: f64 = 1.645;

/// The responses of one version that count.
#[derive(Debug, Default)]
pub struct Judged {
    heads: Histogram,
    failed: AtomicU64,
    recent: Mutex<VecDeque<Counts>>,
}

/// What was counted until some moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    heads: Buckets,
    failed: u64,
}

/// The last minute.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    /// Requests.
    pub requests: u64,
    /// Those of them that the service failed.
    pub errors: u64,
    /// Within this time the head of all but a hundredth of the responses was there.
    pub p99: Option<Duration>,
    /// What that is at least, whichever requests these happened to be: of a hundred, one that was slow is chance.
    pub p99_at_least: Option<Duration>,
}

impl Judged {
    /// Counts a request whose response, or failure, took so long to come.
    pub fn count(&self, failed: bool, took: Duration) {
        self.heads.record(took);
        self.failed.fetch_add(failed.into(), Relaxed);
    }

    /// One that was counted as good has failed after all: its response broke off.
    pub fn failed_after_all(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    /// Remembers the counts of this moment; called every [`SAMPLE`](super::SAMPLE).
    pub(super) fn sample(&self) {
        let mut recent = lock(&self.recent);
        if recent.len() == SAMPLES {
            recent.pop_front();
        }
        recent.push_back(self.counts());
    }

    /// What was counted until now.
    pub fn counts(&self) -> Counts {
        Counts { heads: self.heads.counts(), failed: self.failed.load(Relaxed) }
    }

    /// The last minute, but nothing from before `since`.
    pub fn window(&self, since: &Counts) -> Window {
        let before = lock(&self.recent).front().copied().unwrap_or_default();
        let now = self.counts();
        let began = before.heads.iter().zip(since.heads).map(|(before, since)| since.max(*before));
        let counts: Vec<_> = now.heads.iter().zip(began).map(|(now, began)| now.saturating_sub(began)).collect();
        let requests: u64 = counts.iter().sum();
        // So many may be above the true 99th percentile by chance.
        let above = 0.01 + CERTAINTY * (0.01 * 0.99 / requests.max(1) as f64).sqrt();
        Window {
            requests,
            errors: now.failed.saturating_sub(before.failed.max(since.failed)),
            p99: quantile(&counts, 0.99),
            p99_at_least: quantile(&counts, 1.0 - above.min(1.0)),
        }
    }
}
