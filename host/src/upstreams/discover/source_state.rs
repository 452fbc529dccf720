//! What is known of one source: the last good answer, for how long it is kept, and when to ask again. Pure.
//!
//! A source that fails says nothing about replicas: what it said last stays, for as long as it fails. One that says
//! that there are none is believed after a time of grace, in which it has to say nothing else. Either way the first
//! good answer counts at once.

use std::time::{Duration, Instant};

use super::{Endpoint, Pace};
use crate::upstreams::count;

/// What a source answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resolution<T> {
    /// This, for so long.
    Good(T, Duration),
    /// That there is nothing, and in what words.
    Empty(String),
    /// Not at all, and why.
    Failed(String),
}

impl<T> Resolution<T> {
    /// Why nothing can be learnt from it.
    pub(super) fn error(&self) -> Option<String> {
        match self {
            Self::Good(..) => None,
            Self::Empty(why) | Self::Failed(why) => Some(why.clone()),
        }
    }
}

/// The last good answer of a source, and how it does.
#[derive(Default)]
pub(super) struct SourceState {
    known: Vec<Endpoint>,
    /// Since when it says that there is nothing.
    empty: Option<Instant>,
    failures: u32,
    /// Whether its trouble has been told.
    logged: bool,
}

/// What follows from an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Update {
    /// The replicas are others now.
    pub(super) changed: bool,
    /// When to ask again.
    pub(super) next: Duration,
    /// For the log; whether it is bad news.
    pub(super) message: Option<(String, bool)>,
}

/// Doublings of the pause between two tries of a source that fails.
const DOUBLINGS: u32 = 5;

impl SourceState {
    /// Its replicas, as far as is known.
    pub(super) fn known(&self) -> &[Endpoint] {
        &self.known
    }

    /// Takes an answer in. `jitter` is any number: it takes up to a fifth off the time until the next look, so that
    /// hosts that were started together do not ask together.
    pub(super) fn apply(
        &mut self,
        answer: Resolution<Vec<Endpoint>>,
        now: Instant,
        pace: &Pace,
        jitter: u32,
    ) -> Update {
        let (next, changed, message) = match answer {
            Resolution::Good(found, lasts) => {
                let (changed, message) = self.good(found);
                (lasts, changed, message)
            }
            Resolution::Empty(why) => self.nothing(&why, now, pace),
            Resolution::Failed(why) => {
                // It speaks again with this, and what it said before has to be said again.
                self.empty = None;
                let pause = pace.least * (1 << self.failures.min(DOUBLINGS));
                self.failures += 1;
                let message = (!self.logged).then(|| (format!("{why}; {}", self.stays()), true));
                self.logged = true;
                (pause, false, message)
            }
        };
        let next = next.clamp(pace.least, pace.most.max(pace.least));
        let next = next - next / 5 * (jitter % 1024) / 1024;
        Update { changed, next: next.max(pace.least), message }
    }

    fn good(&mut self, found: Vec<Endpoint>) -> (bool, Option<(String, bool)>) {
        let recovered = std::mem::take(&mut self.logged);
        (self.empty, self.failures) = (None, 0);
        let changed = found != self.known;
        let before = std::mem::replace(&mut self.known, found);
        let message = if changed {
            Some(difference(&before, &self.known))
        } else {
            recovered.then(|| format!("answers again: {}", count(self.known.len())))
        };
        (changed, message.map(|text| (text, false)))
    }

    fn nothing(&mut self, why: &str, now: Instant, pace: &Pace) -> (Duration, bool, Option<(String, bool)>) {
        self.failures = 0;
        let since = *self.empty.get_or_insert(now);
        let left = pace.grace.saturating_sub(now.saturating_duration_since(since));
        if !self.known.is_empty() && left.is_zero() {
            self.known.clear();
            self.logged = true;
            let message = format!("{why}, for {}: no replicas any more", humantime::format_duration(pace.grace));
            return (pace.least, true, Some((message, true)));
        }
        let message = (!self.logged).then(|| {
            let stays = if self.known.is_empty() {
                self.stays()
            } else {
                format!("{} for up to {}", self.stays(), humantime::format_duration(pace.grace))
            };
            (format!("{why}; {stays}"), true)
        });
        self.logged = true;
        // Asked often while it counts down, and not for every second of it: it may be down for good.
        let next = if self.known.is_empty() { pace.least * (1 << DOUBLINGS) } else { left.min(pace.grace / 8) };
        (next, false, message)
    }

    fn stays(&self) -> String {
        match self.known.len() {
            0 => "no replicas are known".into(),
            1 => "1 replica stays".into(),
            known => format!("{known} replicas stay"),
        }
    }
}

/// Addresses that are listed in a line of the log.
const LISTED: usize = 8;

fn difference(before: &[Endpoint], now: &[Endpoint]) -> String {
    let missing = |of: &[Endpoint], sign: char, from: &[Endpoint]| -> Vec<String> {
        let gone = of.iter().filter(|one| from.iter().all(|other| other.target != one.target));
        gone.map(|one| format!("{sign}{}", one.target.address)).collect()
    };
    let mut changes = missing(now, '+', before);
    changes.extend(missing(before, '-', now));
    if changes.is_empty() {
        return format!("{}, with other weights", count(now.len()));
    }
    let more = changes.len().saturating_sub(LISTED);
    changes.truncate(LISTED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}: {}{more}", count(now.len()), changes.join(" "))
}

#[cfg(test)]
mod tests;
