//! What a statement may use, checked while it runs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::SqlError;
use crate::mutex::lock;

/// The time for which a statement may need memory beyond the bound, if the bound is not exceeded twice. What needs so much has run
/// for longer, and the short statements of others go on.
const SHORT: Duration = Duration::from_millis(50);

/// What a statement may use.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// When it must have ended.
    pub deadline: Instant,
    /// Its CPU time.
    pub cpu: Duration,
}

/// The bounds of a statement. Its thread checks them, and its caller can stop it.
pub(super) struct StatementBounds {
    allowance: Allowance,
    /// Bytes that SQLite may use in this process.
    memory: u64,
    began: Instant,
    /// Nobody waits for the statement any more.
    abandoned: AtomicBool,
    /// Nanoseconds of CPU time of attempts that have ended.
    used: AtomicU64,
    stopped: Mutex<Option<SqlError>>,
}

impl StatementBounds {
    pub(super) fn new(allowance: Allowance, memory: u64) -> Self {
        Self {
            allowance,
            memory,
            began: Instant::now(),
            abandoned: AtomicBool::new(false),
            used: AtomicU64::new(0),
            stopped: Mutex::default(),
        }
    }

    /// Stops the statement.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Relaxed);
    }

    /// Whether the statement must stop, of which this attempt began at the CPU time `since` of its thread.
    pub(super) fn is_exceeded(&self, since: Duration) -> bool {
        let exceeded = self.exceeded(since);
        let is_exceeded = exceeded.is_some();
        if is_exceeded {
            *lock(&self.stopped) = exceeded;
        }
        is_exceeded
    }

    fn exceeded(&self, since: Duration) -> Option<SqlError> {
        let now = Instant::now();
        if self.abandoned.load(Relaxed) || now >= self.allowance.deadline {
            return Some(SqlError::Timeout);
        }
        if self.used() + thread_cpu().saturating_sub(since) >= self.allowance.cpu {
            return Some(SqlError::CpuTime);
        }
        let memory = memory_used();
        let is_short = now.saturating_duration_since(self.began) < SHORT;
        let limit = if is_short { self.memory.saturating_mul(2) } else { self.memory };
        (memory > limit).then_some(SqlError::Memory)
    }

    /// Why the statement was stopped.
    pub(super) fn stopped(&self) -> Option<SqlError> {
        lock(&self.stopped).take()
    }

    /// Ends an attempt that began at the CPU time `since` of its thread.
    pub(super) fn end(&self, since: Duration) {
        let used = thread_cpu().saturating_sub(since).as_nanos();
        self.used.fetch_add(u64::try_from(used).unwrap_or(u64::MAX), Relaxed);
    }

    /// The CPU time of attempts that have ended.
    pub(super) fn used(&self) -> Duration {
        Duration::from_nanos(self.used.load(Relaxed))
    }
}

/// CPU time of this thread.
pub(super) fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Bytes that SQLite uses in this process.
#[expect(unsafe_code, reason = "a C function without arguments that reads a counter; SQLite allows it from any thread")]
fn memory_used() -> u64 {
    u64::try_from(unsafe { rusqlite::ffi::sqlite3_memory_used() }).unwrap_or(0)
}
