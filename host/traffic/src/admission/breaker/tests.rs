mod model;

use super::*;

const MS: Duration = Duration::from_millis(1);

const SETTINGS: Settings = Settings {
    failures: Percent::whole(50),
    slow: Some(Duration::from_millis(100)),
    slow_calls: Percent::whole(80),
    calls: 4,
    window: Duration::from_secs(10),
    open: Duration::from_secs(5),
    probes: 2,
};

fn breaker(now: Instant) -> Arc<Breaker> {
    Arc::new(Breaker::new(SETTINGS, now))
}

fn call(breaker: &Arc<Breaker>, failed: bool, took: Duration, now: Instant) -> Option<Transition> {
    breaker.admit(now).unwrap().record(failed, took, now)
}

#[test]
fn opens_and_closes() {
    let start = Instant::now();
    let breaker = breaker(start);
    for n in 0..3 {
        assert_eq!(call(&breaker, true, MS, start), None, "{n} calls are too few");
    }
    let counts = CallCounts { calls: 4, failed: 3, slow: 0 };
    assert_eq!(call(&breaker, false, MS, start), Some(Transition::Opened(counts)));
    assert_eq!(breaker.state(start), BreakerState::Open);
    assert_eq!(breaker.admit(start + 2 * SETTINGS.open / 5).unwrap_err(), SETTINGS.open * 3 / 5);
    let later = start + SETTINGS.open;
    let (mut one, mut two) = (breaker.admit(later).unwrap(), breaker.admit(later).unwrap());
    assert!(breaker.admit(later).is_err(), "at most two probes at once");
    assert_eq!(breaker.state(later), BreakerState::HalfOpen);
    assert_eq!((one.record(false, MS, later), two.record(false, MS, later)), (None, Some(Transition::Closed)));
    assert!((0..100).all(|_| breaker.admit(later).is_ok()));
    assert_eq!(breaker.counts(later), CallCounts::default(), "the window is empty after a change");
}

#[test]
fn slow_calls_count() {
    let start = Instant::now();
    let breaker = breaker(start);
    for _ in 0..4 {
        call(&breaker, false, SETTINGS.slow.unwrap(), start);
    }
    assert_eq!(breaker.state(start), BreakerState::Closed, "exactly at the limit is not slow");
    for _ in 0..15 {
        call(&breaker, false, 101 * MS, start);
    }
    assert_eq!(breaker.state(start), BreakerState::Closed, "15 of 19");
    call(&breaker, false, 101 * MS, start);
    assert_eq!(breaker.state(start), BreakerState::Open, "16 of 20");
}

/// Failures leave the window together with their bucket.
#[test]
fn old_calls_are_forgotten() {
    let start = Instant::now();
    let breaker = breaker(start);
    for _ in 0..3 {
        call(&breaker, true, MS, start);
    }
    call(&breaker, true, MS, start + SETTINGS.window);
    assert_eq!(breaker.state(start + SETTINGS.window), BreakerState::Closed);
    assert_eq!(breaker.counts(start + SETTINGS.window).calls, 1);
}

/// A probe without a result makes room for another, and calls of an earlier generation change nothing.
#[test]
fn dropped_probes_are_returned() {
    let start = Instant::now();
    let breaker = breaker(start);
    let mut old: Vec<_> = (0..10).map(|_| breaker.admit(start).unwrap()).collect();
    for _ in 0..4 {
        call(&breaker, true, MS, start);
    }
    let later = start + SETTINGS.open;
    for _ in 0..10 {
        let probes = (breaker.admit(later).unwrap(), breaker.admit(later).unwrap());
        assert!(breaker.admit(later).is_err());
        drop(probes);
    }
    old.iter_mut().for_each(|pass| assert_eq!(pass.record(true, MS, later), None));
    assert_eq!(breaker.state(later), BreakerState::HalfOpen);
    let mut probe = breaker.admit(later).unwrap();
    probe.record(true, MS, later);
    assert_eq!(breaker.state(later), BreakerState::Open, "one bad probe is enough");
    assert_eq!(breaker.admit(later).unwrap_err(), SETTINGS.open);
}

