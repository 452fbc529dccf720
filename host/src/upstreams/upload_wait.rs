//! What is known of a client's body on its way to a replica, which waits for it: that time is the client's, and says nothing
//! about the replica.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::capabilities::sandbox::is_the_clients;

/// One body. The clock is read only when one begins or ends.
#[derive(Debug)]
pub struct UploadWait {
    began: Instant,
    /// Nanoseconds from the beginning to when the current wait began, and one; 0 when there is none.
    since: AtomicU64,
    /// Nanoseconds of those that are over.
    waited: AtomicU64,
    /// The body is larger than it may be.
    pub over: AtomicBool,
    /// The body broke off.
    pub broken: AtomicBool,
}

impl UploadWait {
    /// None yet.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            since: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            over: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        }
    }

    /// More of the body was asked for, and is here or not.
    pub fn record_poll(&self, is_ready: bool) {
        match (self.since.load(Relaxed), is_ready) {
            (0, false) => self.since.store(self.nanos() + 1, Relaxed),
            (1.., true) => {
                self.waited.store(self.total(), Relaxed);
                self.since.store(0, Relaxed);
            }
            _ => {}
        }
    }

    /// Whether the time since the body was first sent on is the client's fault.
    pub fn is_client_slow(&self) -> bool {
        is_the_clients(self.waited(), self.began.elapsed())
    }

    /// All of them so far.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.total())
    }

    fn total(&self) -> u64 {
        let since = self.since.load(Relaxed);
        let current = if since == 0 { 0 } else { self.nanos().saturating_sub(since - 1) };
        self.waited.load(Relaxed) + current
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX - 1)
    }
}

impl Default for UploadWait {
    fn default() -> Self {
        Self::new()
    }
}
