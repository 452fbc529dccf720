//! Counts of a service's messages, and of its schedule.

use std::sync::Mutex;

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
    /// The state of its messages, when it was last read.
    pub backlog: Mutex<Option<MessageBacklog>>,
}

/// The messages of a service that are not acknowledged, and the dead ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageBacklog {
    /// Messages that wait for it or are being processed.
    pub messages: u64,
    /// Those of them that are being processed.
    pub leased: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Dead messages that are kept.
    pub dead: u64,
    /// The age of the oldest one that is not acknowledged, in milliseconds.
    pub oldest: u64,
}
