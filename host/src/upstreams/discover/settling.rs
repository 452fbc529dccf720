//! Which content of a file of replicas is used: one that two looks in a row have found, or, of a file that changes at every
//! look, the last one that could be read. Pure: no clock, no I/O.
//!
//! A file may be half written, and half of an address is the address of another server. A file that is never found twice
//! would keep the replicas of long ago, so there is a bound on that.

use std::time::{Duration, Instant};

/// How long a file may change at every look before its last readable content is used.
pub(super) const CHANGING: Duration = Duration::from_secs(10);

/// The looks at one file.
#[derive(Default)]
pub(super) struct Settling {
    /// Whether there was a look, which may have found no file.
    has_looked: bool,
    /// The content in use, or found to be wrong.
    taken: Option<String>,
    /// What the last look found, if that is another one.
    seen: Option<String>,
    /// When it was found for the first time that the content in use is not what the file has.
    since: Option<Instant>,
    /// The last readable content since then.
    readable: Option<String>,
}

/// What to do after a look.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// The content is that in use.
    Same,
    /// Look again: the file may be half written.
    Wait,
    /// Use this content.
    Take {
        text: String,
        /// Two looks have found it; otherwise the file has changed at every look for [`CHANGING`].
        settled: bool,
    },
}

impl Settling {
    /// Takes in that a look could not read the file.
    pub(super) fn unreadable(&mut self) {
        self.has_looked = true;
    }

    /// Takes in what a look has found. The first look of all is believed at once, since the file was there before.
    pub(super) fn look(&mut self, found: String, now: Instant, is_readable: impl Fn(&str) -> bool) -> Look {
        if self.taken.as_ref() == Some(&found) {
            self.settle(found);
            return Look::Same;
        }
        let is_first = !std::mem::replace(&mut self.has_looked, true);
        if is_first || self.seen.as_ref() == Some(&found) {
            self.settle(found.clone());
            return Look::Take { text: found, settled: true };
        }
        // The last line may be cut off where nothing ends it.
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
                Look::Take { text, settled: false }
            }
            None => Look::Wait,
        }
    }

    fn settle(&mut self, text: String) {
        *self = Self { has_looked: true, taken: Some(text), ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks a second apart at what `content` gives for each, from the second one on; the first finds `first`.
    fn looks(content: impl Fn(u64) -> String) -> impl Iterator<Item = Look> {
        let (mut settling, start) = (Settling::default(), Instant::now());
        let readable = |text: &str| !text.contains("half");
        assert_eq!(settling.look("first".into(), start, readable), Look::Take { text: "first".into(), settled: true });
        (1..).map(move |second| settling.look(content(second), start + Duration::from_secs(second), readable))
    }

    fn take(text: &str, settled: bool) -> Look {
        Look::Take { text: text.into(), settled }
    }

    #[test]
    fn twice_in_a_row_is_settled() {
        let found = ["half", "new", "new", "new", "first", "new", "first"];
        let looks: Vec<_> = looks(|second| found[second as usize - 1].into()).take(found.len()).collect();
        let expected = [Look::Wait, Look::Wait, take("new", true), Look::Same, Look::Wait, Look::Same, Look::Wait];
        assert_eq!(looks, expected);
    }

    /// A file that appears later may be half written.
    #[test]
    fn a_file_that_was_not_there_has_to_settle() {
        let (mut settling, now) = (Settling::default(), Instant::now());
        settling.unreadable();
        assert_eq!(settling.look("half".into(), now, |_| true), Look::Wait);
        assert_eq!(settling.look("new".into(), now, |_| true), Look::Wait);
        assert_eq!(settling.look("new".into(), now, |_| true), take("new", true));
    }

    /// A file that is another at every look is used once in ten seconds, as it was when it could be read last.
    #[test]
    fn a_file_that_never_settles_is_used() {
        let content = |second: u64| match second {
            9..=11 => format!("half of {second}"),
            _ => second.to_string(),
        };
        let taken: Vec<_> = looks(content).zip(1..=31).filter(|(look, _)| *look != Look::Wait).collect();
        assert_eq!(taken, [(take("8", false), 11), (take("21", false), 21), (take("31", false), 31)]);
        // A last line that ends is worth more than a later one that may be cut off.
        let cut = |second: u64| if second == 3 { "3\n".into() } else { second.to_string() };
        assert_eq!(looks(cut).nth(10), Some(take("3\n", false)));
        // Nothing that can be read: what is in use stays.
        assert!(looks(|second| format!("half {second}")).take(100).all(|look| look == Look::Wait));
        // A gap in which it was as it is used ends the count.
        let pause = |second: u64| if second == 9 { "first".into() } else { second.to_string() };
        assert_eq!(looks(pause).take(19).filter(|look| matches!(look, Look::Take { .. })).count(), 0);
    }
}
