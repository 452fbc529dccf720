//! The host's coarse clock: one OS thread that advances the engine's epoch and counts the ticks.
//!
//! A thread of its own, because a tokio task can be starved by the very guest whose time it should count.
//! Reading the tick is one atomic load, which is what the request path can afford.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Ticks since the start; shared by everyone who needs to know roughly how late it is.
#[derive(Clone, Debug)]
pub struct Clock {
    ticks: Arc<AtomicU64>,
    period: Duration,
}

impl Clock {
    /// A clock that stands still.
    pub fn new(period: Duration) -> Self {
        Self { ticks: Arc::default(), period }
    }

    /// Ticks so far.
    pub fn now(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Lets so many ticks pass on a clock that stands still.
    #[cfg(test)]
    pub(crate) fn advance(&self, ticks: u64) {
        self.ticks.fetch_add(ticks, Ordering::Relaxed);
    }

    /// Time since the start, to the tick.
    pub fn elapsed(&self) -> Duration {
        self.between(0, self.now())
    }

    /// Length of a tick.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// Time between two ticks of this clock; zero when `later` is earlier.
    pub fn between(&self, earlier: u64, later: u64) -> Duration {
        self.period.saturating_mul(u32::try_from(later.saturating_sub(earlier)).unwrap_or(u32::MAX))
    }

    /// Starts the thread, which calls `on_tick` once a period for as long as that says that somebody still needs it.
    /// Guests are among those: one that computes can only be ended by a tick, also while the host stops.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub fn start(&self, on_tick: impl Fn() -> bool + Send + 'static) -> std::io::Result<()> {
        let clock = self.clone();
        let thread = std::thread::Builder::new().name("clock".into()).spawn(move || {
            let start = Instant::now();
            loop {
                std::thread::park_timeout(clock.period);
                // Measured, not counted: on a loaded machine this thread wakes late, and time passes all the same.
                let ticks = start.elapsed().as_nanos() / clock.period.as_nanos().max(1);
                clock.ticks.store(u64::try_from(ticks).unwrap_or(u64::MAX), Ordering::Relaxed);
                // Without this thread no guest that computes can be ended: a panic must not end it.
                if !catch_unwind(AssertUnwindSafe(&on_tick)).unwrap_or(true) {
                    return;
                }
            }
        });
        thread.map(drop)
    }
}
