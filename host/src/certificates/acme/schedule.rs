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

/// The longest pause that an authority can ask for, in seconds.
const MOST_WAIT: u64 = 24 * 3_600;

/// The least and the longest pause after a success, in seconds.
const REST: (u64, u64) = (30, 3_600);

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
    /// When the last attempts failed. An order in progress counts as failed until it succeeds, also after a crash.
    failed: Vec<u64>,
    /// Failures since the last success.
    in_a_row: usize,
    /// The time before which the authority wants no attempt.
    wait: u64,
    /// The time before which a certificate that was issued is not renewed.
    rest: u64,
    /// Whether the last one of `failed` is an order in progress.
    #[serde(skip)]
    begun: bool,
    /// Attempts since the last one that reached the authority. They are not stored.
    #[serde(skip)]
    unreachable: usize,
    /// When the next attempt is due after failures of this process.
    #[serde(skip)]
    next: u64,
}

impl OrderAttempts {
    /// Records that an order begins. An order of the same attempt, with another account, takes its place.
    pub(super) fn begin(&mut self, now: u64) {
        if self.begun {
            self.failed.pop();
        } else {
            self.in_a_row = self.in_a_row.saturating_add(1);
        }
        self.begun = true;
        // No two have one time, by which those of a file and of this process are told apart.
        self.failed.push(self.failed.last().map_or(now, |last| now.max(last.saturating_add(1))));
        let old = self.failed.len().saturating_sub(MOST_FAILED);
        self.failed.drain(..old);
    }

    /// Records that the authority refused, or that the certificate could not be used. `chance` shortens no pause.
    pub(super) fn fail(&mut self, now: u64, wait: Option<u64>, chance: u32) {
        self.begin(now);
        self.begun = false;
        self.unreachable = 0;
        self.wait = wait.unwrap_or(0);
        let pause = PAUSES.get(self.in_a_row.saturating_sub(1)).or(PAUSES.last()).copied().unwrap_or(WINDOW);
        self.next = now.saturating_add(with_jitter(pause, chance));
    }

    /// Records that the authority could not be reached. An order that had begun by then counts.
    pub(super) fn miss(&mut self, now: u64, wait: Option<u64>, chance: u32) {
        self.begun = false;
        let pause = UNREACHABLE.get(self.unreachable).or(UNREACHABLE.last()).copied().unwrap_or(WINDOW);
        self.unreachable = self.unreachable.saturating_add(1);
        self.wait = wait.unwrap_or(0);
        self.next = now.saturating_add(with_jitter(pause, chance));
    }

    /// Forgets the failures. `left` is how long the certificate is valid, in seconds: one that is due soon is no reason to order
    /// without a pause.
    pub(super) fn succeed(&mut self, now: u64, left: u64) {
        *self = Self { rest: now.saturating_add((left / 3).clamp(REST.0, REST.1)), ..Self::default() };
    }

    /// Returns the earliest time at which a certificate that can be used is renewed.
    pub(super) fn rest(&self) -> u64 {
        self.rest
    }

    /// Returns the earliest time of the next attempt: after the pause, what the authority wants, and at most [`MOST_FAILED`]
    /// failures an hour. A process that has just started makes no pause, since somebody may have mended what was wrong.
    pub(super) fn due(&self) -> u64 {
        let full = self.failed.len() >= MOST_FAILED;
        let hour = self.failed.first().filter(|_| full).map_or(0, |oldest| oldest.saturating_add(WINDOW));
        self.next.max(self.wait).max(hour)
    }

    /// Removes what cannot be true from the content of a file, which may be anything. To bound it instead would move it on at every
    /// look.
    pub(super) fn plausible(mut self, now: u64) -> Self {
        self.failed.retain(|at| *at <= now.saturating_add(MOST_FAILED as u64));
        let soon = |at: u64, most: u64| if at > now.saturating_add(most) { 0 } else { at };
        (self.wait, self.rest) = (soon(self.wait, MOST_WAIT), soon(self.rest, REST.1));
        self
    }

