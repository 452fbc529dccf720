//! When a circuit breaker opens and closes, as a manifest has it.

use std::fmt;
use std::time::Duration;

/// When it opens, for how long, and what closes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// It opens when this part of the calls failed, in percent.
    pub failures: u32,
    /// A call is slow when its answer took longer to begin.
    pub slow: Option<Duration>,
    /// It opens when this part of the calls was slow, in percent.
    pub slow_calls: u32,
    /// Fewer calls than this say nothing.
    pub calls: u32,
    /// Calls of this last while count.
    pub window: Duration,
    /// How long it is open before it tries again.
    pub open: Duration,
    /// So many good calls close it.
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
