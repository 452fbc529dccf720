//! The rate limit of a service's requests: a bucket that holds the tokens of one second and fills evenly.

use std::time::Instant;

/// The tokens of a service.
#[derive(Debug)]
pub(super) struct TokenBucket {
    /// Tokens per second, and the most at once.
    rate: f64,
    left: f64,
    since: Option<Instant>,
}

impl TokenBucket {
    /// Creates a full bucket for `rate` requests per second.
    pub(super) fn new(rate: usize) -> Self {
        Self { rate: rate as f64, left: rate as f64, since: None }
    }

    /// Takes a token. Returns `false` if there is none.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = self.since.map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64());
        self.since = Some(self.since.map_or(now, |since| since.max(now)));
        self.left = (self.left + passed * self.rate).min(self.rate);
        let granted = self.left >= 1.0;
        if granted {
            self.left -= 1.0;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_of_one_second_and_then_evenly() {
        let (mut bucket, start) = (TokenBucket::new(10), Instant::now());
        assert_eq!((0..30).filter(|_| bucket.take(start)).count(), 10);
        assert!(!bucket.take(start + Duration::from_millis(90)));
        assert!(bucket.take(start + Duration::from_millis(110)));
        assert_eq!((0..30).filter(|_| bucket.take(start + Duration::from_secs(60))).count(), 10);
    }

    proptest! {
        /// Never grants more than the rate plus the tokens of one second.
        #[test]
        fn never_more(gaps in proptest::collection::vec(0_u64..300, 1..200), rate in 1_usize..50) {
            let (mut bucket, start) = (TokenBucket::new(rate), Instant::now());
            let (mut passed, mut granted) = (0, 0);
            for gap in gaps {
                passed += gap;
                granted += usize::from(bucket.take(start + Duration::from_millis(passed)));
            }
            prop_assert!(granted as f64 <= rate as f64 * (1.0 + passed as f64 / 1e3) + 1e-6);
        }
    }
}
