//! The breaker behaves like a plain model for every order of events, and never stays in one state for ever.

use proptest::prelude::*;

use super::*;

/// A plain implementation: it stores every counted call and computes everything anew each time.
struct Model {
    settings: Settings,
    start: Instant,
    phase: Phase,
    /// The number of phase changes so far.
    changes: u32,
    /// When each call of this phase ended, and its result.
    calls: Vec<(Instant, CallResult)>,
}

impl Model {
    fn change_phase(&mut self, phase: Phase) {
        self.phase = phase;
        self.changes += 1;
        self.calls.clear();
    }

    fn edit(&mut self, settings: Settings) {
        self.settings = settings;
        if matches!(self.phase, Phase::HalfOpen { good, .. } if good >= settings.probes) {
            self.change_phase(Phase::Closed);
        }
    }

    fn may_pass(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::Open { since } if now >= since + self.settings.open => {
                self.change_phase(Phase::HalfOpen { since: now, out: 0, good: 0 });
            }
            Phase::HalfOpen { since, out, good }
                if out + good >= self.settings.probes && now >= since + self.settings.open =>
            {
                self.change_phase(Phase::HalfOpen { since: now, out: 0, good });
            }
            _ => {}
        }
        match &mut self.phase {
            Phase::Closed => true,
            Phase::Open { .. } => false,
            Phase::HalfOpen { out, good, .. } if *out + *good < self.settings.probes => {
                *out += 1;
                true
            }
            Phase::HalfOpen { .. } => false,
        }
    }

    fn record(&mut self, call: Option<CallResult>, now: Instant) {
        let bad = call.is_some_and(|call| call.failed || call.slow);
        match &mut self.phase {
            Phase::Open { .. } => {}
            Phase::HalfOpen { out, good, .. } => {
                *out -= 1;
                *good += u32::from(call.is_some());
                if bad {
                    self.change_phase(Phase::Open { since: now });
                } else if *good >= self.settings.probes {
                    self.change_phase(Phase::Closed);
                }
            }
            Phase::Closed => {
                let Some(call) = call else { return };
                self.calls.push((now, call));
                let bucket = |at: Instant| (at - self.start).as_nanos() / (self.settings.window / 10).as_nanos();
                let recent: Vec<_> = self.calls.iter().filter(|(at, _)| bucket(*at) + 10 > bucket(now)).collect();
                let part = |of: fn(&CallResult) -> bool| {
                    recent.iter().filter(|(_, call)| of(call)).count() as f64 / recent.len() as f64
                };
                let enough = recent.len() >= self.settings.calls as usize;
                if enough
                    && (part(|call| call.failed) >= self.settings.failures.part()
                        || part(|call| call.slow) >= self.settings.slow_calls.part())
                {
                    self.change_phase(Phase::Open { since: now });
                }
            }
        }
    }
}

/// An event of a breaker.
#[derive(Clone, Debug)]
enum Step {
    /// A request arrives.
    Comes,
    /// A request in flight ends: its number and its result.
    Goes(usize, u8),
    /// The manifest is edited.
    Edited(Settings),
}

fn settings() -> impl Strategy<Value = Settings> {
    (1..=100_u32, 1..=100_u32, 1..8_u32, 1..5_u32, 1..12_u64).prop_map(|(failures, slow_calls, calls, probes, open)| {
        let (failures, slow_calls) = (Percent::whole(failures), Percent::whole(slow_calls));
        Settings { failures, slow_calls, calls, probes, open: Duration::from_secs(open), ..SETTINGS }
    })
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let step = prop_oneof![
        6 => Just(Step::Comes),
        5 => (any::<usize>(), 0..4_u8).prop_map(|(one, how)| Step::Goes(one, how)),
        1 => settings().prop_map(Step::Edited),
    ];
    prop::collection::vec((0..3_000_u64, step), 1..300)
}

