//! Decides which content of a file of replicas is used: content that two consecutive reads found or, if the file
//! changes at every read, the last content that could be parsed. Pure: no clock, no I/O.
//!
//! A file may be half written, and half of an address is the address of another server. A file that changes all the
//! time would leave outdated replicas in use, so that time is bounded.

use std::time::{Duration, Instant};

/// How long a file may change at every read before its last parsable content is used.
pub(super) const CHANGING: Duration = Duration::from_secs(10);

/// The reads of one file.
#[derive(Default)]
pub(super) struct FileSettling {
    /// Whether the file was read before, even if it was missing.
    has_looked: bool,
    /// The content in use, or known to be invalid.
    taken: Option<String>,
    /// The content of the last read, if it differs.
    seen: Option<String>,
    /// When the file was first found to differ from the content in use.
    since: Option<Instant>,
    /// The last parsable content since then.
    readable: Option<String>,
}

/// What to do after a read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// The content is the one in use.
    Same,
    /// Read again: the file may be half written.
    Wait,
    /// Use this content.
    Take {
        text: String,
        /// Whether two reads found it. Otherwise the file has changed at every read for [`CHANGING`].
        settled: bool,
    },
}

impl FileSettling {
    /// Records that the file could not be read.
    pub(super) fn unreadable(&mut self) {
        self.has_looked = true;
    }

    /// Records the content of a read. The first one is used at once, since the file was there before.
    pub(super) fn look(&mut self, found: String, now: Instant, is_readable: impl Fn(&str) -> bool) -> ReadOutcome {
        if self.taken.as_ref() == Some(&found) {
            self.settle(found);
            return ReadOutcome::Same;
        }
        let is_first = !std::mem::replace(&mut self.has_looked, true);
        if is_first || self.seen.as_ref() == Some(&found) {
            self.settle(found.clone());
            return ReadOutcome::Take { text: found, settled: true };
        }
        // The last line may be cut off if no newline ends it.
        let is_whole = |text: &str| text.ends_with('\n');
        let was_whole = self.readable.as_deref().is_some_and(is_whole);
        if (is_whole(&found) || !was_whole) && is_readable(&found) {
            self.readable = Some(found.clone());
        }
        self.seen = Some(found);
        let since = *self.since.get_or_insert(now);
        match self.readable.take_if(|_| now.saturating_duration_since(since) >= CHANGING) {
            Some(text) => {
                (self.taken, self.since) = (Some(text.clone()), Some(now));
                ReadOutcome::Take { text, settled: false }
            }
            None => ReadOutcome::Wait,
        }
    }

    fn settle(&mut self, text: String) {
        *self = Self { has_looked: true, taken: Some(text), ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads once per second. The first read finds `first`, the later ones `content` of their number.
    fn looks(content: impl Fn(u64) -> String) -> impl Iterator<Item = ReadOutcome> {
        let (mut settling, start) = (FileSettling::default(), Instant::now());
        let readable = |text: &str| !text.contains("half");
        assert_eq!(
            settling.look("first".into(), start, readable),
            ReadOutcome::Take { text: "first".into(), settled: true }
        );
        (1..).map(move |second| settling.look(content(second), start + Duration::from_secs(second), readable))
    }

    fn take(text: &str, settled: bool) -> ReadOutcome {
        ReadOutcome::Take { text: text.into(), settled }
    }

    #[test]
    fn two_equal_reads_are_settled() {
        let found = ["half", "new", "new", "new", "first", "new", "first"];
        let looks: Vec<_> = looks(|second| found[second as usize - 1].into()).take(found.len()).collect();
        let expected = [
            ReadOutcome::Wait,
            ReadOutcome::Wait,
            take("new", true),
            ReadOutcome::Same,
            ReadOutcome::Wait,
            ReadOutcome::Same,
            ReadOutcome::Wait,
        ];
        assert_eq!(looks, expected);
    }

    /// A file that appears later may be half written.
    #[test]
    fn a_file_that_was_not_there_has_to_settle() {
        let (mut settling, now) = (FileSettling::default(), Instant::now());
        settling.unreadable();
        assert_eq!(settling.look("half".into(), now, |_| true), ReadOutcome::Wait);
        assert_eq!(settling.look("new".into(), now, |_| true), ReadOutcome::Wait);
        assert_eq!(settling.look("new".into(), now, |_| true), take("new", true));
    }

    /// A file that differs at every read is used once in ten seconds, with its last parsable content.
    #[test]
    fn a_file_that_never_settles_is_used() {
        let content = |second: u64| match second {
            9..=11 => format!("half of {second}"),
            _ => second.to_string(),
        };
        let taken: Vec<_> = looks(content).zip(1..=31).filter(|(look, _)| *look != ReadOutcome::Wait).collect();
        assert_eq!(taken, [(take("8", false), 11), (take("21", false), 21), (take("31", false), 31)]);
        // Content whose last line is complete is preferred to later content that may be cut off.
        let cut = |second: u64| if second == 3 { "3\n".into() } else { second.to_string() };
        assert_eq!(looks(cut).nth(10), Some(take("3\n", false)));
        // Nothing is parsable: the content in use stays.
        assert!(looks(|second| format!("half {second}")).take(100).all(|look| look == ReadOutcome::Wait));
        // A read that finds the content in use restarts the count.
        let pause = |second: u64| if second == 9 { "first".into() } else { second.to_string() };
        assert_eq!(looks(pause).take(19).filter(|look| matches!(look, ReadOutcome::Take { .. })).count(), 0);
    }
}
