//! When a schedule is due by a clock that may be set at any time.

use std::time::{Duration, SystemTime};

use lodge_manifest::schedule::Schedule;

use super::LATE;

/// The longest sleep: the clock of the system can be set meanwhile.
const SLEEP: Duration = Duration::from_secs(10);

/// How long before an occurrence the claims of hosts are looked at: longer than clocks may differ, by a little for the store.
const EARLY: Duration = LATE.saturating_add(Duration::from_secs(5));

/// Missed calls that are counted one by one.
pub(super) const MOST_MISSED: u64 = 1000;

/// The occurrences of a schedule, one after another.
pub(super) struct Timeline {
    schedule: Schedule,
    /// All occurrences up to this time are over.
    after: SystemTime,
    /// The first one after that.
    next: Option<SystemTime>,
    /// The occurrence before which claims are looked at next.
    look: Option<SystemTime>,
}

/// What is to be done at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DueStep {
    /// Nothing, for so long.
    Wait(Duration),
    /// A look at the claims of hosts: those of an occurrence that is not due for long were made by a clock that is ahead.
    Look,
    /// The call that was due then.
    Call(SystemTime),
    /// Nothing more for the calls after the first time up to the second: it is too late for them.
    Miss(SystemTime, SystemTime),
    /// The clock was set back by so much. What comes next is due by the clock as it is now.
    SetBack(Duration),
}

impl Timeline {
    /// The occurrences after `after`.
    pub(super) fn new(schedule: Schedule, after: SystemTime) -> Self {
        let (next, look) = (schedule.next(after), schedule.next(after));
        Self { schedule, after, next, look }
    }

    fn move_to(&mut self, after: SystemTime) {
        (self.after, self.next) = (after, self.schedule.next(after));
    }

    /// Returns what is to be done at `now`, once.
    pub(super) fn step(&mut self, now: SystemTime) -> DueStep {
        if let Ok(back) = self.after.duration_since(now)
            && back > LATE
        {
            self.move_to(now);
            self.look = self.next;
            return DueStep::SetBack(back);
        }
        let look = self.look.and_then(|due| due.checked_sub(EARLY));
        let until_look = look.map_or(SLEEP, |look| look.duration_since(now).unwrap_or_default());
        if until_look.is_zero() {
            self.look = now.checked_add(EARLY).and_then(|then| self.schedule.next(then));
            return DueStep::Look;
        }
        let Some(due) = self.next else { return DueStep::Wait(SLEEP) };
        if let Ok(wait) = due.duration_since(now)
            && !wait.is_zero()
        {
            return DueStep::Wait(wait.min(until_look).min(SLEEP));
        }
        // Of several that are due, only the last one is called: they must not overlap.
        let (after, late) = (self.after, now.checked_sub(LATE).unwrap_or(self.after));
        match successors(&self.schedule, after.max(late)).take_while(|at| *at <= now).last() {
            Some(last) if last == due => {
                self.move_to(due);
                DueStep::Call(due)
            }
            last => {
                let until = last.and_then(|last| last.checked_sub(Duration::from_secs(1))).unwrap_or(late);
                self.move_to(until);
                DueStep::Miss(after, until)
            }
        }
    }
}

/// Returns how many occurrences are after `after` and not after `until`, at most [`MOST_MISSED`].
pub(super) fn occurrences(schedule: &Schedule, after: SystemTime, until: SystemTime) -> u64 {
    successors(schedule, after).take_while(|due| *due <= until).take(MOST_MISSED as usize).count() as u64
}

