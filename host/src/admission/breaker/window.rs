//! What became of the calls of the last while, counted in ten buckets of time, the oldest of which is let go as a whole.

use std::cmp::Ordering;
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

    /// Goes on with another length. What was counted stays, each bucket from the time on at which it began: none counts
    /// for longer than its first call would.
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

    /// Counts a call.
    pub(super) fn add(&mut self, call: Call, now: Instant) {
        let stretch = self.stretch(now);
        let Some((at, counts)) = self.buckets.get_mut((stretch % BUCKETS as u64) as usize) else { return };
        // Another thread may be a little ahead.
        if *at < stretch {
            (*at, *counts) = (stretch, Counts::default());
        }
        counts.add(Counts { calls: 1, failed: call.failed.into(), slow: call.slow.into() });
    }

    /// All that is still in the window.
    pub(super) fn counts(&self, now: Instant) -> Counts {
        let stretch = self.stretch(now);
        let mut sum = Counts::default();
        for (_, counts) in self.buckets.iter().filter(|(at, _)| at + BUCKETS as u64 > stretch) {
            sum.add(*counts);
        }
        sum
    }

    fn stretch(&self, now: Instant) -> u64 {
        self.after(now.saturating_duration_since(self.epoch).as_nanos())
    }

    /// The stretch that it is so many nanoseconds after the first began.
    fn after(&self, nanos: u128) -> u64 {
        u64::try_from(nanos / self.nanos()).unwrap_or(u64::MAX - BUCKETS as u64).saturating_add(1)
    }

    /// Nanoseconds of a stretch.
    fn nanos(&self) -> u128 {
        (self.length / BUCKETS as u32).as_nanos().max(1)
    }
}

impl Counts {
    fn add(&mut self, more: Self) {
        self.calls = self.calls.saturating_add(more.calls);
        self.failed = self.failed.saturating_add(more.failed);
        self.slow = self.slow.saturating_add(more.slow);
    }
}
