//! A sliding window over the results of recent calls: ten buckets, of which the oldest expires as a whole.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

/// The number of buckets in a window.
const BUCKETS: usize = 10;

/// The result of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallResult {
    /// The call failed.
    pub failed: bool,
    /// The call was slow.
    pub slow: bool,
}

/// Counts of calls by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCounts {
    /// All calls.
    pub calls: u32,
    /// Calls that failed.
    pub failed: u32,
    /// Calls that were slow.
    pub slow: u32,
}

/// The calls of the last `length`.
#[derive(Debug)]
pub(super) struct CallWindow {
    epoch: Instant,
    length: Duration,
    /// For each bucket, the number of the interval that it counts (from 1), and its counts.
    buckets: [(u64, CallCounts); BUCKETS],
}

impl CallWindow {
    pub(super) fn new(length: Duration, now: Instant) -> Self {
        Self { epoch: now, length, buckets: Default::default() }
    }

    pub(super) fn clear(&mut self) {
        self.buckets = Default::default();
    }

    /// Changes the length of the window. Each bucket's counts move to the interval in which it began, so no call counts
    /// for longer than the first of its bucket does.
    pub(super) fn resize(&mut self, length: Duration) {
        if self.length == length {
            return;
        }
        let old = std::mem::replace(self, Self::new(length, self.epoch));
        for (at, counts) in old.buckets.into_iter().filter(|(_, counts)| counts.calls > 0) {
            let began = u128::from(at.saturating_sub(1)).saturating_mul(old.nanos());
            let stretch = self.after(began);
            let Some((at, sum)) = self.buckets.get_mut((stretch % BUCKETS as u64) as usize) else { continue };
            match stretch.cmp(at) {
                Ordering::Less => {}
                Ordering::Equal => sum.add(counts),
                Ordering::Greater => (*at, *sum) = (stretch, counts),
            }
        }
    }

    /// Adds a call.
    pub(super) fn add(&mut self, call: CallResult, now: Instant) {
        let stretch = self.stretch(now);
        let Some((at, counts)) = self.buckets.get_mut((stretch % BUCKETS as u64) as usize) else { return };
        // Another thread's clock reading may be slightly later.
        if *at < stretch {
            (*at, *counts) = (stretch, CallCounts::default());
        }
        counts.add(CallCounts { calls: 1, failed: call.failed.into(), slow: call.slow.into() });
    }

    /// Returns the counts of the whole window.
    pub(super) fn counts(&self, now: Instant) -> CallCounts {
        let stretch = self.stretch(now);
        let mut sum = CallCounts::default();
        for (_, counts) in self.buckets.iter().filter(|(at, _)| at + BUCKETS as u64 > stretch) {
            sum.add(*counts);
        }
        sum
    }

    fn stretch(&self, now: Instant) -> u64 {
        self.after(now.saturating_duration_since(self.epoch).as_nanos())
    }

    /// Returns the number of the interval that contains the time `nanos` after the epoch.
    fn after(&self, nanos: u128) -> u64 {
        u64::try_from(nanos / self.nanos()).unwrap_or(u64::MAX - BUCKETS as u64).saturating_add(1)
    }

    /// Returns the length of an interval in nanoseconds.
    fn nanos(&self) -> u128 {
        (self.length / BUCKETS as u32).as_nanos().max(1)
    }
}

impl CallCounts {
    fn add(&mut self, more: Self) {
        self.calls = self.calls.saturating_add(more.calls);
        self.failed = self.failed.saturating_add(more.failed);
        self.slow = self.slow.saturating_add(more.slow);
    }
}
