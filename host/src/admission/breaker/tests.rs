use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

const SETTINGS: Settings = Settings {
    failures: 50,
    slow: Some(Duration::from_millis(100)),
    slow_calls: 80,
    calls: 4,
    window: Duration::from_secs(10),
    open: Duration::from_secs(5),
    probes: 2,
};

fn breaker(now: Instant) -> Arc<Breaker> {
    Arc::new(Breaker::new(SETTINGS, now))
}

fn call(breaker: &Arc<Breaker>, failed: bool, took: Duration, now: Instant) -> Option<Change> {
    breaker.pass(now).unwrap().learn(failed, took, now)
}

#[test]
fn it_opens_and_closes() {
    let start = Instant::now();
    let breaker = breaker(start);
    for n in 0..3 {
        assert_eq!(call(&breaker, true, MS, start), None, "{n} calls say nothing");
    }
    let counts = Counts { calls: 4, failed: 3, slow: 0 };
    assert_eq!(call(&breaker, false, MS, start), Some(Change::Opened(counts)));
    assert_eq!(breaker.position(start), Position::Open);
    assert_eq!(breaker.pass(start + 2 * SETTINGS.open / 5).unwrap_err(), SETTINGS.open * 3 / 5);
    let later = start + SETTINGS.open;
    let (mut one, mut two) = (breaker.pass(later).unwrap(), breaker.pass(later).unwrap());
    assert!(breaker.pass(later).is_err(), "two probes and no more");
    assert_eq!(breaker.position(later), Position::HalfOpen);
    assert_eq!((one.learn(false, MS, later), two.learn(false, MS, later)), (None, Some(Change::Closed)));
    assert!((0..100).all(|_| breaker.pass(later).is_ok()));
    assert_eq!(breaker.counts(later), Counts::default(), "what was before is forgotten");
}

#[test]
fn slow_calls_count() {
    let start = Instant::now();
    let breaker = breaker(start);
    for _ in 0..4 {
        call(&breaker, false, SETTINGS.slow.unwrap(), start);
    }
    assert_eq!(breaker.position(start), Position::Closed, "that is not slower than it may be");
    for _ in 0..15 {
        call(&breaker, false, 101 * MS, start);
    }
    assert_eq!(breaker.position(start), Position::Closed, "15 of 19");
    call(&breaker, false, 101 * MS, start);
    assert_eq!(breaker.position(start), Position::Open, "16 of 20");
}

/// Failures leave the window with their bucket.
#[test]
fn it_forgets() {
    let start = Instant::now();
    let breaker = breaker(start);
    for _ in 0..3 {
        call(&breaker, true, MS, start);
    }
    call(&breaker, true, MS, start + SETTINGS.window);
    assert_eq!(breaker.position(start + SETTINGS.window), Position::Closed);
    assert_eq!(breaker.counts(start + SETTINGS.window).calls, 1);
}

/// A probe of which nothing is learnt gives its place back, and calls of another time change nothing.
#[test]
fn probes_come_back() {
    let start = Instant::now();
    let breaker = breaker(start);
    let mut old: Vec<_> = (0..10).map(|_| breaker.pass(start).unwrap()).collect();
    for _ in 0..4 {
        call(&breaker, true, MS, start);
    }
    let later = start + SETTINGS.open;
    for _ in 0..10 {
        let probes = (breaker.pass(later).unwrap(), breaker.pass(later).unwrap());
        assert!(breaker.pass(later).is_err());
        drop(probes);
    }
    old.iter_mut().for_each(|pass| assert_eq!(pass.learn(true, MS, later), None));
    assert_eq!(breaker.position(later), Position::HalfOpen);
    let mut probe = breaker.pass(later).unwrap();
    probe.learn(true, MS, later);
    assert_eq!(breaker.position(later), Position::Open, "one bad probe is enough");
    assert_eq!(breaker.pass(later).unwrap_err(), SETTINGS.open);
}

/// An answer that breaks off after a good head is a failure, also of a probe.
#[test]
fn a_second_word_counts() {
    let start = Instant::now();
    let breaker = breaker(start);
    for _ in 0..4 {
        call(&breaker, true, MS, start);
    }
    let later = start + SETTINGS.open;
    let mut probe = breaker.pass(later).unwrap();
    assert_eq!((probe.learn(false, MS, later), probe.learn(true, MS, later)), (None, None));
    assert_eq!(breaker.position(later), Position::Open);
}

#[test]
fn an_edit_keeps_it_open() {
    let start = Instant::now();
    let old = breaker(start);
    for _ in 0..4 {
        call(&old, true, MS, start);
    }
    let edited = Arc::new(old.renewed(Settings { failures: 90, probes: 1, window: MS, ..SETTINGS }));
    assert!(edited.pass(start).is_err());
    let later = start + SETTINGS.open;
    assert_eq!(call(&edited, false, MS, later), Some(Change::Closed));
    assert_eq!(old.position(later), Position::Closed, "both are one");
}

