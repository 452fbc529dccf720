//! What hosts that share their state know of a schedule. Any of their clocks may be wrong, and no host knows which.
//!
//! An occurrence is called by the host whose claim comes first. Each host has one claim, its last, which the claims of others
//! do not replace: so a host whose clock is wrong takes no occurrence from those whose clocks are right, and lets none of them
//! call twice. A claim far ahead of a host's clock does not count for it, also when its time comes, and is removed once it has been
//! ahead for a while. Each host looks at the claims before an occurrence, when only a clock that is ahead can have claimed it.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::LATE;

/// The claims that are kept. The earliest goes first: it is of a host that is gone, or one whose clock is behind. A host whose clock is
/// ahead and that starts every few seconds leaves fewer than these until they are removed.
const MOST: usize = 64;

/// How long a claim is seen to be ahead before it is removed. If instead the clock of the host that sees it is behind, all
/// others have stopped trying to call the occurrence by then.
const DOUBT: Duration = LATE.saturating_mul(2);

/// How much the clock of this host and the time that has passed may differ between two operations. If they differ by more, the clock
/// was set, and what it said before is void.
const SET: Duration = Duration::from_secs(5);

/// The value in the store. Times are in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct CallRecord {
    /// The expression: of another one, no occurrence was missed.
    cron: String,
    /// When a host began to follow this expression.
    since: u64,
    claims: Vec<CallClaim>,
}

/// The last occurrence that a host has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct CallClaim {
    /// Which host, since which start.
    pub(super) by: u64,
    /// When the call is due.
    pub(super) due: u64,
}

/// The claims that were ahead of this host's clock, and when it has seen each first.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    seen: HashMap<CallClaim, Instant>,
    /// The last time of the host, by its clock and without it.
    clock: Option<(SystemTime, Instant)>,
}

impl Doubts {
    /// Forgets what was seen by a clock that was set since.
    pub(super) fn follow(&mut self, now: SystemTime, at: Instant) {
        let passes = |(then, before): (SystemTime, Instant)| {
            now.duration_since(then).is_ok_and(|passed| passed.abs_diff(at.duration_since(before)) <= SET)
        };
        if !self.clock.replace((now, at)).is_none_or(passes) {
            self.seen.clear();
        }
    }

    /// Whether a claim counts for this host.
    fn admit(&self, claim: &CallClaim, now: SystemTime) -> bool {
        !is_ahead(claim.due, now) && !self.seen.contains_key(claim)
    }
}

/// Returns `time` in seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl CallRecord {
    /// Reads a value of the store. Anything else than a record counts as none.
    pub(super) fn read(value: &[u8]) -> Self {
        let mut record: Self = serde_json::from_slice(value).unwrap_or_default();
        record.claims.truncate(MOST);
        record
    }

    /// Returns the value for the store.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Begins with an expression. Returns the last occurrence before `now` that was claimed, or since when hosts follow the
    /// expression; `None` if it is another one than before.
    pub(super) fn begin(&mut self, cron: &str, now: SystemTime) -> Option<SystemTime> {
        if self.cron == cron {
            return self.last(&Doubts::default(), now);
        }
        (self.cron, self.since) = (cron.to_owned(), seconds(now));
        None
    }

    /// The last occurrence that was claimed, as far as the clock allows it.
    fn last(&self, doubts: &Doubts, now: SystemTime) -> Option<SystemTime> {
        let claims = self.claims.iter().filter(|claim| doubts.admit(claim, now)).map(|claim| claim.due);
        let last = claims.chain([self.since]).filter(|time| *time > 0 && !is_ahead(*time, now)).max()?;
        Some(UNIX_EPOCH + Duration::from_secs(last))
    }

    /// Claims an occurrence, unless another host has claimed it, or a later one. Repeated by the same host, it returns the
    /// same: the first result may have been lost.
    pub(super) fn claim(&mut self, claim: CallClaim, doubts: &Doubts, now: SystemTime) -> bool {
        if self.claims.contains(&claim) {
            return true;
        }
        if self.claims.iter().any(|known| known.due >= claim.due && doubts.admit(known, now)) {
            return false;
        }
        self.claims.retain(|known| known.by != claim.by);
        self.claims.sort_unstable_by_key(|known| known.due);
        let over = (self.claims.len() + 1).saturating_sub(MOST);
        self.claims.drain(..over);
        self.claims.push(claim);
        true
    }

    /// Claims `until`, for all occurrences that were not called before it, and returns the time of the last one before them, not
    /// before `after`; `None` if another host has called them, or counts them.
    pub(super) fn miss(
        &mut self,
        after: SystemTime,
        until: CallClaim,
        doubts: &Doubts,
        now: SystemTime,
    ) -> Option<SystemTime> {
        let after = self.last(doubts, now).map_or(after, |last| last.max(after));
        (seconds(after) < until.due && self.claim(until, doubts, now)).then_some(after)
    }

    /// Removes the claims that have been ahead of the clock for a while. Those that are ahead now count no more. Returns how far a claim
    /// is ahead that was not in doubt before.
    pub(super) fn doubt(&mut self, doubts: &mut Doubts, now: SystemTime, at: Instant) -> Option<Duration> {
        let ahead = |claim: &CallClaim| is_ahead(claim.due, now);
        doubts.seen.retain(|claim, _| self.claims.contains(claim));
        let mut far = None;
        for claim in self.claims.iter().filter(|claim| ahead(claim)) {
            doubts.seen.entry(*claim).or_insert_with(|| {
                far = far.max(Some(claim.due.saturating_sub(seconds(now))));
                at
            });
        }
        let is_brief = |claim: &CallClaim| doubts.seen.get(claim).is_none_or(|first| at.duration_since(*first) < DOUBT);
        self.claims.retain(|claim| !ahead(claim) || is_brief(claim));
        far.map(Duration::from_secs)
    }
}

