//! The time that a request has, and from when on its end is the doing of whoever gave it less.
//!
//! Services that call others choose how long a request may take, and so does another host of the cluster that forwards one. A failure
//! that may follow from this choice says nothing about the service and its replicas. Nobody else chooses: a client that could would hide
//! failures, or cause them.

use std::time::{Duration, Instant};

/// The part of its own limit that a service needs for its failures to be its own. Less than all, because the caller of a service with
/// the same limit has used some time before it calls.
const ENOUGH: f32 = 0.9;

/// The part of a shorter time after which a failure may be due to that. What a guest waits for ends after nine tenths of the time that
/// is left, and then the guest may respond with a failure of its own.
const SAFE: f32 = 0.8;

/// The time that a request has.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimit {
    /// When it is over.
    pub deadline: Instant,
    /// From when on a failure may be due to the caller; `None` if that has left enough time.
    pub(super) excused: Option<Instant>,
}

impl TimeLimit {
    /// Returns the time of a request that is admitted at `start` to a service with the limit `wall`, and for which its caller waits
    /// until `until`.
    pub fn new(start: Instant, wall: Duration, until: Option<Instant>) -> Self {
        let own = start + wall;
        let Some(deadline) = until.filter(|until| *until < own) else { return own.into() };
        let given = deadline.saturating_duration_since(start);
        let excused = (given < wall.mul_f32(ENOUGH)).then(|| start + given.mul_f32(SAFE));
        Self { deadline, excused }
    }

    /// Whether a failure at this time may be due to the caller.
    pub fn excuses(&self, now: Instant) -> bool {
        self.excused.is_some_and(|from| now >= from)
    }

    /// Whether the caller has left too little time.
    pub fn is_cut(&self) -> bool {
        self.excused.is_some()
    }
}

impl From<Instant> for TimeLimit {
    /// Returns the time of a request whose caller waits for as long as the service may take.
    fn from(deadline: Instant) -> Self {
        Self { deadline, excused: None }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Nobody else's choice makes a failure of a service: one counts only if the service had nine tenths of its own time, or
        /// failed long before the end of less. Whoever leaves more than the service may take chooses nothing.
        #[test]
        fn a_short_time_excuses_failures_near_its_end(wall in 0_u64..20_000, given in 0_u64..40_000, at in 0_u64..40_000) {
            let (start, ms) = (Instant::now(), Duration::from_millis);
            let limit = TimeLimit::new(start, ms(wall), Some(start + ms(given)));
            prop_assert_eq!(limit.deadline, start + ms(given.min(wall)));
            let counts = !limit.excuses(start + ms(at));
            prop_assert!(!counts || given * 10 + 1 >= wall * 9 || at * 10 < given * 9);
            prop_assert!(counts || given < wall);
            prop_assert!(!limit.is_cut() || limit.excuses(limit.deadline));
        }
    }

    #[test]
    fn callers_that_wait_excuse_nothing() {
        let (start, wall) = (Instant::now(), Duration::from_secs(10));
        let excuses = |until: Option<Instant>| {
            let limit = TimeLimit::new(start, wall, until);
            limit.excuses(limit.deadline.max(start))
        };
        assert!(!excuses(None) && !excuses(Some(start + 2 * wall)) && !excuses(Some(start + Duration::from_secs(9))));
        assert!(excuses(Some(start + Duration::from_secs(8))) && excuses(Some(start)));
        assert!(excuses(Some(start - Duration::from_secs(1))), "its time was over before");
    }
}
