//! An adaptive concurrency limit: finds out from response times how many requests a service can take at once.
//!
//! Additive increase, multiplicative decrease (AIMD). When the mean response time of a window is over the target, the
//! limit falls by a tenth. When it is not, and all slots were in use, the limit rises by a small step. The limit stays
//! between a floor and `limits.in_flight`. A request that finds no slot waits in the service's queue. Queueing does not
//! count as response time: otherwise a long queue would lengthen itself.
//!
//! A low limit must not persist for want of samples: long responses, of which only the head counts, may hold all slots.
//! So the limit also rises when all slots are in use and there was no sample for a while.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use lodge_base::lock::lock;
use lodge_manifest::adaptive::Settings;

/// The fewest responses that make a window.
const MIN_RESPONSES: u32 = 10;

/// The shortest window.
const MIN_WINDOW: Duration = Duration::from_millis(100);

/// The number of windows in which the limit rises from zero to its ceiling.
const STEPS: usize = 64;

/// The time without a sample after which the limit rises.
const MAX_SILENCE: Duration = Duration::from_secs(5);

/// The limit of a service. Versions of the service share it, because it adapts quickly.
#[derive(Debug)]
pub struct Adaptive(Mutex<State>);

#[derive(Clone, Copy, Debug)]
struct State {
    settings: Settings,
    ceiling: usize,
    limit: usize,
    /// The start of the window. Requests that were admitted earlier ran under another limit and are not counted.
    window_start: Instant,
    responses: u32,
    total_time: Duration,
    /// Every slot was in use at some time in the window.
    saturated: bool,
    /// The time of the last sample, or of the last rise for want of samples.
    last_sample: Instant,
}

impl Adaptive {
    /// Returns a limit that starts at `ceiling`.
    pub fn new(settings: Settings, ceiling: usize, now: Instant) -> Self {
        let floor = settings.floor.min(ceiling);
        let settings = Settings { floor, ..settings };
        let window_start = now;
        Self(Mutex::new(State {
            settings,
            ceiling,
            limit: ceiling,
            window_start,
            responses: 0,
            total_time: Duration::ZERO,
            saturated: false,
            last_sample: now,
        }))
    }

    /// Applies new settings, and returns the limit, which stays within the new bounds.
    pub fn reconfigure(&self, settings: Settings, ceiling: usize) -> usize {
        let mut state = lock(&self.0);
        state.settings = Settings { floor: settings.floor.min(ceiling), ..settings };
        state.ceiling = ceiling;
        state.limit = state.limit.clamp(state.settings.floor, ceiling);
        state.limit
    }

    /// Returns the number of slots.
    pub fn limit(&self) -> usize {
        lock(&self.0).limit
    }

    /// Records a response to a request that was admitted at `began` and took `took`; `taken` is the number of slots in
    /// use. Returns the new limit at the end of a window.
    pub fn record(&self, began: Instant, took: Duration, now: Instant, taken: usize) -> Option<usize> {
        let mut state = lock(&self.0);
        state.last_sample = state.last_sample.max(now);
        if began < state.window_start {
            return None;
        }
        state.responses += 1;
        state.total_time += took;
        state.saturated |= taken >= state.limit;
        if state.responses < MIN_RESPONSES || now.saturating_duration_since(state.window_start) < MIN_WINDOW {
            return None;
        }
        let next = state.next();
        *state = State {
            limit: next,
            window_start: now,
            responses: 0,
            total_time: Duration::ZERO,
            saturated: false,
            ..*state
        };
        Some(next)
    }

    /// Raises the limit when a request finds every slot in use and there was no sample for `MAX_SILENCE`. Returns the
    /// new limit if it was raised.
    pub fn raise_if_silent(&self, now: Instant) -> Option<usize> {
        let mut state = lock(&self.0);
        if state.limit >= state.ceiling || now.saturating_duration_since(state.last_sample) < MAX_SILENCE {
            return None;
        }
        (state.last_sample, state.limit) = (now, state.raised());
        Some(state.limit)
    }
}

impl State {
    fn raised(&self) -> usize {
        (self.limit + (self.ceiling / STEPS).max(1)).min(self.ceiling)
    }