/// Returns all occurrences after `after`.
fn successors(schedule: &Schedule, after: SystemTime) -> impl Iterator<Item = SystemTime> {
    std::iter::successors(schedule.next(after), |at| schedule.next(*at))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use lodge_base::config;
    use lodge_manifest::Manifest;
    use proptest::prelude::*;

    use super::super::record::{CallClaim, CallRecord, Doubts, seconds};
    use super::*;

    const NOW: u64 = 1_800_000_000;
    const DAY: u64 = 86_400;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn schedule(cron: &str) -> Schedule {
        let limits = config::resolve(&[]).unwrap().config.limits;
        Manifest::read("a", &format!("schedule.cron = '{cron}'"), &limits, 1 << 30).unwrap().schedules.remove(0)
    }

    /// Returns what is done at once at a time.
    fn steps(timeline: &mut Timeline, now: SystemTime) -> Vec<DueStep> {
        let mut all = Vec::new();
        loop {
            match timeline.step(now) {
                DueStep::Wait(wait) => {
                    assert!(!wait.is_zero() && wait <= SLEEP);
                    return all;
                }
                step => all.push(step),
            }
            assert!(all.len() <= 4, "{all:?}");
        }
    }

    /// Returns what is done at once at a time, besides looks.
    fn calls(timeline: &mut Timeline, now: SystemTime) -> Vec<DueStep> {
        steps(timeline, now).into_iter().filter(|step| *step != DueStep::Look).collect()
    }

    /// Whatever the clock does, there is a look in the second that is so long before an occurrence.
    #[test]
    fn claims_are_looked_at_before_each_occurrence() {
        for cron in ["* * * * *", "*/7 * * * * *", "*/3 * * * *"] {
            let schedule = schedule(cron);
            let mut timeline = Timeline::new(schedule.clone(), at(NOW - DAY));
            for now in (NOW..NOW + 400).chain(NOW - 400..NOW) {
                let looks = steps(&mut timeline, at(now)).iter().filter(|step| **step == DueStep::Look).count();
                let (set, before) = (now == NOW || now == NOW - 400, at(now) + EARLY);
                let expected = schedule.next(before - Duration::from_secs(1)) == Some(before);
                assert!(
                    looks == usize::from(expected) || set && looks == 1,
                    "{cron} {} {looks}",
                    now as i64 - NOW as i64
                );
            }
        }
    }

    #[test]
    fn each_occurrence_is_called_when_it_is_due() {
        let mut timeline = Timeline::new(schedule("* * * * *"), at(NOW));
        assert_eq!(calls(&mut timeline, at(NOW)), []);
        assert_eq!(calls(&mut timeline, at(NOW + 59)), []);
        assert_eq!(calls(&mut timeline, at(NOW + 60)), [DueStep::Call(at(NOW + 60))]);
        assert_eq!(calls(&mut timeline, at(NOW + 60)), []);
        assert_eq!(
            calls(&mut timeline, at(NOW + 120) + LATE),
            [DueStep::Miss(at(NOW + 60), at(NOW + 179)), DueStep::Call(at(NOW + 180))]
        );
        assert_eq!(occurrences(&timeline.schedule, at(NOW + 60), at(NOW + 179)), 1);
        assert_eq!(calls(&mut timeline, at(NOW + 299)), [DueStep::Call(at(NOW + 240))], "it is late");
        let mut daily = Timeline::new(schedule("0 8 * * *"), at(NOW));
        let later = at(NOW + DAY + 3600);
        assert_eq!(calls(&mut daily, later), [DueStep::Miss(at(NOW), later - LATE)]);
        assert_eq!(calls(&mut daily, later), []);
        let mut never_again = Timeline::new(schedule("0 0 3 1 1 * 2020"), at(NOW));
        assert_eq!(calls(&mut never_again, at(NOW)), []);
    }

    /// One step, whatever lies between, and however often it is due.
    #[test]
    fn a_clock_set_forward_is_one_step() {
        for (cron, from) in [("* * * * *", 0), ("* * * * * *", 0), ("* * * * * *", NOW - 2 * DAY)] {
            let schedule = schedule(cron);
            let mut timeline = Timeline::new(schedule.clone(), at(from));
            let now = at(NOW) + Duration::from_millis(500);
            assert_eq!(
                calls(&mut timeline, now),
                [DueStep::Miss(at(from), at(NOW - 1)), DueStep::Call(at(NOW))],
                "{cron}"
            );
            assert_eq!(occurrences(&schedule, at(from), at(NOW - 1)), MOST_MISSED);
        }
        let daily = schedule("0 3 * * *");
        assert_eq!(occurrences(&daily, at(NOW), at(NOW + 9 * DAY)), 9);
        assert_eq!(occurrences(&daily, at(NOW), at(NOW)), 0);
    }

    #[test]
    fn a_clock_set_back_is_followed() {
        let mut timeline = Timeline::new(schedule("* * * * *"), at(NOW));
        let ahead = NOW + 2 * DAY;
        assert_eq!(calls(&mut timeline, at(ahead)).last(), Some(&DueStep::Call(at(ahead))));
        assert_eq!(calls(&mut timeline, at(NOW)), [DueStep::SetBack(Duration::from_secs(2 * DAY))]);
        assert_eq!(calls(&mut timeline, at(NOW + 60)), [DueStep::Call(at(NOW + 60))]);
        assert_eq!(calls(&mut timeline, at(NOW)), [], "a little is none: nothing is called twice");
    }

    /// A host: its timeline by its own clock since it has begun, and what it has seen.
    struct Host {
        timeline: Option<Timeline>,
        doubts: Doubts,
        by: u64,
    }

    /// A host whose clock is ahead by so many seconds, and the seconds in which it runs.
    #[derive(Clone, Debug)]
    struct OtherHost {
        ahead: i64,
        runs: std::ops::Range<u64>,
    }

    impl OtherHost {
        /// Whether hosts with right clocks may leave an occurrence to it: its clock is as good as right, or it has just begun. Its first
        /// claims are for what it missed, and so may be less ahead than its clock, by up to the longest time between two occurrences.
        fn may_call(&self, due: u64) -> bool {
            let ahead = u64::try_from(self.ahead).unwrap_or(u64::MAX);
            // In the second of the occurrence it may come first.
            let just_begun = (self.runs.start..=self.runs.start.saturating_add(ahead)).contains(&due);
            ahead <= EARLY.as_secs() || (ahead < LATE.as_secs() + 180 && just_begun)
        }
    }

    fn other_host() -> impl Strategy<Value = OtherHost> {
        let ahead = prop_oneof![-900_i64..900, -130_i64..130, (-3_i64..4).prop_map(|days| days * DAY as i64)];
        let from = prop_oneof![Just(0), 0..600_u64];
        (ahead, from, 1..600_u64).prop_map(|(ahead, from, time)| OtherHost { ahead, runs: from..from + time })
    }

    proptest! {
        /// Hosts with right clocks call each occurrence exactly once, whatever hosts with wrong clocks do, which begin, go on and
        /// stop among them, and whichever comes first. Those that cannot be told from right ones may call it, or count it as missed, in
        /// their place; no two of the former call it even so.
        #[test]
        fn wrong_clocks_stop_nothing_and_double_nothing(
            others in prop::collection::vec(other_host(), 0..4),
            cron in prop::sample::select(vec!["* * * * *", "*/7 * * * * *", "*/3 * * * *"]),
            skew in 0..30_u64,
            order in prop::collection::vec(any::<u8>(), 600),
        ) {
            let schedule = schedule(cron);
            let start = tokio::time::Instant::now();
            let mut record = CallRecord::default();
            record.begin(cron, at(NOW));
            // The clocks of the first two are right, up to a skew.
            let clock = |index: usize, now: u64| match index.checked_sub(2) {
                None => now - skew * index as u64,
                Some(other) => now.saturating_add_signed(others[other].ahead),
            };
            let host = |index| Host { timeline: None, doubts: Doubts::default(), by: index as u64 };
            let mut hosts: Vec<_> = (0..2 + others.len()).map(host).collect();
            let (mut called, mut by_others) = (Vec::new(), Vec::new());
            for (second, chance) in order.iter().enumerate() {
                let (second, count) = (second as u64, hosts.len());
                for turn in 0..count {
                    let index = (turn + *chance as usize) % count;
                    if index.checked_sub(2).is_some_and(|other| !others[other].runs.contains(&second)) {
                        continue;
                    }
                    let (now, later) = (at(clock(index, NOW + second)), start + Duration::from_secs(second));
                    let Host { timeline, doubts, by } = &mut hosts[index];
                    let timeline = timeline
                        .get_or_insert_with(|| Timeline::new(schedule.clone(), record.begin(cron, now).unwrap_or(now)));
                    doubts.follow(now, later);
                    if second % 60 == index as u64 * 7 {
                        record.doubt(doubts, now, later);
                    }
                    let claim = |due| CallClaim { by: *by, due: seconds(due) };
                    for step in steps(timeline, now) {
                        match step {
                            DueStep::Call(due) if record.claim(claim(due), doubts, now) => {
                                if index >= 2 {
                                    by_others.push((seconds(due) - 1, seconds(due)));
                                } else if due > at(NOW) {
                                    called.push(seconds(due) - NOW);
                                }
                            }
                            DueStep::Miss(after, until) => {
                                let counted = record.miss(after, claim(until), doubts, now);
                                by_others.extend(counted.map(|after| (seconds(after), seconds(until))));
                            }
                            DueStep::Look => drop(record.doubt(doubts, now, later)),
                            _ => {}
                        }
                    }
                }
            }
            let until = at(NOW + 599);
            let mut expected: Vec<_> = successors(&schedule, at(NOW)).take_while(|due| *due <= until).map(|due| seconds(due) - NOW).collect();
            called.sort_unstable();
            let twice = called.windows(2).any(|pair| pair[0] == pair[1]);
            prop_assert!(!twice, "{called:?}");
            let left = |due: u64| {
                others.iter().any(|other| other.may_call(due))
                    && by_others.iter().any(|(after, until)| (after + 1..=*until).contains(&(NOW + due)))
            };
            expected.retain(|due| !called.contains(due) && !left(*due));
            prop_assert!(expected.is_empty(), "not called: {expected:?}");
        }
    }
}
