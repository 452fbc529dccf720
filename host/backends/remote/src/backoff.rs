//! Pauses between attempts to connect.

use std::time::Duration;

/// The first pause.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause: a server that is back is found within this time.
const LONGEST: Duration = Duration::from_secs(2);

/// Pauses that double, each shortened by a random part of up to a half. So the hosts of a cluster do not connect all at the
/// same moment after an outage.
#[derive(Debug)]
pub struct Backoff(Duration);

impl Backoff {
    /// Begins with the shortest pause.
    pub fn new() -> Backoff {
        Backoff(FIRST)
    }

    /// The next pause, from 50 ms to 2 s.
    pub fn pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = pause.saturating_mul(2).min(LONGEST);
        // Without random numbers, pauses are merely longer.
        let part = getrandom::u32().map_or(0.0, |random| f64::from(random) / f64::from(u32::MAX));
        pause.mul_f64(1.0 - part / 2.0)
    }
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let pauses = || {
            let mut backoff = Backoff::new();
            (0..20).map(|_| backoff.pause()).collect::<Vec<_>>()
        };
        let (one, other) = (pauses(), pauses());
        assert_ne!(one, other);
        assert!(one[0] >= FIRST / 2 && one[0] <= FIRST, "{one:?}");
        assert!(one.iter().all(|pause| *pause <= LONGEST) && one[19] >= LONGEST / 2, "{one:?}");
    }
}
