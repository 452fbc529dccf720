//! Counts of a service's messages, and of its schedule.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::ReasonCounter;

/// What is counted of the messages of a service.
#[derive(Debug, Default)]
pub struct MessageMetrics {
    /// Messages that its guests have published, by outcome.
    pub published: ReasonCounter,
    /// Messages that were delivered to it, by outcome.
    pub delivered: ReasonCounter,
    /// Runs of its schedule, by outcome.
    pub scheduled: ReasonCounter,
    /// Messages that wait for it or are being processed.
    pub waiting: AtomicU64,
    /// Bytes of these messages.
    pub bytes: AtomicU64,
    /// Dead messages that are kept.
    pub dead: AtomicU64,
    /// The age of the oldest waiting message, in milliseconds.
    pub oldest: AtomicU64,
}

impl MessageMetrics {
    /// Records the state of its messages: how many wait, their bytes, how many dead ones are kept, and the age of the oldest in
    /// milliseconds.
    pub fn set_backlog(&self, waiting: u64, bytes: u64, dead: u64, oldest: u64) {
        self.waiting.store(waiting, Relaxed);
        self.bytes.store(bytes, Relaxed);
        self.dead.store(dead, Relaxed);
        self.oldest.store(oldest, Relaxed);
    }
}
