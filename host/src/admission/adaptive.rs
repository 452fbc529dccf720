//! How many requests at once a service can take: found out from how long its answers take.
//!
//! Additive increase, multiplicative decrease (AIMD). When the answers of a stretch of time took longer on average
//! than they should, there are a tenth fewer slots; when they did not, and all slots were in use, there are a few
//! more. Between a floor and `limits.in_flight`. A request that finds no slot waits in the service's queue, as without it.
//! Waiting does not count as time of the answer: it would make a long queue the reason for a longer one.
//!
//! A limit that is low must not stay so because nothing is learned under it: long responses, of which only the head counts,
//! may hold all of its slots. So there are a few more slots, too, whenever nothing was learned for a while although all
//! are in use.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::base::lock::lock;
use crate::manifest::adaptive::Settings;

/// Answers that say something.
const ENOUGH: u32 = 10;

/// A stretch of time that says something.
const STRETCH: Duration = Duration::from_millis(100);

/// From the floor to the ceiling in so many stretches.
const STEPS: usize = 64;

/// Without an answer for so long nothing more is waited for.
const SILENCE: Duration = Duration::from_secs(5);

/// The limit, as it moves. Outlives versions of the service: what it knows is soon known better.
#[derive(Debug)]
pub struct Adaptive(Mutex<State>);

#[derive(Clone, Copy, Debug)]
struct State {
    settings: Settings,
    ceiling: usize,
    limit: usize,
    /// The stretch: what was admitted before it began was so under another limit, and is not counted.
    since: Instant,
    answers: u32,
    took: Duration,
    /// Every slot was in use.
    full: bool,
    /// When something was learned, or the limit was raised for want of that.
    heard: Instant,
}

impl Adaptive {
    /// As many slots as there are without it: `ceiling`.
    pub fn new(settings: Settings, ceiling: usize, now: Instant) -> Self {
        let floor = settings.floor.min(ceiling);
        let settings = Settings { floor, ..settings };
        let since = now;
        Self(Mutex::new(State {
            settings,
            ceiling,
            limit: ceiling,
            since,
            answers: 0,
            took: Duration::ZERO,
            full: false,
            heard: now,
        }))
    }

    /// From now on it has these settings; the limit stays where they allow.
    pub fn reconfigure(&self, settings: Settings, ceiling: usize) -> usize {
        let mut state = lock(&self.0);
        state.settings = Settings { floor: settings.floor.min(ceiling), ..settings };
        state.ceiling = ceiling;
        state.limit = state.limit.clamp(state.settings.floor, ceiling);
        state.limit
    }

    /// Places there are now.
    pub fn limit(&self) -> usize {
        lock(&self.0).limit
    }

    /// An answer to a request that was admitted at `began` took so long; `taken` are the slots in use. Returns, at the
    /// end of a stretch, how many slots there are from now on.
    pub fn record(&self, began: Instant, took: Duration, now: Instant, taken: usize) -> Option<usize> {
        let mut state = lock(&self.0);
        state.heard = state.heard.max(now);
        if began < state.since {
            return None;
        }
        state.answers += 1;
        state.took += took;
        state.full |= taken >= state.limit;
        if state.answers < ENOUGH || now.saturating_duration_since(state.since) < STRETCH {
            return None;
        }
        let next = state.next();
        *state = State { limit: next, since: now, answers: 0, took: Duration::ZERO, full: false, ..*state };
        Some(next)
    }
}

impl Adaptive {
    /// A request finds every slot in use. Returns how many slots there are from now on, if nothing was learned for so
    /// long that there are more.
    pub fn raise_if_silent(&self, now: Instant) -> Option<usize> {
        let mut state = lock(&self.0);
        if state.limit >= state.ceiling || now.saturating_duration_since(state.heard) < SILENCE {
            return None;
        }
        (state.heard, state.limit) = (now, state.more());
        Some(state.limit)
    }
}

impl State {
    fn more(&self) -> usize {
        (self.limit + (self.ceiling / STEPS).max(1)).min(self.ceiling)
    }

