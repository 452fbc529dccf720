//! Settings of an adaptive concurrency limit.

use std::fmt;
use std::time::Duration;

/// The target and the floor of an adaptive concurrency limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The target for the average time to the response head.
    pub latency: Duration,
    /// The lowest limit of requests in flight.
    pub floor: usize,
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "latency {}, floor {}", humantime::format_duration(self.latency), self.floor)
    }
}