proptest! {
    /// For every order of arrivals, results and edits, the breaker does what the model does. A service that has
    /// recovered gets requests again in time, even if requests in flight never end.
    #[test]
    fn behaves_like_the_model(settings in settings(), steps in steps(), again in settings(), leave in any::<bool>()) {
        let start = Instant::now();
        let mut breaker = Arc::new(Breaker::new(settings, start));
        let mut model = Model { settings, start, phase: Phase::Closed, changes: 0, calls: Vec::new() };
        // The requests in flight, and the model's number of phase changes when each was admitted.
        let (mut inside, mut now) = (Vec::<(Pass, u32)>::new(), start);
        for (ms, step) in steps {
            now += Duration::from_millis(ms);
            match step {
                Step::Edited(settings) => {
                    let closed = matches!(model.phase, Phase::Closed);
                    model.edit(settings);
                    breaker = Arc::new(breaker.with_settings(settings));
                    let closes = !closed && matches!(model.phase, Phase::Closed);
                    prop_assert_eq!(breaker.activate(), closes.then_some(Transition::Closed));
                }
                Step::Goes(who, how) if !inside.is_empty() => {
                    let (mut pass, since) = inside.swap_remove(who % inside.len());
                    let call = (how < 3).then_some(CallResult { failed: how == 1, slow: how == 2 });
                    if since == model.changes {
                        model.record(call, now);
                    }
                    if let Some(call) = call {
                        pass.record(call.failed, if call.slow { SETTINGS.window } else { MS }, now);
                    }
                }
                Step::Comes | Step::Goes(..) => {
                    let expected = model.may_pass(now);
                    let pass = breaker.admit(now);
                    prop_assert_eq!(pass.is_ok(), expected, "{:?}", model.phase);
                    inside.extend(pass.ok().map(|pass| (pass, model.changes)));
                }
            }
            let expected = match model.phase {
                Phase::Closed => BreakerState::Closed,
                Phase::Open { since } if now < since + model.settings.open => BreakerState::Open,
                _ => BreakerState::HalfOpen,
            };
            prop_assert_eq!(breaker.state(now), expected);
        }
        if leave {
            inside.clear();
        }
        breaker = Arc::new(breaker.with_settings(again));
        breaker.activate();
        // Earlier failures have left the window by then.
        now += SETTINGS.window;
        // After the open time there is at least one probe, and the others follow if none is stuck.
        for _ in 0..=again.probes {
            now += again.open;
            while let Ok(mut pass) = breaker.admit(now) {
                pass.record(false, MS, now);
                if breaker.state(now) == BreakerState::Closed {
                    break;
                }
            }
        }
        prop_assert_eq!(breaker.state(now), BreakerState::Closed, "the breaker never closes");
    }

    /// After a change of its length, the window has the same calls, each for as long as the new length says.
    #[test]
    fn a_window_that_is_resized(calls in prop::collection::vec(0..2_000_u64, 0..60), lengths in prop::collection::vec(1..100_u64, 1..4)) {
        let start = Instant::now();
        let mut window = CallWindow::new(SETTINGS.window, start);
        let mut now = start;
        for gap in &calls {
            now += Duration::from_millis(*gap);
            window.add(CallResult { failed: true, slow: false }, now);
        }
        for seconds in lengths {
            let before = window.counts(now);
            window.resize(Duration::from_secs(seconds));
            let after = window.counts(now);
            prop_assert!(after.calls <= calls.len() as u32 && after.calls == after.failed && after.slow == 0);
            if Duration::from_secs(seconds) >= 2 * SETTINGS.window && before == window.counts(now) {
                prop_assert!(after.calls >= before.calls);
            }
        }
        // A call that was just added counts after any number of changes.
        window.add(CallResult { failed: true, slow: false }, now);
        prop_assert!(window.counts(now).calls >= 1);
        now += 100 * SETTINGS.window;
        prop_assert_eq!(window.counts(now), CallCounts::default(), "counts never leave the window");
    }
}

/// A longer window forgets nothing; a shorter one forgets what is too old for it.
#[test]
fn lengths_of_windows() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let mut window = CallWindow::new(SETTINGS.window, start);
    for n in 0..10 {
        window.add(CallResult { failed: false, slow: false }, start + n * second);
    }
    let now = start + 9 * second;
    let mut calls = |seconds: u32| {
        window.resize(seconds * second);
        window.counts(now).calls
    };
    assert_eq!([calls(60), calls(600), calls(60)], [10, 10, 10]);
    let mut window = CallWindow::new(SETTINGS.window, start);
    for n in 0..10 {
        window.add(CallResult { failed: false, slow: false }, start + n * second);
    }
    window.resize(5 * second);
    assert_eq!(window.counts(now).calls, 5);
}
