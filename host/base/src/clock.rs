//! The host's coarse clock: one OS thread that advances the engine's epoch and counts ticks.
//!
//! It is a thread because a guest that computes could starve a tokio task, and that guest's time has to be measured.
//! Reading the clock is one atomic load, cheap enough for the request path.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A counter of ticks since the start. Clones share it.
#[derive(Clone, Debug)]
pub struct Clock {
    ticks: Arc<AtomicU64>,
    period: Duration,
}

impl Clock {
    /// Creates a clock that does not advance until [`start`](Self::start).
    pub fn new(period: Duration) -> Self {
        Self { ticks: Arc::default(), period }
    }

    /// Ticks since the start.
    pub fn now(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Advances a clock that was not started, for tests.
    pub fn advance(&self, ticks: u64) {
        self.ticks.fetch_add(ticks, Ordering::Relaxed);
    }

    /// Time since the start, rounded down to a tick.
    pub fn elapsed(&self) -> Duration {
        self.between(0, self.now())
    }

    /// Length of a tick.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// Time between two ticks of this clock; zero if `later` is before `earlier`.
    pub fn between(&self, earlier: u64, later: u64) -> Duration {
        self.period.saturating_mul(u32::try_from(later.saturating_sub(earlier)).unwrap_or(u32::MAX))
    }

    /// Starts the thread, which calls `on_tick` once per period until `on_tick` returns false. It must return true
    /// while any guest may run, also during shutdown: only a tick can interrupt a guest that computes.
    ///
    /// # Errors
    /// When the system cannot create a thread.
    pub fn start(&self, on_tick: impl Fn() -> bool + Send + 'static) -> std::io::Result<()> {
        let clock = self.clone();
        let thread = std::thread::Builder::new().name("clock".into()).spawn(move || {
            let start = Instant::now();
            loop {
                std::thread::park_timeout(clock.period);
                // Measured, not counted: on a loaded machine this thread wakes up late.
                let ticks = start.elapsed().as_nanos() / clock.period.as_nanos().max(1);
                clock.ticks.store(u64::try_from(ticks).unwrap_or(u64::MAX), Ordering::Relaxed);
                // A panic must not end this thread: without it, no guest that computes can be interrupted.
                if !catch_unwind(AssertUnwindSafe(&on_tick)).unwrap_or(true) {
                    return;
                }
            }
        });
        thread.map(drop)
    }
}
