//! When a certificate is ordered: pure arithmetic, in seconds since 1970.

use serde::{Deserialize, Serialize};

/// The pauses after failures, one after another; the last one repeats.
const PAUSES: [u64; 6] = [120, 600, 1_800, 3_600, 7_200, 14_400];

/// The pauses while the authority cannot be reached, which costs it nothing.
const UNREACHABLE: [u64; 8] = [5, 10, 20, 40, 80, 160, 320, 600];

/// Failed attempts in [`WINDOW`]. Let's Encrypt refuses a name after five failed proofs in an hour, for an hour.
const MOST_FAILED: usize = 4;

/// One hour, and a margin for clocks that differ.
const WINDOW: u64 = 3_700;

/// Returns when a certificate is renewed: after two thirds of its lifetime, and up to a thirtieth more, so that certificates
/// that were issued together are not renewed together. `chance` decides how much.
pub(super) fn renewal(not_before: i64, not_after: i64, chance: u32) -> u64 {
    let [from, to] = [not_before, not_after].map(|time| u64::try_from(time).unwrap_or(0));
    let lifetime = to.saturating_sub(from);
    let jitter = u128::from(lifetime / 30) * u128::from(chance) / u128::from(u32::MAX);
    from.saturating_add(lifetime / 3 * 2).saturating_add(u64::try_from(jitter).unwrap_or(0))
}

/// The failed attempts for a certificate. They are stored, so that a host that restarts again and again does not exceed what an
/// authority allows.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub(super) struct OrderAttempts {
    /// When the last attempts failed.
    failed: Vec<u64>,
    /// Failures since the last success.
    in_a_row: usize,
    /// The time before which the authority wants no attempt.
    wait: u64,
    /// OrderAttempts since the last one that reached the authority. They are not stored.
    #[serde(skip)]
    unreachable: usize,
    /// When the next attempt is due after failures of this process.
    #[serde(skip)]
    next: u64,
}

impl OrderAttempts {
    /// Records that the authority refused, or that the certificate could not be used. `chance` shortens no pause.
    pub(super) fn fail(&mut self, now: u64, wait: Option<u64>, chance: u32) {
        self.unreachable = 0;
        self.failed.push(now);
        let old = self.failed.len().saturating_sub(MOST_FAILED);
        self.failed.drain(..old);
        self.wait = wait.unwrap_or(0);
        let pause = PAUSES.get(self.in_a_row).or(PAUSES.last()).copied().unwrap_or(WINDOW);
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.next = now.saturating_add(with_jitter(pause, chance));
    }

    /// Records that the authority could not be reached.
    pub(super) fn miss(&mut self, now: u64, wait: Option<u64>, chance: u32) {
        let pause = UNREACHABLE.get(self.unreachable).or(UNREACHABLE.last()).copied().unwrap_or(WINDOW);
        self.unreachable = self.unreachable.saturating_add(1);
        self.wait = wait.unwrap_or(0);
        self.next = now.saturating_add(with_jitter(pause, chance));
    }

    /// Forgets the failures.
    pub(super) fn succeed(&mut self) {
        *self = Self::default();
    }

    /// Returns the earliest time of the next attempt: after the pause, what the authority wants, and at most [`MOST_FAILED`]
    /// failures an hour. A process that has just started makes no pause, since somebody may have mended what was wrong.
    pub(super) fn due(&self) -> u64 {
        let full = self.failed.len() >= MOST_FAILED;
        let hour = self.failed.first().filter(|_| full).map_or(0, |oldest| oldest.saturating_add(WINDOW));
        self.next.max(self.wait).max(hour)
    }

    /// Brings values of a file, which may be anything, into their bounds.
    pub(super) fn bounded(mut self, now: u64) -> Self {
        // A clock that was wrong must not stop renewals for ever.
        self.failed.retain(|at| *at <= now);
        let old = self.failed.len().saturating_sub(MOST_FAILED);
        self.failed.drain(..old);
        self.wait = self.wait.min(now.saturating_add(24 * 3_600));
        self
    }
}

fn with_jitter(pause: u64, chance: u32) -> u64 {
    let jitter = u128::from(pause / 5 + 1) * u128::from(chance) / u128::from(u32::MAX);
    pause.saturating_add(u64::try_from(jitter).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn certificates_are_renewed_after_two_thirds() {
        const DAY: i64 = 86_400;
        assert_eq!(renewal(0, 90 * DAY, 0), 60 * 86_400);
        assert_eq!(renewal(0, 90 * DAY, u32::MAX), 63 * 86_400);
        assert_eq!(renewal(1_000, 1_012, u32::MAX), 1_008, "also one that is valid for seconds");
        assert_eq!(renewal(100, 50, 7), 100, "one that was never valid is due");
        assert_eq!(renewal(-5, i64::MAX, u32::MAX), 6_456_360_425_798_343_064, "no overflow");
    }

    #[test]
    fn pauses_grow() {
        let mut attempts = OrderAttempts::default();
        assert_eq!(attempts.due(), 0);
        let mut now = 1_000_000;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            attempts.fail(now, None, 0);
            pauses.push(attempts.due() - now);
            now = attempts.due();
        }
        assert_eq!(pauses, [120, 600, 1_800, 3_600, 7_200, 14_400, 14_400, 14_400]);
        attempts.fail(now, Some(now + 80_000), 0);
        assert_eq!(attempts.due(), now + 80_000, "the authority wants to wait");
        attempts.succeed();
        assert_eq!(attempts.due(), 0);
        for expected in [5, 10, 20, 40, 80, 160, 320, 600, 600] {
            attempts.miss(now, None, 0);
            assert_eq!(attempts.due() - now, expected);
        }
        assert_eq!(attempts.failed, [0; 0], "what did not reach the authority does not count there");
    }

    proptest! {
        /// However often the host restarts, and whatever fails: at most four failures in any hour.
        #[test]
        fn no_hour_has_more_failures(steps in prop::collection::vec((0..5_u64, any::<bool>(), any::<u32>()), 1..60)) {
            let (mut attempts, mut now, mut all) = (OrderAttempts::default(), 1_000_000, Vec::new());
            for (late, restart, chance) in steps {
                if restart {
                    let stored = serde_json::to_string(&attempts).unwrap();
                    attempts = serde_json::from_str::<OrderAttempts>(&stored).unwrap().bounded(now);
                }
                now = attempts.due().max(now) + late;
                attempts.fail(now, None, chance);
                all.push(now);
            }
            for window in all.windows(MOST_FAILED + 1) {
                prop_assert!(window[MOST_FAILED] - window[0] > 3_600, "{all:?}");
            }
        }
    }
}
