//! Measures the CPU time of one request's guest code.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::scheduler::CpuShare;
use crate::clock::Clock;

/// Ticks of CPU time that a request may use before it counts as long-running and waits for a slot.
const SLICE: u32 = 2;

/// A meter of the CPU time of guest code. A request that never computes for long costs no clock read.
///
/// A guest that runs when a tick passes is charged that tick: a sample, correct on average. From then on it is *hot*,
/// and its thread's CPU clock is read before and after each run. So a guest that computes for long is measured exactly,
/// and is not charged for time in which the machine ran something else.
pub struct CpuMeter {
    limit: Duration,
    /// The host's coarse clock.
    pub clock: Clock,
    share: Arc<CpuShare>,
    used: AtomicU64,
    hot: AtomicBool,
    /// When the current run began: in ticks if the guest is not hot, else in nanoseconds of thread CPU time.
    since: AtomicU64,
    /// Whether a tick has preempted the guest since the last [`take_preempted`](Self::take_preempted).
    preempted: AtomicBool,
}

/// The action for a guest that a tick interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TickAction {
    /// Continue: the guest has just begun.
    Continue,
    /// Yield the thread to other tasks.
    Yield,
    /// Stop: the CPU time is used up.
    Over,
}

impl CpuMeter {
    /// Creates a meter for a request that may use CPU time up to `limit`.
    pub fn new(limit: Duration, clock: Clock, share: Arc<CpuShare>) -> Self {
        let (used, since) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { limit, clock, share, used, hot: AtomicBool::new(false), since, preempted: AtomicBool::new(false) }
    }

    /// Resets the meter for the next request of the same sandbox.
    pub fn reset(&self) {
        self.used.store(0, Relaxed);
        self.hot.store(false, Relaxed);
        self.preempted.store(false, Relaxed);
    }

    /// Ticks since the start of the host.
    pub fn ticks(&self) -> u64 {
        self.clock.now()
    }

    /// Begins a run of guest code on this thread.
    pub fn enter(&self) {
        let now = if self.hot.load(Relaxed) { thread_cpu() } else { self.clock.now() };
        self.since.store(now, Relaxed);
    }

    /// Ends the run of guest code on this thread.
    pub fn leave(&self) {
        if self.hot.load(Relaxed) {
            self.charge();
        }
    }

    /// Handles a tick that interrupts the guest, and returns what the guest has to do.
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

    /// Whether the guest counts as long-running: hot and at or over two ticks of CPU time. If `short`, being hot is
    /// enough.
    pub fn is_long(&self, short: bool) -> bool {
        self.hot.load(Relaxed) && (short || self.used() >= self.clock.period() * SLICE)
    }

    /// Whether a tick has preempted the guest since the last call.
    pub fn take_preempted(&self) -> bool {
        self.preempted.swap(false, Relaxed)
    }

    /// CPU time used by this request.
    pub fn used(&self) -> Duration {
        Duration::from_nanos(self.used.load(Relaxed))
    }

    /// CPU time that the request has left.
    pub fn left(&self) -> Duration {
        self.limit.saturating_sub(self.used())
    }

    /// Charges CPU time that other threads have used for the guest. The guest is stopped at its next tick if that was all.
    pub fn charge_elsewhere(&self, time: Duration) {
        self.spend(nanos(time));
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
