//! The time that a replica spends waiting for the client's body. It says nothing about the replica.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::admission::client_caused_timeout;

/// The waits of one body. Reads the clock only when a wait begins or ends.
#[derive(Debug)]
pub struct UploadWait {
    began: Instant,
    /// One plus the nanoseconds from `began` to the start of the current wait; 0 while there is none.
    since: AtomicU64,
    /// Nanoseconds of finished waits.
    waited: AtomicU64,
    /// The body is larger than its limit.
    pub over: AtomicBool,
    /// The body broke off.
    pub broken: AtomicBool,
}

impl UploadWait {
    /// Creates the record of a body without waits.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            since: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            over: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        }
    }

    /// Records that a part of the body was polled, and whether it was ready.
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

    /// Returns whether a slow client is the reason for the time since the body was first polled.
    pub fn is_client_slow(&self) -> bool {
        client_caused_timeout(self.waited(), self.began.elapsed())
    }

    /// Returns the duration of all waits so far.
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
