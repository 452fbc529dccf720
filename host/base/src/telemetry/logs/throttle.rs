//! Limits the log lines about refusals: a guest or a client may be refused a thousand times per second.

use std::time::{Duration, Instant};

/// The most lines per window.
const LINES: u32 = 5;

/// The length of a window.
const WINDOW: Duration = Duration::from_secs(10);

/// The refusals of a service, or of a listener.
#[derive(Debug, Default)]
pub struct LogThrottle {
    window: Option<Instant>,
    said: u32,
    unsaid: u64,
}

impl LogThrottle {
    /// Records a refusal. Returns `None` if it must not be logged, or else how many were not logged since the last line.
    pub fn record(&mut self, now: Instant) -> Option<u64> {
        if self.window.is_none_or(|began| now.saturating_duration_since(began) >= WINDOW) {
            (self.window, self.said) = (Some(now), 0);
        }
        if self.said == LINES {
            self.unsaid += 1;
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_denials_are_logged_and_the_rest_counted() {
        let (mut log_throttle, start) = (LogThrottle::default(), Instant::now());
        let said: Vec<_> = (0..100).map(|ms| log_throttle.record(start + Duration::from_millis(ms))).collect();
        assert_eq!(said.iter().flatten().count(), LINES as usize);
        assert_eq!(log_throttle.record(start + WINDOW), Some(95), "the next window reports how many were suppressed");
        assert_eq!(log_throttle.record(start + WINDOW), Some(0));
    }
}
