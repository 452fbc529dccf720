//! The retry budget: at most a percentage of the requests of the last ten seconds, plus a minimum per second. It keeps
//! retries from overloading a service that fails.
//!
//! A retry is remembered for as long as the requests that paid for it, so no request pays for two retries. Over any
//! period, retries are at most that percentage of the requests plus the minimum. Counting a request takes no lock,
//! since requests are frequent. Taking a retry does, so that two cannot share the last one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use lodge_base::lock::lock;
use lodge_manifest::upstream::Retry;

/// Seconds in the window. The current second is incomplete, so the window covers nine to ten seconds.
pub const WINDOW: u64 = 10;

/// The requests and retries of the last [`WINDOW`] seconds. One per upstream; survives new manifests.
#[derive(Debug)]
pub struct RetryBudget {
    epoch: Instant,
    /// One [`SecondCounts`] per second, as a ring.
    slots: [AtomicU64; WINDOW as usize],
    /// Held while a retry is taken.
    taking: Mutex<()>,
}

/// The counts of one second, packed into one word: 24 bits for the second, 24 for requests, 16 for retries.
#[derive(Clone, Copy)]
struct SecondCounts {
    second: u64,
    requests: u64,
    retries: u64,
}

/// Seconds wrap around here, after 194 days. A multiple of the window, so that each second keeps its index.
const WRAP: u64 = (1 << 24) / WINDOW * WINDOW;
/// A clock value may be older than the newest one by less than this many seconds. Beyond it, the counts are from before
/// a wrap.
const MAX_LATE: u64 = 60;
const REQUESTS: u64 = (1 << 24) - 1;
const RETRIES: u64 = (1 << 16) - 1;

impl RetryBudget {
    /// Creates an empty budget.
    pub fn new(now: Instant) -> Self {
        Self { epoch: now, slots: Default::default(), taking: Mutex::new(()) }
    }

    /// Counts a request. Not to be called for retries.
    pub fn record_request(&self, now: Instant) {
        self.add(self.second(now), |slot| Some(SecondCounts { requests: (slot.requests + 1).min(REQUESTS), ..slot }));
    }

    /// Takes one retry from the budget. Returns `false` if there is none left.
    pub fn take_retry(&self, now: Instant, retry: &Retry) -> bool {
        let second = self.second(now);
        let _taking = lock(&self.taking);
        let known = self.slots.iter().map(|slot| SecondCounts::unpack(slot.load(Relaxed)));
        let recent = known.filter(|slot| age(second, slot.second) < WINDOW);
        let (requests, retries) =
            recent.fold((0, 0), |(requests, retries), slot| (requests + slot.requests, retries + slot.retries));
        let room = retry.budget.of(requests) + retry.minimum as u64 * WINDOW;
        let one_more =
            |slot: SecondCounts| (slot.retries < RETRIES).then_some(SecondCounts { retries: slot.retries + 1, ..slot });
        retries < room && self.add(second, one_more)
    }

    /// Changes the counts of a second. Returns `false` if `change` refuses, or if a later second has already reused the
    /// entry.
    fn add(&self, second: u64, change: impl Fn(SecondCounts) -> Option<SecondCounts>) -> bool {
        let Some(place) = self.slots.get((second % WINDOW) as usize) else { return false };
        let update = |packed| {
            let slot = SecondCounts::unpack(packed);
            match age(slot.second, second) {
                0 => change(slot),
                1..MAX_LATE if slot.requests + slot.retries > 0 => None,
                _ => change(SecondCounts { second, requests: 0, retries: 0 }),
            }
            .map(SecondCounts::pack)
        };
        place.fetch_update(Relaxed, Relaxed, update).is_ok()
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_secs() % WRAP
    }
}

/// Returns the seconds from `then` to `now`, across a wrap.
fn age(now: u64, then: u64) -> u64 {
    (now + WRAP - then) % WRAP
}

impl SecondCounts {
    fn unpack(packed: u64) -> Self {
        Self { second: packed >> 40, requests: packed >> 16 & REQUESTS, retries: packed & RETRIES }
    }

    fn pack(self) -> u64 {
        self.second << 40 | self.requests << 16 | self.retries
    }
}

#[cfg(test)]
mod tests;
