//! The health of a replica: whether it is available, and with which share of its weight.
//!
//! Two things make a replica unavailable. Failed *checks* do until checks pass again. Consecutive *failures* of
//! requests do for a time that grows with each repetition (an *ejection*). When neither holds, the replica is
//! available, and its weight may grow from then on (*slow start*). Failures of an unavailable replica are ignored, so
//! an ejection cannot prolong itself.
//!
//! Selecting a replica and recording a success each load one atomic. The lock is for rare changes only.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lodge_base::lock::lock;
use lodge_manifest::upstream::{Check, Ejection};

/// The health of one replica. Survives new sets of replicas.
#[derive(Debug)]
pub struct Health {
    /// When the replica became known. The nanoseconds below count from here.
    epoch: Instant,
    /// The time from which it is available; [`NEVER`] while it is down.
    from: AtomicU64,
    /// Consecutive failed requests.
    failures: AtomicUsize,
    state: Mutex<HealthState>,
}

/// The value of `from` while checks fail.
const NEVER: u64 = u64::MAX;

/// The share of the weight at which slow start begins, in hundredths.
const FIRST: u32 = 10;

/// The whole weight, in hundredths.
pub const FULL: u32 = 100;

#[derive(Debug, Default)]
struct HealthState {
    down: bool,
    /// Whether there was a check. The first one decides alone, so that the state of a new replica is known at once.
    checked: bool,
    /// Consecutive checks that contradict `down`.
    streak: usize,
    /// The end of the last ejection.
    until: u64,
    /// Ejections that still lengthen the next one.
    ejections: u32,
}

/// The status of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthStatus {
    /// Checks pass or are not configured, and requests do not fail.
    Available,
    /// Checks fail.
    Down,
    /// Requests failed; the replica is left out for this remaining time.
    Ejected(Duration),
}

/// A change of a replica's health, to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthChange {
    /// Checks pass again.
    Up,
    /// Checks fail.
    Down,
    /// The replica is left out for this time.
    Ejected(Duration),
}

impl Health {
    /// Creates the health of a new replica, which is available.
    pub fn new(now: Instant) -> Self {
        Self { epoch: now, from: AtomicU64::new(0), failures: AtomicUsize::new(0), state: Mutex::default() }
    }

    /// Returns whether the replica can be used.
    pub fn is_available(&self, now: Instant) -> bool {
        self.since(now).is_some()
    }

    /// Returns for how many nanoseconds it has been available; `None` while it is not.
    fn since(&self, now: Instant) -> Option<u64> {
        self.nanos(now).checked_sub(self.from.load(Relaxed))
    }

    /// Returns the share of its weight in hundredths, which is smaller during `slow_start`; `None` while it is not
    /// available.
    pub fn share(&self, now: Instant, slow_start: Duration) -> Option<u32> {
        let since = self.since(now)?;
        if slow_start.is_zero() {
            return Some(FULL);
        }
        let whole = nanos(slow_start).max(1);
        let share = u64::from(FULL).saturating_mul(since.min(whole)) / whole;
        Some(u32::try_from(share).unwrap_or(FULL).clamp(FIRST, FULL))
    }

    /// Returns the status for operators.
    pub fn status(&self, now: Instant) -> HealthStatus {
        let (state, now) = (lock(&self.state), self.nanos(now));
        match state.until.checked_sub(now) {
            _ if state.down => HealthStatus::Down,
            None | Some(0) => HealthStatus::Available,
            Some(left) => HealthStatus::Ejected(Duration::from_nanos(left)),
        }
    }

    /// Returns whether the replica is ejected.
    pub fn is_ejected(&self, now: Instant) -> bool {
        lock(&self.state).until > self.nanos(now)
    }

    /// Records the result of a check. Returns a change from up to down or back.
    pub fn record_check(&self, now: Instant, passed: bool, check: &Check) -> Option<HealthChange> {
        let mut state = lock(&self.state);
        let first = !std::mem::replace(&mut state.checked, true);
        if passed != state.down {
            state.streak = 0;
            return None;
        }
        state.streak += 1;
        let enough = if state.down { check.healthy } else { check.unhealthy };
        if state.streak < enough && !first {
            return None;
        }
        state.streak = 0;
        state.down = !passed;
        self.failures.store(0, Relaxed);
        let from = if state.down { NEVER } else { self.nanos(now).max(state.until) };
        self.from.store(from, Relaxed);
        Some(if state.down { HealthChange::Down } else { HealthChange::Up })
    }

    /// Forgets the results of checks, for an upstream that no longer has any.
    pub fn forget_checks(&self, now: Instant) {
        let mut state = lock(&self.state);
        (state.checked, state.streak) = (false, 0);
        if std::mem::take(&mut state.down) {
            self.from.store(self.nanos(now).max(state.until), Relaxed);
        }
    }

    /// Records a request that succeeded.
    pub fn record_success(&self) {
        // Loads before it stores: all cores read this counter, and it is rarely above zero.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Records a request that failed. Returns whether the consecutive failures suffice to [eject](Self::eject) the
    /// replica.
    pub fn record_failure(&self, now: Instant, ejection: &Ejection) -> bool {
        // Requests that were sent before the ejection, or in panic mode, may fail later. They say nothing new.
        if ejection.failures == 0 || !self.is_available(now) {
            return false;
        }
        self.failures.fetch_add(1, Relaxed) + 1 >= ejection.failures
    }

    /// Ejects the replica for the base time multiplied by the number of recent ejections, at most the maximum. One
    /// earlier ejection is forgotten for each base time that the replica was healthy.
    pub fn eject(&self, now: Instant, ejection: &Ejection) -> Option<HealthChange> {
        let (mut state, now) = (lock(&self.state), self.nanos(now));
        if state.down || state.until > now {
            return None;
        }
        let forgotten = (now - state.until) / nanos(ejection.base).max(1);
        let before = state.ejections.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX));
        state.ejections = before.saturating_add(1);
        let time = ejection.base.saturating_mul(state.ejections).min(ejection.max);
        state.until = now.saturating_add(nanos(time)).min(NEVER - 1);
        self.failures.store(0, Relaxed);
        self.from.store(state.until, Relaxed);
        Some(HealthChange::Ejected(time))
    }

    fn nanos(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.epoch))
    }
}

/// Converts to nanoseconds; saturates after 584 years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX - 1)
}

#[cfg(test)]
mod tests;
