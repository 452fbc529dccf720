//! Why a list or a watch ended, and when the next one begins. Pure.

use std::time::Duration;

use http::StatusCode;

use super::lines::LongLine;
use lodge_base::telemetry::logs::foreign_line;

/// The longest wait that a server can ask for with `Retry-After`.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// The most doublings of the pause.
const DOUBLINGS: u32 = 5;
/// Failures in a row after which the server may be another one: a new list is needed, even if versions seem to match.
/// Before, a version that is too old is no failure of the source: it is what follows a pause of the host.
const MANY: u32 = 3;

/// The most characters of a message of the server that are shown.
const MESSAGE: usize = 300;

/// Why a list or a watch ended.
#[derive(Debug)]
pub(super) struct WatchFailure {
    /// One line.
    pub(super) why: String,
    /// The time that the server asked to wait.
    after: Option<Duration>,
    /// The status of the response.
    status: Option<StatusCode>,
    /// Whether a watch can go on where this one ended.
    pub(super) can_resume: bool,
    /// So many failures in a row, with this one, are none of the source.
    tolerated: u32,
    /// Whether a watch was open and silent.
    is_silence: bool,
}

/// The failures since something succeeded.
#[derive(Debug, Default)]
pub(super) struct Failures {
    count: u32,
    /// Why the source fails although lists succeed.
    silence: Option<String>,
}

impl WatchFailure {
    /// A failure after which a new list is needed.
    pub(super) fn new(why: String) -> Self {
        Self { why, after: None, status: None, can_resume: false, tolerated: 0, is_silence: false }
    }

    /// A watch broke off, as balancers and restarts of the server break them off. It can go on.
    pub(super) fn broke_off(why: String) -> Self {
        Self { tolerated: MANY - 1, ..Self::new(why).and_resume() }
    }

    /// The server no longer has the changes since a version.
    pub(super) fn gone(why: String) -> Self {
        Self::new(why).with_status(StatusCode::GONE)
    }

    /// A watch said nothing for longer than servers say nothing: events may have been lost. A connection can die once.
    pub(super) fn silent(why: String) -> Self {
        Self { tolerated: 1, is_silence: true, ..Self::new(why) }
    }

    pub(super) fn after(mut self, after: Option<Duration>) -> Self {
        self.after = after.map(|after| after.min(LONGEST_WAIT));
        self
    }

    /// The same failure, after which the watch can go on.
    pub(super) fn and_resume(self) -> Self {
        Self { can_resume: true, ..self }
    }

    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// Whether the same request may succeed later: there was no response, or one that says so.
    pub(super) fn is_passing(&self) -> bool {
        let passing = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
        self.status.is_none_or(|status| status.is_server_error() || passing.contains(&status))
    }

    /// Whether the response had this status.
    pub(super) fn is(&self, status: StatusCode) -> bool {
        self.status == Some(status)
    }
}

impl From<LongLine> for WatchFailure {
    fn from(_: LongLine) -> Self {
        Self::new("an event is larger than an object of Kubernetes can be".into())
    }
}

impl Failures {
    /// Records a failure. Returns the pause before the next request, and whether the source fails. `jitter` is a random
    /// number: of a pause that doubles from `least` on, the last half is random, so that hosts do not return together.
    pub(super) fn add(&mut self, failure: &WatchFailure, least: Duration, jitter: u32) -> (Duration, bool) {
        let pause = least * (1 << self.count.min(DOUBLINGS));
        self.count = self.count.saturating_add(1);
        let pause = pause - pause / 2 * (jitter % 1024) / 1024;
        let tolerated = if failure.is(StatusCode::GONE) { MANY - 1 } else { failure.tolerated };
        let fails = self.count > tolerated;
        if fails && failure.is_silence {
            self.silence = Some(failure.why.clone());
        }
        (pause.max(failure.after.unwrap_or_default()), fails)
    }

    /// Why the source fails, even while lists succeed, until a watch says something.
    pub(super) fn silence(&self) -> Option<&String> {
        self.silence.as_ref()
    }

    /// Whether there are so many that nothing is to be taken from before them.
    pub(super) fn are_many(&self) -> bool {
        self.count >= MANY
    }

    /// Records a success.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Returns a message of the server as a part of one line.
pub(super) fn legible(message: &str) -> String {
    foreign_line(message, MESSAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let (second, failure) = (Duration::from_secs(1), WatchFailure::new("it failed".into()));
        let mut failures = Failures::default();
        let pauses: Vec<_> = (0..8).map(|_| failures.add(&failure, second, 0)).collect();
        assert_eq!(pauses.iter().map(|(pause, _)| pause.as_secs()).collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 32, 32]);
        assert!(pauses.iter().all(|(_, fails)| *fails));
        // At least half of it.
        let (pause, _) = failures.add(&failure, second, 1023);
        assert!(pause > second * 16 && pause < second * 17, "{pause:?}");
        failures.clear();
        assert_eq!(failures.add(&failure, second, 0).0, second);
        // What the server asks for counts if it is longer, within a bound.
        let wait = |seconds| WatchFailure::new(String::new()).after(Some(Duration::from_secs(seconds)));
        assert_eq!(failures.add(&wait(1), second, 0).0, second * 2);
        assert_eq!(failures.add(&wait(60), second, 0).0, second * 60);
        assert_eq!(failures.add(&wait(u64::MAX), second, 0).0, second * 300);
    }

    #[test]
    fn a_list_that_is_too_old_is_no_failure_at_first() {
        let mut failures = Failures::default();
        let gone = || WatchFailure::gone("expired".into());
        let fails: Vec<_> = (0..4).map(|_| failures.add(&gone(), Duration::from_secs(1), 0).1).collect();
        assert_eq!(fails, [false, false, true, true]);
    }

    /// One watch that breaks off is no failure, and a silent one is none the first time. That of silent ones lasts.
    #[test]
    fn watches_end_without_a_failure() {
        let fails = |failure: &dyn Fn() -> WatchFailure| {
            let mut failures = Failures::default();
            let fails: Vec<_> = (0..4).map(|_| failures.add(&failure(), Duration::from_secs(1), 0).1).collect();
            (fails, failures.silence().cloned(), failure().can_resume)
        };
        assert_eq!(fails(&|| WatchFailure::broke_off("cut".into())), (vec![false, false, true, true], None, true));
        let silent = || WatchFailure::silent("nothing".into());
        assert_eq!(fails(&silent), (vec![false, true, true, true], Some("nothing".into()), false));
        let mut failures = Failures::default();
        for _ in 0..2 {
            failures.add(&silent(), Duration::ZERO, 0);
        }
        assert!(failures.silence().is_some());
        failures.clear();
        assert!(failures.silence().is_none());
    }
}
