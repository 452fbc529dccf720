//! What became of the calls of the last while, counted in ten buckets of time, the oldest of which is let go as a whole.

use std::time::{Duration, Instant};

/// Buckets of a window.
const BUCKETS: usize = 10;

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// It failed.
    pub failed: bool,
    /// It took long.
    pub slow: bool,
}

/// How many calls went how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub calls: u32,
    /// Those that failed.
    pub failed: u32,
    /// Those that took long.
    pub slow: u32,
}

/// The calls of the last while.
#[derive(Debug)]
pub(super) struct Window {
    epoch: Instant,
    length: Duration,
    /// Which stretch of time a bucket counts, from one on, and what it has counted.
    buckets: [(u64, Counts); BUCKETS],
}

impl Window {
    pub(super) fn new(length: Duration, now: Instant) -> Self {
        Self { epoch: now, length, buckets: Default::default() }
    }

    pub(super) fn clear(&mut self) {
        self.buckets = Default::default();
    }

    /// Counts a call in a window of this length; one of another length begins anew.
    pub(super) fn add(&mut self, call: Call, length: Duration, now: Instant) {
        if self.length != length {
            *self = Self { epoch: self.epoch, ..Self::new(length, now) };
        }
        let stretch = self.stretch(now);
        let Some((at, counts)) = self.buckets.get_mut((stretch % BUCKETS as u64) as usize) else { return };
        // Another thread may be a little ahead.
        if *at < stretch {
            (*at, *counts) = (stretch, Counts::default());
        }
        counts.calls = counts.calls.saturating_add(1);
        counts.failed = counts.failed.saturating_add(call.failed.into());
        counts.slow = counts.slow.saturating_add(call.slow.into());
    }

    /// All that is still in the window.
    pub(super) fn counts(&self, now: Instant) -> Counts {
        let stretch = self.stretch(now);
        let mut sum = Counts::default();
        for (_, counts) in self.buckets.iter().filter(|(at, _)| at + BUCKETS as u64 > stretch) {
            sum.calls = sum.calls.saturating_add(counts.calls);
            sum.failed = sum.failed.saturating_add(counts.failed);
            sum.slow = sum.slow.saturating_add(counts.slow);
        }
        sum
    }

    fn stretch(&self, now: Instant) -> u64 {
        let length = (self.length / BUCKETS as u32).as_nanos().max(1);
        let since = now.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(since / length).unwrap_or(u64::MAX - BUCKETS as u64).saturating_add(1)
    }
}
