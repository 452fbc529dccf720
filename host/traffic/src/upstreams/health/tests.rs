use proptest::prelude::*;

use super::*;
use lodge_manifest::percent::Percent;

const SECOND: Duration = Duration::from_secs(1);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn check() -> Check {
    let time = (5 * SECOND, SECOND);
    Check { path: Some("/".into()), interval: time.0, timeout: time.1, healthy: 2, unhealthy: 3, status: (200, 399) }
}

fn ejection() -> Ejection {
    Ejection { failures: 5, base: 10 * SECOND, max: 35 * SECOND, share: Percent::whole(50) }
}

/// Fails a request, in a set that may eject all replicas.
fn fail(health: &Health, now: Instant) -> Option<HealthChange> {
    let ejection = ejection();
    if health.record_failure(now, &ejection) { health.eject(now, &ejection) } else { None }
}

#[test]
fn checks_remove_and_restore_a_replica() {
    let (now, check) = (Instant::now(), check());
    let health = Health::new(now);
    let checks =
        |results: &[bool]| results.iter().map(|passed| health.record_check(now, *passed, &check)).collect::<Vec<_>>();
    assert_eq!(checks(&[true, false, false, true, false, false]), [None; 6], "not three in a row");
    assert_eq!(checks(&[false, false]), [Some(HealthChange::Down), None]);
    assert_eq!((health.status(now), health.is_available(now)), (HealthStatus::Down, false));
    assert_eq!(checks(&[true, false, true]), [None; 3], "not two in a row");
    assert_eq!(checks(&[true]), [Some(HealthChange::Up)]);
    assert_eq!((health.status(now), health.is_available(now)), (HealthStatus::Available, true));
}

#[test]
fn the_first_check_decides_alone() {
    let (now, check) = (Instant::now(), check());
    let health = Health::new(now);
    assert!(health.is_available(now), "until it is known");
    assert_eq!(health.record_check(now, false, &check), Some(HealthChange::Down));
    assert_eq!(health.record_check(now, true, &check), None, "but not the second");
    health.forget_checks(now);
    assert_eq!(health.status(now), HealthStatus::Available, "there are no checks any more");
    assert!(health.is_available(now));
    assert_eq!(
        health.record_check(now, false, &check),
        Some(HealthChange::Down),
        "and the next first one decides again"
    );
}

#[test]
fn consecutive_failures_eject_a_replica() {
    let now = Instant::now();
    let health = Health::new(now);
    for _ in 0..4 {
        assert_eq!(fail(&health, now), None);
    }
    health.record_success();
    for _ in 0..4 {
        assert_eq!(fail(&health, now), None, "not in a row");
    }
    assert_eq!(fail(&health, now), Some(HealthChange::Ejected(10 * SECOND)));
    assert_eq!(health.status(now + 4 * SECOND), HealthStatus::Ejected(6 * SECOND));
    for _ in 0..20 {
        assert_eq!(fail(&health, now + SECOND), None, "late failures do not extend the ejection");
    }
    let end = now + 10 * SECOND;
    assert!(!health.is_available(end - Duration::from_nanos(1)) && health.is_available(end));
    assert_eq!(health.status(end), HealthStatus::Available);
    assert_eq!(fail(&health, end), None, "it starts with a clean slate");
    let never = Ejection { failures: 0, ..ejection() };
    assert!((0..100).all(|_| !Health::new(now).record_failure(now, &never)));
}

#[test]
fn ejections_grow_until_forgotten() {
    let mut now = Instant::now();
    let health = Health::new(now);
    let mut again = |after: Duration| {
        now += after;
        let mut changes = (0..5).map(|_| fail(&health, now));
        let Some(HealthChange::Ejected(time)) = changes.by_ref().nth(4).flatten() else { panic!("not ejected") };
        now += time;
        time.as_secs()
    };
    let times = [0, 0, 0, 0, 9].map(|after| again(after * SECOND));
    assert_eq!(times, [10, 20, 30, 35, 35], "no longer than max");
    // Five ejections so far; being healthy for three times the base time cancels three of them.
    assert_eq!([again(30 * SECOND), again(1000 * SECOND)], [30, 10]);
}

