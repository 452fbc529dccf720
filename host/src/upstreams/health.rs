//! Whether a replica can be used, and how much of it.
//!
//! Two things take a replica out: *checks* that fail, until checks pass again, and *failures* of requests in a row, for a
//! time that grows with each repetition (an *ejection*). When both are over it is available, and its weight may grow from
//! there on (*slow start*). What happens to it while it is out changes neither: an ejection cannot prolong itself.
//!
//! A choice reads one number of a replica, a request that succeeds another one; the lock is for what is rare.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::base::lock::lock;
use crate::manifest::upstream::{Check, Ejection};

/// The health of one replica. Survives new sets of replicas.
#[derive(Debug)]
pub struct Health {
    /// When it was first heard of. The nanoseconds below are counted from then.
    epoch: Instant,
    /// Available from then on; [`NEVER`] while it is down.
    from: AtomicU64,
    /// Requests in a row that failed.
    failures: AtomicUsize,
    state: Mutex<HealthState>,
}

/// Not before the checks pass.
const NEVER: u64 = u64::MAX;

/// Part of the weight, in hundredths, that slow start begins with.
const FIRST: u32 = 10;

/// All of the weight, in the same unit.
pub const FULL: u32 = 100;

#[derive(Debug, Default)]
struct HealthState {
    down: bool,
    /// A first check is in. It decides alone, either way: who starts wants to know at once.
    checked: bool,
    /// Checks in a row that said the opposite of `down`.
    streak: usize,
    /// When the last ejection ends, or ended.
    until: u64,
    /// Ejections that are not forgotten yet.
    ejections: u32,
}

/// What a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthStatus {
    /// Checks pass, or there are none, and requests do not fail.
    Available,
    /// Checks fail.
    Down,
    /// Requests failed, and it is left out for this much longer.
    Ejected(Duration),
}

/// What has just become of a replica: something to tell the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthChange {
    /// Checks pass again.
    Up,
    /// Checks fail.
    Down,
    /// It is left out for so long.
    Ejected(Duration),
}

impl Health {
    /// Available, until something else is known.
    pub fn new(now: Instant) -> Self {
        Self { epoch: now, from: AtomicU64::new(0), failures: AtomicUsize::new(0), state: Mutex::default() }
    }

    /// Whether it can be used.
    pub fn is_available(&self, now: Instant) -> bool {
        self.since(now).is_some()
    }

    /// For how long it has been available; nothing while it is not.
    fn since(&self, now: Instant) -> Option<u64> {
        self.nanos(now).checked_sub(self.from.load(Relaxed))
    }

    /// Hundredths of its weight that count, fewer in the `slow_start` after it became available; nothing while it is not.
    pub fn share(&self, now: Instant, slow_start: Duration) -> Option<u32> {
        let since = self.since(now)?;
        if slow_start.is_zero() {
            return Some(FULL);
        }
        let whole = nanos(slow_start).max(1);
        let share = u64::from(FULL).saturating_mul(since.min(whole)) / whole;
        Some(u32::try_from(share).unwrap_or(FULL).clamp(FIRST, FULL))
    }

    /// What it is, for people.
    pub fn status(&self, now: Instant) -> HealthStatus {
        let (state, now) = (lock(&self.state), self.nanos(now));
        match state.until.checked_sub(now) {
            _ if state.down => HealthStatus::Down,
            None | Some(0) => HealthStatus::Available,
            Some(left) => HealthStatus::Ejected(Duration::from_nanos(left)),
        }
    }

    /// Whether it is left out for the failures of requests.
    pub fn is_ejected(&self, now: Instant) -> bool {
        lock(&self.state).until > self.nanos(now)
    }

    /// The result of a check.
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

    /// Checks have ceased: what they said last is no longer known to hold.
    pub fn forget_checks(&self, now: Instant) {
        let mut state = lock(&self.state);
        (state.checked, state.streak) = (false, 0);
        if std::mem::take(&mut state.down) {
            self.from.store(self.nanos(now).max(state.until), Relaxed);
        }
    }

    /// A request succeeded.
    pub fn record_success(&self) {
        // Read first: all cores read it, and it hardly ever changes.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// A request failed. True when there were enough in a row to [eject](Self::eject) it.
    pub fn record_failure(&self, now: Instant, ejection: &Ejection) -> bool {
        // What was sent before it went out, or because there was nobody else, comes back late and says nothing new.
        if ejection.failures == 0 || !self.is_available(now) {
            return false;
        }
        self.failures.fetch_add(1, Relaxed) + 1 >= ejection.failures
    }

    /// Leaves it out: for the base time, and for as much longer each time that it happens again. A time of health as long
    /// as the base makes up for one of the times before.
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

/// 584 years of them.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX - 1)
}

#[cfg(test)]
mod tests;