/// The same in other words: every call that was counted is kept, and all is counted anew each time.
struct Model {
    settings: Settings,
    start: Instant,
    phase: Phase,
    /// When each call of this phase was over, and how.
    calls: Vec<(Instant, Call)>,
}

impl Model {
    fn turn(&mut self, phase: Phase) {
        self.phase = phase;
        self.calls.clear();
    }

    fn may_pass(&mut self, now: Instant) -> bool {
        if matches!(self.phase, Phase::Open { until } if now >= until) {
            self.turn(Phase::HalfOpen { out: 0, good: 0 });
        }
        match &mut self.phase {
            Phase::Closed => true,
            Phase::Open { .. } => false,
            Phase::HalfOpen { out, good } if *out + *good < self.settings.probes => {
                *out += 1;
                true
            }
            Phase::HalfOpen { .. } => false,
        }
    }

    fn learn(&mut self, call: Option<Call>, now: Instant) {
        let bad = call.is_some_and(|call| call.failed || call.slow);
        match &mut self.phase {
            Phase::Open { .. } => {}
            Phase::HalfOpen { out, good } => {
                *out -= 1;
                *good += u32::from(call.is_some());
                if bad {
                    self.turn(Phase::Open { until: now + self.settings.open });
                } else if *good >= self.settings.probes {
                    self.turn(Phase::Closed);
                }
            }
            Phase::Closed => {
                let Some(call) = call else { return };
                self.calls.push((now, call));
                let bucket = |at: Instant| (at - self.start).as_nanos() / (self.settings.window / 10).as_nanos();
                let recent: Vec<_> = self.calls.iter().filter(|(at, _)| bucket(*at) + 10 > bucket(now)).collect();
                let part = |of: fn(&Call) -> bool| {
                    recent.iter().filter(|(_, call)| of(call)).count() as f64 * 100.0 / recent.len() as f64
                };
                let enough = recent.len() >= self.settings.calls as usize;
                if enough
                    && (part(|call| call.failed) >= f64::from(self.settings.failures)
                        || part(|call| call.slow) >= f64::from(self.settings.slow_calls))
                {
                    self.turn(Phase::Open { until: now + self.settings.open });
                }
            }
        }
    }
}

proptest! {
    /// Whatever is asked, and ends how, in which order: it does what the model does, and no probe is lost for ever.
    #[test]
    fn as_the_model_says(
        failures in 1..=100_u32, slow_calls in 1..=100_u32, calls in 1..8_u32, probes in 1..4_u32,
        // Time until it happens; whether somebody comes, or who of those inside goes; and how it went for them.
        steps in prop::collection::vec((0..3_000_u64, any::<bool>(), any::<usize>(), 0..4_u8), 1..300),
    ) {
        let (start, settings) = (Instant::now(), Settings { failures, slow_calls, calls, probes, ..SETTINGS });
        let breaker = Arc::new(Breaker::new(settings, start));
        let mut model = Model { settings, start, phase: Phase::Closed, calls: Vec::new() };
        // Those inside, and how often the model had changed its phase when they came in.
        let (mut inside, mut now, mut changes) = (Vec::<(Pass, u32)>::new(), start, 0);
        for (ms, comes, who, how) in steps {
            now += Duration::from_millis(ms);
            let before = std::mem::discriminant(&model.phase);
            if comes || inside.is_empty() {
                let expected = model.may_pass(now);
                changes += u32::from(std::mem::discriminant(&model.phase) != before);
                let pass = breaker.pass(now);
                prop_assert_eq!(pass.is_ok(), expected, "{:?}", model.phase);
                inside.extend(pass.ok().map(|pass| (pass, changes)));
            } else {
                let (mut pass, since) = inside.swap_remove(who % inside.len());
                let call = (how < 3).then_some(Call { failed: how == 1, slow: how == 2 });
                if since == changes {
                    model.learn(call, now);
                    changes += u32::from(std::mem::discriminant(&model.phase) != before);
                }
                if let Some(call) = call {
                    pass.learn(call.failed, if call.slow { SETTINGS.window } else { MS }, now);
                }
            }
            let position = match model.phase {
                Phase::Closed => Position::Closed,
                Phase::Open { until } if now < until => Position::Open,
                _ => Position::HalfOpen,
            };
            prop_assert_eq!(breaker.position(now), position);
        }
        // Whoever is inside leaves without a word: after a while there is a place for as many probes as there may be.
        inside.clear();
        now += settings.open;
        if breaker.position(now) != Position::Closed {
            let good = if let Phase::HalfOpen { good, .. } = model.phase { good } else { 0 };
            let probes: Vec<_> = (good..probes).map(|_| breaker.pass(now)).collect();
            prop_assert!(probes.iter().all(Result::is_ok), "a probe is lost");
        }
    }
}