#[test]
fn checks_and_ejections_add_up() {
    let (now, check) = (Instant::now(), check());
    let health = Health::new(now);
    assert!((0..5).filter_map(|_| fail(&health, now)).count() == 1);
    assert_eq!(health.record_check(now, false, &check), Some(HealthChange::Down));
    assert_eq!(health.record_check(now + SECOND, true, &check), None);
    assert_eq!(health.record_check(now + SECOND, true, &check), Some(HealthChange::Up));
    assert!(!health.is_available(now + 9 * SECOND), "still ejected");
    assert!(health.is_available(now + 10 * SECOND));
    // While the replica is down, failures are ignored.
    let health = Health::new(now);
    health.record_check(now, false, &check);
    assert!((0..50).all(|_| fail(&health, now).is_none()));
    assert_eq!(health.eject(now, &ejection()), None);
}

#[test]
fn slow_start() {
    let (now, check) = (Instant::now(), check());
    let health = Health::new(now);
    let share = |after: u64, slow: u64| health.share(now + seconds(after), seconds(slow));
    assert_eq!(share(0, 0), Some(100));
    assert_eq!([0, 5, 10, 50, 99, 100, 5000].map(|after| share(after, 100).unwrap()), [10, 10, 10, 50, 99, 100, 100]);
    // Counted from the end of an ejection, or from when checks passed.
    for _ in 0..5 {
        fail(&health, now + 200 * SECOND);
    }
    assert_eq!([209, 210, 240, 310].map(|after| share(after, 100)), [None, Some(10), Some(30), Some(100)]);
    for _ in 0..3 {
        health.record_check(now + 400 * SECOND, false, &check);
    }
    for _ in 0..2 {
        health.record_check(now + 500 * SECOND, true, &check);
    }
    assert_eq!([500, 525].map(|after| share(after, 100)), [Some(10), Some(25)]);
}

/// A simple model of the rules above, in seconds.
#[derive(Default)]
struct Model {
    now: u64,
    checks: Vec<bool>,
    down: bool,
    outcomes: Vec<bool>,
    /// Start and end of each.
    ejections: Vec<(u64, u64)>,
    forgotten: u64,
}

impl Model {
    fn ejected(&self) -> bool {
        self.ejections.last().is_some_and(|(_, end)| self.now < *end)
    }

    fn check(&mut self, passed: bool) {
        self.checks.push(passed);
        let streak = self.checks.iter().rev().take_while(|result| **result == passed).count();
        let enough = if passed { 2 } else { 3 };
        if passed == self.down && (streak >= enough || self.checks.len() == 1) {
            self.down = !passed;
            self.outcomes.clear();
        }
    }

    fn outcome(&mut self, fine: bool) {
        if !fine && (self.down || self.ejected()) {
            return;
        }
        self.outcomes.push(fine);
        if self.outcomes.iter().rev().take_while(|fine| !**fine).count() < 5 {
            return;
        }
        self.outcomes.clear();
        let known = self.ejections.len() as u64 - self.forgotten;
        let healthy = self.ejections.last().map_or(0, |(_, end)| self.now - end);
        self.forgotten += known.min(healthy / 10);
        let times = self.ejections.len() as u64 - self.forgotten + 1;
        self.ejections.push((self.now, self.now + (10 * times).min(35)));
    }
}

proptest! {
    /// After any sequence of events, the state equals that of the model.
    #[test]
    fn behaves_like_the_model(steps in proptest::collection::vec(prop_oneof![
        2 => (0..2u64).prop_map(|passed| (0, passed)),
        6 => (0..4u64).prop_map(|fine| (1, fine)),
        2 => (0..25u64).prop_map(|seconds| (2, seconds)),
    ], 0..300)) {
        let start = Instant::now();
        let (health, mut model, check) = (Health::new(start), Model::default(), check());
        for (kind, value) in steps {
            let now = start + seconds(model.now);
            match kind {
                0 => {
                    health.record_check(now, value == 1, &check);
                    model.check(value == 1);
                }
                1 => {
                    let fine = value == 3;
                    if fine { health.record_success() } else { { fail(&health, now); } }
                    model.outcome(fine);
                }
                _ => model.now += value,
            }
            let now = start + seconds(model.now);
            prop_assert_eq!(health.is_available(now), !model.down && !model.ejected());
            prop_assert_eq!(health.is_ejected(now), model.ejected());
            let left = model.ejections.last().map_or(0, |(_, end)| end.saturating_sub(model.now));
            let status = match () {
                () if model.down => HealthStatus::Down,
                () if left > 0 => HealthStatus::Ejected(seconds(left)),
                () => HealthStatus::Available,
            };
            prop_assert_eq!(health.status(now), status);
        }
    }
}
