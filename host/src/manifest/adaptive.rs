//! What an adaptive limit is to reach, as a manifest has it.

use std::fmt;
use std::time::Duration;

/// What it is to reach, and how far it may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long an answer may take to begin, on average.
    pub latency: Duration,
    /// Never fewer places.
    pub floor: usize,
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "latency {}, floor {}", humantime::format_duration(self.latency), self.floor)
    }
}
