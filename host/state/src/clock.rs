//! The clock that entries and leases expire by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in time, in milliseconds since 1970 by the clock of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// `milliseconds` since 1970.
    pub const fn new(milliseconds: u64) -> Timestamp {
        Timestamp(milliseconds)
    }

    /// Milliseconds since 1970.
    pub const fn milliseconds(self) -> u64 {
        self.0
    }

    /// The point in time that is `duration` later, to the next full millisecond.
    pub fn after(self, duration: Duration) -> Timestamp {
        let milliseconds = duration.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(u64::MAX);
        // SQLite has signed integers.
        Timestamp(self.0.saturating_add(milliseconds).min(i64::MAX as u64))
    }

    /// The time from `earlier` until `self`; zero if it is in fact later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A source of the current time.
pub trait Clock: Send + Sync + 'static {
    /// The current time. Must not go backwards.
    fn now(&self) -> Timestamp;
}

/// The clock of the system.
///
/// It reads the wall clock once, and continues with the monotonic clock: when somebody sets the wall clock, neither entries
/// nor leases of this process expire early or late.
#[derive(Debug)]
pub struct SystemClock {
    start: Timestamp,
    since: Instant,
}

impl SystemClock {
    /// A clock that begins with the current time of the wall clock.
    pub fn new() -> SystemClock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        SystemClock { start: Timestamp(0).after(wall), since: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        // Rounded down, so that nothing expires early.
        Timestamp(self.start.0.saturating_add(self.since.elapsed().as_millis().try_into().unwrap_or(u64::MAX)))
    }
}

/// A clock that goes on from the time of an earlier process, where the clock of the system has been set back since. Otherwise an
/// entry would live for as long as that, or, written while the clock showed 1970, not at all.
pub(crate) struct ResumedClock {
    clock: Arc<dyn Clock>,
    /// Milliseconds that it is behind.
    behind: u64,
}

impl ResumedClock {
    /// Returns `clock`, going on from `last` if it is behind that.
    pub(crate) fn resume(clock: Arc<dyn Clock>, last: Option<Timestamp>) -> Arc<dyn Clock> {
        match last.map(|last| last.0.saturating_sub(clock.now().0)) {
            None | Some(0) => clock,
            Some(behind) => Arc::new(ResumedClock { clock, behind }),
        }
    }
}

impl Clock for ResumedClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.clock.now().0.saturating_add(self.behind))
    }
}

/// A clock for tests, which moves only by [`advance`](Self::advance).
#[derive(Debug)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that shows `start`.
    pub fn new(start: Timestamp) -> ManualClock {
        ManualClock(AtomicU64::new(start.0))
    }

    /// Moves the clock forward.
    pub fn advance(&self, duration: Duration) {
        let milliseconds = duration.as_millis().try_into().unwrap_or(u64::MAX / 2);
        self.0.fetch_add(milliseconds, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}