/// A response that breaks off after a good head is a failure, also for a probe.
#[test]
fn a_later_failure_counts() {
    let start = Instant::now();
    let breaker = breaker(start);
    for _ in 0..4 {
        call(&breaker, true, MS, start);
    }
    let later = start + SETTINGS.open;
    let mut probe = breaker.admit(later).unwrap();
    assert_eq!((probe.record(false, MS, later), probe.record(true, MS, later)), (None, None));
    assert_eq!(breaker.state(later), BreakerState::Open);
}

#[test]
fn an_edit_keeps_it_open() {
    let start = Instant::now();
    let old = breaker(start);
    for _ in 0..4 {
        call(&old, true, MS, start);
    }
    let edited =
        Arc::new(old.with_settings(Settings { failures: Percent::whole(90), probes: 1, window: MS, ..SETTINGS }));
    assert_eq!(edited.activate(), None);
    assert!(edited.admit(start).is_err());
    let later = start + SETTINGS.open;
    assert_eq!(call(&edited, false, MS, later), Some(Transition::Closed));
    assert_eq!(old.state(later), BreakerState::Closed, "both share one state");
}

/// An edit applies to the present state: how long the breaker stays open, and how many probes close it.
#[test]
fn an_edit_takes_effect_at_once() {
    let start = Instant::now();
    let old = breaker(start);
    for _ in 0..4 {
        call(&old, true, MS, start);
    }
    let edited = |settings| {
        let edited = Arc::new(old.with_settings(settings));
        (edited.activate(), edited)
    };
    let (_, patient) = edited(Settings { open: 1000 * SETTINGS.open, ..SETTINGS });
    let later = start + SETTINGS.open;
    assert!(patient.admit(later).is_err() && old.state(later) == BreakerState::Open);
    let (_, eager) = edited(Settings { probes: 3, ..SETTINGS });
    assert_eq!(call(&eager, false, MS, later), None);
    let _out = eager.admit(later).unwrap();
    assert_eq!(call(&eager, false, MS, later), None);
    // Two of three probes succeeded; the new setting needs two.
    assert_eq!(edited(SETTINGS).0, Some(Transition::Closed));
    assert!((0..10).all(|_| old.admit(later).is_ok()), "the breaker is closed");
}

/// A request from before an edit counts by the settings that are active when it ends, and does not restart the window.
#[test]
fn requests_outlive_settings() {
    let start = Instant::now();
    let old = breaker(start);
    let mut before: Vec<_> = (0..2).map(|_| old.admit(start).unwrap()).collect();
    let edited = Arc::new(old.with_settings(Settings { window: 3 * SETTINGS.window, slow: Some(MS), ..SETTINGS }));
    edited.activate();
    before.iter_mut().for_each(|pass| assert_eq!(pass.record(false, 2 * MS, start), None));
    assert_eq!(call(&edited, false, 2 * MS, start), None);
    let counts = CallCounts { calls: 4, failed: 0, slow: 4 };
    assert_eq!(call(&edited, false, 2 * MS, start), Some(Transition::Opened(counts)));
}

/// Probes that never end keep the breaker half open only for a limited time.
#[test]
fn lost_probes_are_replaced() {
    let start = Instant::now();
    let breaker = breaker(start);
    for _ in 0..4 {
        call(&breaker, true, MS, start);
    }
    let mut later = start + SETTINGS.open;
    let mut stuck = vec![breaker.admit(later).unwrap(), breaker.admit(later).unwrap()];
    assert!(breaker.admit(later + SETTINGS.open - MS).is_err());
    later += SETTINGS.open;
    stuck.push(breaker.admit(later).unwrap());
    assert_eq!(call(&breaker, false, MS, later), None);
    assert!(breaker.admit(later).is_err(), "at most two probes at once");
    later += SETTINGS.open;
    assert_eq!(stuck[0].record(true, MS, later), None, "its generation has passed");
    assert_eq!(call(&breaker, false, MS, later), Some(Transition::Closed), "earlier successes count");
    drop(stuck);
    assert_eq!(breaker.state(later), BreakerState::Closed);
}