/// Whether a time is so far ahead that one of two clocks is wrong.
fn is_ahead(time: u64, now: SystemTime) -> bool {
    time > seconds(now).saturating_add(LATE.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;
    const DAY: u64 = 86_400;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn claim(by: u64, due: u64) -> CallClaim {
        CallClaim { by, due }
    }

    fn none() -> &'static Doubts {
        static NONE: std::sync::LazyLock<Doubts> = std::sync::LazyLock::new(Doubts::default);
        &NONE
    }

    #[test]
    fn an_occurrence_is_claimed_once() {
        let mut record = CallRecord::default();
        assert!(record.claim(claim(1, NOW), none(), at(NOW)));
        assert!(record.claim(claim(1, NOW), none(), at(NOW)), "the result was lost");
        assert!(!record.claim(claim(2, NOW), none(), at(NOW)));
        assert!(!record.claim(claim(2, NOW - 60), none(), at(NOW)), "an earlier one is over");
        assert!(record.claim(claim(2, NOW + 60), none(), at(NOW + 60)));
        assert!(!record.claim(claim(1, NOW + 30), none(), at(NOW + 60)), "and one that nobody has claimed, too");
        assert!(record.claim(claim(1, NOW), none(), at(NOW + 60)), "the result of its own was lost");
        assert_eq!(CallRecord::read(&record.to_bytes()), record);
        for other in ["", "1800000000", "{}", "[]", "{\"claims\":[{}]}"] {
            assert_eq!(CallRecord::read(other.as_bytes()), CallRecord::default(), "{other}");
        }
    }

    /// One that stands between two calls of others does not let them make it twice.
    #[test]
    fn a_claim_ahead_stops_nobody_and_hides_nothing() {
        let mut record = CallRecord::default();
        assert!(record.claim(claim(1, NOW), none(), at(NOW)));
        assert!(record.claim(claim(9, NOW + DAY), none(), at(NOW + DAY)), "its clock is ahead");
        assert!(!record.claim(claim(2, NOW), none(), at(NOW)));
        assert!(record.claim(claim(2, NOW + 1), none(), at(NOW + 1)));
        assert!(!record.claim(claim(1, NOW + 1), none(), at(NOW + 1)));
        assert!(record.claim(claim(8, 60), none(), at(60)), "its clock is in 1970");
        assert!(!record.claim(claim(1, NOW + 1), none(), at(NOW + 2)));
        // However many there are, the latest ones stay.
        for by in 100..200 {
            assert!(record.claim(claim(by, by), none(), at(by)));
        }
        assert!(!record.claim(claim(1, NOW + 1), none(), at(NOW + 2)));
        assert_eq!(record.claims.len(), MOST);
        // A host whose clock is ahead starts every two seconds until the first of its claims is removed.
        for by in 200..200 + DOUBT.as_secs() / 2 {
            assert!(record.claim(claim(by, NOW + DAY + by), none(), at(NOW + DAY + by)));
        }
        assert!(!record.claim(claim(1, NOW + 1), none(), at(NOW + 2)), "the call is made twice");
    }

    /// Its own clock cannot tell whether a claim was made early, once its time has come.
    #[test]
    fn a_claim_that_came_early_never_counts() {
        let (mut record, mut doubts, start) = (CallRecord::default(), Doubts::default(), Instant::now());
        let look = |record: &mut CallRecord, doubts: &mut Doubts, now: u64, later: u64| {
            let (now, later) = (at(now), start + Duration::from_secs(later));
            doubts.follow(now, later);
            record.doubt(doubts, now, later)
        };
        assert!(record.claim(claim(9, NOW), none(), at(NOW)));
        assert!(look(&mut record, &mut doubts, NOW - 65, 0).is_some());
        assert_eq!(look(&mut record, &mut doubts, NOW - 2, 63), None);
        assert_eq!(record.miss(at(NOW - 90), claim(2, NOW - 1), &doubts, at(NOW - 1)), Some(at(NOW - 90)));
        assert!(record.claim(claim(1, NOW), &doubts, at(NOW)));
        assert!(!record.claim(claim(2, NOW), &doubts, at(NOW)), "that of a host with a right clock counts");
        // The clock of this host was behind, and was set.
        let (mut record, mut doubts) = (CallRecord::default(), Doubts::default());
        assert!(record.claim(claim(9, NOW), none(), at(NOW)));
        assert!(look(&mut record, &mut doubts, NOW - 65, 100).is_some());
        assert_eq!(look(&mut record, &mut doubts, NOW, 101), None);
        assert!(!record.claim(claim(1, NOW), &doubts, at(NOW + 1)));
    }

    #[test]
    fn a_claim_ahead_is_told_once_and_removed_later() {
        let (mut record, mut doubts, start) = (CallRecord::default(), Doubts::default(), Instant::now());
        record.claim(claim(1, NOW), none(), at(NOW));
        record.claim(claim(9, NOW + DAY), none(), at(NOW + DAY));
        let mut look = |record: &mut CallRecord, later: u64| {
            record.doubt(&mut doubts, at(NOW + later), start + Duration::from_secs(later))
        };
        assert_eq!(look(&mut record, 0), Some(Duration::from_secs(DAY)));
        for (later, kept) in [(60, 2), (119, 2), (120, 1)] {
            assert_eq!(look(&mut record, later), None, "{later}");
            assert_eq!(record.claims.len(), kept, "{later}");
        }
        // It would have counted when its time comes.
        assert!(record.claim(claim(1, NOW + DAY - 10), none(), at(NOW + DAY - 10)));
        // One whose time comes before was in no doubt.
        record.claim(claim(2, NOW + DAY + 90), none(), at(NOW + DAY));
        assert!(look(&mut record, DAY).is_some());
        assert_eq!((look(&mut record, DAY + 60), look(&mut record, DAY + 400)), (None, None));
        assert_eq!(record.claims.len(), 2);
    }

    #[test]
    fn only_a_known_expression_has_a_last_occurrence() {
        let mut record = CallRecord::default();
        assert_eq!(record.begin("a", at(NOW)), None);
        assert_eq!(record.begin("a", at(NOW + 5)), Some(at(NOW)), "followed, and not called yet");
        record.claim(claim(1, NOW + 60), none(), at(NOW + 60));
        assert_eq!(record.begin("a", at(NOW + 70)), Some(at(NOW + 60)));
        assert_eq!(record.begin("b", at(NOW + 80)), None, "another expression");
        assert_eq!(record.begin("b", at(NOW + 90)), Some(at(NOW + 80)));
        assert_eq!(record.begin("b", at(60)), None, "all of it is ahead");
    }

    #[test]
    fn missed_calls_are_counted_by_one_host_and_not_those_that_others_made() {
        let mut record = CallRecord::default();
        record.claim(claim(1, NOW), none(), at(NOW));
        let later = NOW + DAY;
        assert_eq!(
            record.miss(at(NOW - 60), claim(2, later), none(), at(later)),
            Some(at(NOW)),
            "those before were called"
        );
        assert_eq!(record.miss(at(NOW), claim(3, later), none(), at(later)), None);
        assert_eq!(record.miss(at(NOW), claim(3, later - 5), none(), at(later)), None);
        assert_eq!(record.miss(at(NOW), claim(3, later + 5), none(), at(later + 5)), Some(at(later)));
    }
}
