//! Settings of a circuit breaker.

use std::fmt;
use std::time::Duration;

/// When a circuit breaker opens, for how long, and what closes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Percentage of failed calls at which the breaker opens.
    pub failures: u32,
    /// Time to the response head above which a call is slow; `None` if no call is.
    pub slow: Option<Duration>,
    /// Percentage of slow calls at which the breaker opens.
    pub slow_calls: u32,
    /// Number of calls in the window below which the breaker does not open.
    pub calls: u32,
    /// Period over which calls are counted.
    pub window: Duration,
    /// Time that the breaker stays open before it admits probes.
    pub open: Duration,
    /// Number of successful probes that close the breaker.
    pub probes: u32,
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = humantime::format_duration;
        write!(f, "{}% failures", self.failures)?;
        if let Some(slow) = self.slow {
            write!(f, " or {}% over {}", self.slow_calls, time(slow))?;
        }
        write!(f, " of {} calls or more in {}, ", self.calls, time(self.window))?;
        write!(f, "open for {}, {} probes", time(self.open), self.probes)
    }
}