    fn next(&self) -> usize {
        let Self { settings: Settings { latency, floor }, limit, .. } = *self;
        if self.total_time / self.responses.max(1) > latency {
            (limit - limit.div_ceil(10).min(limit)).max(floor)
        } else if self.saturated {
            self.raised()
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

    /// Simulates a service that takes `base` per request for up to `cores` requests at once, and proportionally longer
    /// beyond that, under permanent overload. Returns the limit over time.
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

    /// The limit converges on what the service can take within the latency, from above and from below.
    #[test]
    fn finds_the_limit() {
        let mut now = Instant::now();
        let adaptive = Adaptive::new(Settings { latency: 100 * MS, floor: 1 }, 256, now);
        // 10 cores at 20 ms per request serve 50 at once in 100 ms.
        let limits = simulate(&adaptive, 10, 20 * MS, 200, &mut now);
        assert!(limits[100..].iter().all(|limit| (40..=55).contains(limit)), "{limits:?}");
        let limits = simulate(&adaptive, 20, 20 * MS, 200, &mut now);
        assert!(limits[100..].iter().all(|limit| (80..=105).contains(limit)), "{limits:?}");
        // The floor holds, however slow the service is.
        adaptive.reconfigure(Settings { latency: MS, floor: 7 }, 256);
        assert_eq!(simulate(&adaptive, 1, 20 * MS, 200, &mut now).last(), Some(&7));
        assert_eq!(adaptive.reconfigure(Settings { latency: MS, floor: 7 }, 5), 5);
    }

    /// A window in which slots stayed free, and requests admitted under another limit, change nothing.
    #[test]
    fn irrelevant_samples_are_ignored() {
        let start = Instant::now();
        let adaptive = Adaptive::new(Settings { latency: 100 * MS, floor: 1 }, 100, start);
        for n in 0..100 {
            adaptive.record(start, n * MS, start + n * MS, 1);
        }
        assert_eq!(adaptive.limit(), 100);
        let adaptive = Adaptive::new(Settings { latency: MS, floor: 1 }, 100, start);
        let changes =
            (0..100).filter_map(|_| adaptive.record(start, 500 * MS, start + 500 * MS, 100)).collect::<Vec<_>>();
        assert_eq!(changes, [90], "one decrease for all requests that were in flight");
    }

    /// The limit rises when long responses hold every slot and no head arrives any more.
    #[test]
    fn missing_responses_raise_the_limit() {
        let start = Instant::now();
        let adaptive = Adaptive::new(Settings { latency: MS, floor: 1 }, 128, start);
        simulate(&adaptive, 1, 20 * MS, 200, &mut start.clone());
        let mut now = start + Duration::from_secs(3600);
        adaptive.record(start, MS, now, 1);
        assert_eq!((adaptive.limit(), adaptive.raise_if_silent(now + MAX_SILENCE - MS)), (1, None));
        let mut limits = Vec::new();
        for _ in 0..70 {
            now += MAX_SILENCE;
            limits.extend(adaptive.raise_if_silent(now));
            assert_eq!(adaptive.raise_if_silent(now), None, "one step at a time");
        }
        assert_eq!((limits[0], limits.len(), adaptive.limit()), (3, 64, 128));
    }

    proptest! {
        /// The limit stays between floor and ceiling for all samples.
        #[test]
        fn stays_in_bounds(
            floor in 1..20_usize, ceiling in 1..50_usize,
            samples in prop::collection::vec((0..2_000_u64, 0..400_u64, 0..60_usize), 0..500),
        ) {
            let mut now = Instant::now();
            let adaptive = Adaptive::new(Settings { latency: 100 * MS, floor }, ceiling, now);
            for (took, gap, taken) in samples {
                let began = now;
                now += Duration::from_millis(gap);
                let next = adaptive.record(began, Duration::from_millis(took), now, taken);
                prop_assert!(next.is_none_or(|next| next == adaptive.limit()));
                prop_assert!((floor.min(ceiling)..=ceiling).contains(&adaptive.limit()));
            }
        }
    }
}
