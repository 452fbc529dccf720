//! What became of the calls of a service's schedules on this host.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::SystemTime;

use lodge_base::lock::lock;

/// How a call of a schedule ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// The service responded with this status, which is a success.
    Ok(u16),
    /// The service responded with this status, or did not respond in full.
    Failed(u16),
    /// It was not made: the service could not take it, or nothing ran the schedule.
    Missed,
    /// It was not made, because the one before it ran.
    Overlapped,
}

impl CallOutcome {
    /// Returns the name of the outcome, as in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok(_) => "ok",
            Self::Failed(_) => "failed",
            Self::Missed => "missed",
            Self::Overlapped => "overlapped",
        }
    }

    /// Returns the status of the response, if there was one.
    pub fn status(self) -> Option<u16> {
        match self {
            Self::Ok(status) | Self::Failed(status) => Some(status),
            Self::Missed | Self::Overlapped => None,
        }
    }
}

/// The last call of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastCall {
    /// When it ended.
    pub at: SystemTime,
    /// How it ended.
    pub outcome: CallOutcome,
    /// How many calls have failed since the last success.
    pub failed: u64,
}

/// The calls of a service's schedules, by path.
#[derive(Debug, Default)]
pub struct ScheduleCalls {
    last: Mutex<BTreeMap<String, LastCall>>,
    /// The number of calls that this host makes now.
    running: Mutex<BTreeMap<String, usize>>,
}

/// A call that runs, until it is dropped.
#[derive(Debug)]
pub struct RunningCall<'a>(&'a ScheduleCalls, &'a str);

impl Drop for RunningCall<'_> {
    fn drop(&mut self) {
        let Self(calls, path) = *self;
        let mut running = lock(&calls.running);
        if let Some(count) = running.get_mut(path) {
            *count -= 1;
            running.retain(|_, count| *count > 0);
        }
    }
}

impl ScheduleCalls {
    /// Records that a call of the schedule at `path` runs.
    pub fn begin<'a>(&'a self, path: &'a str) -> RunningCall<'a> {
        *lock(&self.running).entry(path.to_owned()).or_default() += 1;
        RunningCall(self, path)
    }

    /// Whether this host makes a call of the schedule at `path` now, also of one that the manifest does not name any more.
    pub fn is_running(&self, path: &str) -> bool {
        lock(&self.running).contains_key(path)
    }

    /// Forgets the calls of other schedules than those that call `paths`.
    pub fn retain<'a>(&self, paths: impl IntoIterator<Item = &'a str>) {
        let paths: Vec<_> = paths.into_iter().collect();
        lock(&self.last).retain(|path, _| paths.contains(&path.as_str()));
    }

    /// Records how a call of the schedule at `path` ended.
    pub fn record(&self, path: &str, outcome: CallOutcome, at: SystemTime) {
        let mut calls = lock(&self.last);
        let before = calls.get(path).map_or(0, |last| last.failed);
        let failed = match outcome {
            CallOutcome::Ok(_) => 0,
            CallOutcome::Failed(_) => before.saturating_add(1),
            CallOutcome::Missed | CallOutcome::Overlapped => before,
        };
        calls.insert(path.to_owned(), LastCall { at, outcome, failed });
    }

    /// Returns the last call of the schedule at `path`, if this host has made or counted one.
    pub fn last(&self, path: &str) -> Option<LastCall> {
        lock(&self.last).get(path).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn failures_are_counted_until_a_success() {
        let (calls, at) = (ScheduleCalls::default(), |seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        let failed = |seconds, outcome| {
            calls.record("/clean", outcome, at(seconds));
            let last = calls.last("/clean").unwrap();
            assert_eq!((last.at, last.outcome), (at(seconds), outcome));
            last.failed
        };
        assert_eq!(calls.last("/clean"), None);
        assert_eq!([failed(1, CallOutcome::Failed(404)), failed(2, CallOutcome::Failed(500))], [1, 2]);
        assert_eq!([failed(3, CallOutcome::Missed), failed(4, CallOutcome::Overlapped)], [2, 2]);
        assert_eq!([failed(5, CallOutcome::Failed(404)), failed(6, CallOutcome::Ok(204))], [3, 0]);
        calls.record("/other", CallOutcome::Missed, at(7));
        calls.retain(["/other", "/third"]);
        assert_eq!((calls.last("/clean"), calls.last("/other").is_some()), (None, true));
    }
}
