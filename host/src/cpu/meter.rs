//! The CPU time of one request's guest code.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::scheduler::CpuShare;
use crate::base::clock::Clock;

/// Ticks of CPU time that every request may use at once, without waiting for a turn.
const SLICE: u32 = 2;

/// CPU time of guest code, charged so that a request which never computes for long costs no clock read at all.
///
/// A guest that is caught running when a tick passes is charged that tick: a sample, right on average. From then
/// on it is *hot* and its thread's CPU clock is read around every turn, so that a guest that really computes is
/// measured exactly, and is not charged for time that the machine gave to others.
pub struct CpuMeter {
    limit: Duration,
    /// The host's clock.
    pub clock: Clock,
    share: Arc<CpuShare>,
    used: AtomicU64,
    hot: AtomicBool,
    /// When the current turn began: a tick when cold, nanoseconds of thread CPU time when hot.
    since: AtomicU64,
    /// A tick has made it give its thread back since it was last asked.
    preempted: AtomicBool,
}

/// What a guest that was caught by a tick has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TickAction {
    /// It has just begun; let it run.
    Continue,
    /// Let others run first.
    Yield,
    /// Its CPU time is up.
    Over,
}

impl CpuMeter {
    /// A meter of a request that may use `limit` of CPU time.
    pub fn new(limit: Duration, clock: Clock, share: Arc<CpuShare>) -> Self {
        let (used, since) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { limit, clock, share, used, hot: AtomicBool::new(false), since, preempted: AtomicBool::new(false) }
    }

    /// Another request begins.
    pub fn reset(&self) {
        self.used.store(0, Relaxed);
        self.hot.store(false, Relaxed);
        self.preempted.store(false, Relaxed);
    }

    /// Ticks since the host has begun.
    pub fn ticks(&self) -> u64 {
        self.clock.now()
    }

    /// Guest code is about to run on this thread.
    pub fn enter(&self) {
        let now = if self.hot.load(Relaxed) { thread_cpu() } else { self.clock.now() };
        self.since.store(now, Relaxed);
    }

    /// Guest code has stopped running on this thread.
    pub fn leave(&self) {
        if self.hot.load(Relaxed) {
            self.charge();
        }
    }

    /// A tick has passed since the guest was last asked.
    pub fn tick(&self) -> TickAction {
        if self.hot.load(Relaxed) {
            self.charge();
        } else if self.clock.now() > self.since.load(Relaxed) {
            self.hot.store(true, Relaxed);
            self.spend(nanos(self.clock.period()));
            self.since.store(thread_cpu(), Relaxed);
        } else {
            return TickAction::Continue;
        }
        if self.used() >= self.limit {
            return TickAction::Over;
        }
        self.preempted.store(true, Relaxed);
        TickAction::Yield
    }

    /// Whether it computes for long: more than a tick that it was caught in, or any if it is `short` of time.
    pub fn is_long(&self, short: bool) -> bool {
        self.hot.load(Relaxed) && (short || self.used() >= self.clock.period() * SLICE)
    }

    /// Whether a tick has made it give its thread back since this was last asked.
    pub fn take_preempted(&self) -> bool {
        self.preempted.swap(false, Relaxed)
    }

    /// CPU time used so far.
    pub fn used(&self) -> Duration {
        Duration::from_nanos(self.used.load(Relaxed))
    }

    fn charge(&self) {
        let now = thread_cpu();
        self.spend(now.saturating_sub(self.since.swap(now, Relaxed)));
    }

    fn spend(&self, nanos: u64) {
        self.used.fetch_add(nanos, Relaxed);
        self.share.charge(nanos);
    }
}

fn thread_cpu() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0).saturating_mul(1_000_000_000) + u64::try_from(time.tv_nsec).unwrap_or(0)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