    fn next(&self) -> usize {
        let Self { settings: Settings { latency, floor }, limit, .. } = *self;
        if self.took / self.answers.max(1) > latency {
            (limit - limit.div_ceil(10).min(limit)).max(floor)
        } else if self.full {
            self.more()
        } else {
            limit
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A service that takes `base` for a request while at most `cores` are there, and longer in proportion beyond that,
    /// view by so many clients at once that there is always somebody waiting. Returns the limit over time.
    fn simulate(adaptive: &Adaptive, cores: usize, base: Duration, rounds: usize, now: &mut Instant) -> Vec<usize> {
        let mut limits = Vec::new();
        for _ in 0..rounds {
            let (limit, began) = (adaptive.limit(), *now);
            *now += base * u32::try_from(limit.max(cores)).unwrap() / u32::try_from(cores).unwrap();
            for _ in 0..limit {
                adaptive.record(began, *now - began, *now, limit);
            }
            limits.push(adaptive.limit());
        }
        limits
    }

    /// It finds what the service can take within the latency, from above and from below, and stays about there.
    #[test]
    fn it_finds_the_limit() {
        let mut now = Instant::now();
        let adaptive = Adaptive::new(Settings { latency: 100 * MS, floor: 1 }, 256, now);
        // 10 cores with 20 ms for a request take 50 at once in 100 ms.
        let limits = simulate(&adaptive, 10, 20 * MS, 200, &mut now);
        assert!(limits[100..].iter().all(|limit| (40..=55).contains(limit)), "{limits:?}");
        let limits = simulate(&adaptive, 20, 20 * MS, 200, &mut now);
        assert!(limits[100..].iter().all(|limit| (80..=105).contains(limit)), "{limits:?}");
        // However slow, the floor holds.
        adaptive.reconfigure(Settings { latency: MS, floor: 7 }, 256);
        assert_eq!(simulate(&adaptive, 1, 20 * MS, 200, &mut now).last(), Some(&7));
        assert_eq!(adaptive.reconfigure(Settings { latency: MS, floor: 7 }, 5), 5);
    }

    /// Places that nobody uses say nothing, and neither does what was admitted under another limit.
    #[test]
    fn what_says_nothing_changes_nothing() {
        let start = Instant::now();
        let adaptive = Adaptive::new(Settings { latency: 100 * MS, floor: 1 }, 100, start);
        for n in 0..100 {
            adaptive.record(start, n * MS, start + n * MS, 1);
        }
        assert_eq!(adaptive.limit(), 100);
        let adaptive = Adaptive::new(Settings { latency: MS, floor: 1 }, 100, start);
        let learnt =
            (0..100).filter_map(|_| adaptive.record(start, 500 * MS, start + 500 * MS, 100)).collect::<Vec<_>>();
        assert_eq!(learnt, [90], "one decrease for all that were there");
    }

    /// A limit whose slots are all held by long responses rises, though no answer is heard any more.
    #[test]
    fn silence_raises_it() {
        let start = Instant::now();
        let adaptive = Adaptive::new(Settings { latency: MS, floor: 1 }, 128, start);
        simulate(&adaptive, 1, 20 * MS, 200, &mut start.clone());
        let mut now = start + Duration::from_secs(3600);
        adaptive.record(start, MS, now, 1);
        assert_eq!((adaptive.limit(), adaptive.raise_if_silent(now + SILENCE - MS)), (1, None));
        let mut limits = Vec::new();
        for _ in 0..70 {
            now += SILENCE;
            limits.extend(adaptive.raise_if_silent(now));
            assert_eq!(adaptive.raise_if_silent(now), None, "one step at a time");
        }
        assert_eq!((limits[0], limits.len(), adaptive.limit()), (3, 64, 128));
    }

    proptest! {
        /// Whatever it hears, the limit stays between floor and ceiling.
        #[test]
        fn it_stays_in_bounds(
            floor in 1..20_usize, ceiling in 1..50_usize,
            heard in prop::collection::vec((0..2_000_u64, 0..400_u64, 0..60_usize), 0..500),
        ) {
            let mut now = Instant::now();
            let adaptive = Adaptive::new(Settings { latency: 100 * MS, floor }, ceiling, now);
            for (took, gap, taken) in heard {
                let began = now;
                now += Duration::from_millis(gap);
                let next = adaptive.record(began, Duration::from_millis(took), now, taken);
                prop_assert!(next.is_none_or(|next| next == adaptive.limit()));
                prop_assert!((floor.min(ceiling)..=ceiling).contains(&adaptive.limit()));
            }
        }
    }
}
