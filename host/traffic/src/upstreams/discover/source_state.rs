//! The state of one source: its last good result, how long that is used, and when to resolve it again. Pure.
//!
//! A failed lookup says nothing about replicas, so the last result stays in use while a source fails. A result without
//! replicas is believed only after a grace period without any other result. In both cases the first good result counts
//! at once.

use std::time::{Duration, Instant};

use super::{Endpoint, Pace};
use crate::upstreams::count;

/// The result of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resolution<T> {
    /// A value and its TTL.
    Good(T, Duration),
    /// There is nothing, and why.
    Empty(String),
    /// The lookup failed, and why.
    Failed(String),
}

impl<T> Resolution<T> {
    /// Returns why there is no value.
    pub(super) fn error(&self) -> Option<String> {
        match self {
            Self::Good(..) => None,
            Self::Empty(why) | Self::Failed(why) => Some(why.clone()),
        }
    }
}

/// The last good result of a source, and its failures since.
#[derive(Default)]
pub(super) struct SourceState {
    known: Vec<Endpoint>,
    /// Since when lookups find nothing.
    empty: Option<Instant>,
    failures: u32,
    /// Whether the current error was logged.
    logged: bool,
}

/// What follows from a result.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Update {
    /// Whether the replicas have changed.
    pub(super) changed: bool,
    /// The time until the next lookup.
    pub(super) next: Duration,
    /// A log message, and whether it is a warning.
    pub(super) message: Option<(String, bool)>,
}

/// The most doublings of the pause after failures.
const DOUBLINGS: u32 = 5;

impl SourceState {
    /// Returns the known replicas.
    pub(super) fn known(&self) -> &[Endpoint] {
        &self.known
    }

    /// Records a result. `jitter` is a random number that shortens the time until the next lookup by up to a fifth, so
    /// that hosts started together do not query together.
    pub(super) fn apply(
        &mut self,
        resolution: Resolution<Vec<Endpoint>>,
        now: Instant,
        pace: &Pace,
        jitter: u32,
    ) -> Update {
        let (next, changed, message) = match resolution {
            Resolution::Good(found, lasts) => {
                let (changed, message) = self.good(found);
                (lasts, changed, message)
            }
            Resolution::Empty(why) => self.nothing(&why, now, pace),
            Resolution::Failed(why) => {
                // A failed lookup restarts the grace period of empty results.
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
            recovered.then(|| format!("resolves again: {}", count(self.known.len())))
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
            let message = format!("{why} for {}: no replica is left", humantime::format_duration(pace.grace));
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
        // Resolved often during the grace period, but not every second, since the name may be gone for good.
        let next = if self.known.is_empty() { pace.least * (1 << DOUBLINGS) } else { left.min(pace.grace / 8) };
        (next, false, message)
    }

    fn stays(&self) -> String {
        match self.known.len() {
            0 => "no replicas are known".into(),
            1 => "1 replica stays in use".into(),
            known => format!("{known} replicas stay in use"),
        }
    }
}

/// The most addresses in one log message.
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