    /// Adds what other processes of the directory have done, and bounds all times: a clock that was ahead must not stop renewals.
    pub(super) fn look(&mut self, stored: Self, now: u64) {
        self.failed.extend(stored.failed);
        let late = now.saturating_add(MOST_FAILED as u64);
        self.failed.iter_mut().filter(|at| **at > late).for_each(|at| *at = now);
        self.failed.sort_unstable();
        self.failed.dedup();
        let old = self.failed.len().saturating_sub(MOST_FAILED);
        self.failed.drain(..old);
        self.in_a_row = self.in_a_row.max(stored.in_a_row);
        let bounded = |at: u64, most: u64| at.min(now.saturating_add(most));
        self.wait = bounded(self.wait.max(stored.wait), MOST_WAIT);
        self.rest = bounded(self.rest.max(stored.rest), REST.1);
        self.next = bounded(self.next, PAUSES.last().map_or(WINDOW, |most| with_jitter(*most, u32::MAX)));
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
        attempts.succeed(now, 0);
        assert_eq!(attempts.due(), 0);
        for expected in [5, 10, 20, 40, 80, 160, 320, 600, 600] {
            attempts.miss(now, None, 0);
            assert_eq!(attempts.due() - now, expected);
        }
        assert_eq!(attempts.failed, [0; 0], "what did not reach the authority does not count there");
    }

    /// After a success there is a pause, also if the certificate is due at once. A clock that was ahead stops nothing for long.
    #[test]
    fn successes_have_pauses_and_clocks_are_mended() {
        let (now, mut attempts) = (1_000_000, OrderAttempts::default());
        for (left, pause) in [(0, 30), (45, 30), (300, 100), (90 * 86_400, 3_600)] {
            attempts.succeed(now, left);
            assert_eq!((attempts.rest() - now, attempts.due()), (pause, 0), "{left}");
        }
        let ahead = now + 365 * 86_400;
        attempts.begin(ahead);
        attempts.fail(ahead, Some(ahead + 86_400), 0);
        attempts.rest = ahead;
        let file = attempts.clone();
        let look = |attempts: &mut OrderAttempts, now| {
            attempts.look(file.clone().plausible(now), now);
            (attempts.due(), attempts.rest())
        };
        let first = look(&mut attempts, now);
        assert_eq!(first, (now + MOST_WAIT, now + REST.1));
        assert_eq!(look(&mut attempts, now + 60), first, "looking again does not move it on");
    }

    proptest! {
        /// However often the host restarts, also during an order, and whatever fails: at most four orders that did not succeed in any
        /// hour.
        #[test]
        fn no_hour_has_more_failures(
            steps in prop::collection::vec((0..5_u64, any::<bool>(), 0..4_u8, any::<u32>()), 1..60)
        ) {
            let (mut attempts, mut now, mut all) = (OrderAttempts::default(), 1_000_000, Vec::new());
            let mut file = String::from("{}");
            for (late, restart, how, chance) in steps {
                if restart {
                    attempts = OrderAttempts::default();
                }
                attempts.look(serde_json::from_str::<OrderAttempts>(&file).unwrap().plausible(now), now);
                now = attempts.due().max(now) + late;
                attempts.begin(now);
                all.push(now);
                file = serde_json::to_string(&attempts).unwrap();
                now += 1;
                match how {
                    // The process ends, or panics and starts anew.
                    0 => attempts = OrderAttempts::default(),
                    1 => attempts.miss(now, None, chance),
                    _ => attempts.fail(now, None, chance),
                }
                if how > 0 {
                    file = serde_json::to_string(&attempts).unwrap();
                }
            }
            for window in all.windows(MOST_FAILED + 1) {
                prop_assert!(window[MOST_FAILED] - window[0] > 3_600, "{all:?}");
            }
        }
    }
}
