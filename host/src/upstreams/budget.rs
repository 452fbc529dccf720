//! How many retries there may be, so that they cannot be what brings a service down: a part of the requests of the last
//! ten seconds, and a few a second in any case.
//!
//! A retry is paid for by requests that came before it, and is remembered for as long as they are, so that nothing pays
//! twice: over any time, retries are at most that part of the requests, and the few. Requests count without a lock,
//! because there are many; retries take one, because they must not outrun each other.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crate::base::lock::lock;
use crate::manifest::upstream::Retry;

/// Seconds that are remembered. The current one has just begun or is nearly over, so it is nine to ten of them.
pub const WINDOW: u64 = 10;

/// What was asked and what was retried. One for an upstream; survives new versions of its manifest.
#[derive(Debug)]
pub struct Budget {
    epoch: Instant,
    /// A [`SecondCounts`] for each second, in turn.
    slots: [AtomicU64; WINDOW as usize],
    /// Held by whoever takes a retry.
    taking: Mutex<()>,
}

/// A second's counts, in one word: 24 bits of the second, 24 of requests, 16 of retries.
#[derive(Clone, Copy)]
struct SecondCounts {
    second: u64,
    requests: u64,
    retries: u64,
}

/// Seconds are counted up to here (194 days) and from the start again, a whole number of windows later.
const WRAP: u64 = (1 << 24) / WINDOW * WINDOW;
/// A clock that was read so many seconds ago is late; one that seems later still is from another turn.
const MAX_LATE: u64 = 60;
const REQUESTS: u64 = (1 << 24) - 1;
const RETRIES: u64 = (1 << 16) - 1;

impl Budget {
    /// Nothing was asked yet.
    pub fn new(now: Instant) -> Self {
        Self { epoch: now, slots: Default::default(), taking: Mutex::new(()) }
    }

    /// A request came: its first try, not those that follow.
    pub fn record_request(&self, now: Instant) {
        self.add(self.second(now), |slot| Some(SecondCounts { requests: (slot.requests + 1).min(REQUESTS), ..slot }));
    }

    /// Whether there is room for one more retry, which then is taken.
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

    /// False when `change` finds no room, or the clock was read so long ago that its second is forgotten.
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

/// Seconds from `then` to `now`.
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
