//! How often a denial is said: a guest that is denied a thousand times a second must not fill the log.

use std::time::{Duration, Instant};

/// Lines of a service in a window.
const LINES: u32 = 5;

/// How long a window is.
const WINDOW: Duration = Duration::from_secs(10);

/// Denials of a service.
#[derive(Debug, Default)]
pub(super) struct Denials {
    window: Option<Instant>,
    said: u32,
    unsaid: u64,
}

impl Denials {
    /// One more. If it is to be said, how many were not since the last one that was.
    pub(super) fn say(&mut self, now: Instant) -> Option<u64> {
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
    fn a_few_are_said_and_the_rest_is_counted() {
        let (mut denials, start) = (Denials::default(), Instant::now());
        let said: Vec<_> = (0..100).map(|ms| denials.say(start + Duration::from_millis(ms))).collect();
        assert_eq!(said.iter().flatten().count(), LINES as usize);
        assert_eq!(denials.say(start + WINDOW), Some(95), "the next window says how many were left out");
        assert_eq!(denials.say(start + WINDOW), Some(0));
    }
}
