use std::time::Duration;

use http::StatusCode;
use proptest::prelude::*;

use super::*;
use crate::upstreams::lockstep::lockstep;
use lodge_base::config;
use lodge_base::ids::mix;
use lodge_manifest::Manifest;
use lodge_manifest::percent::Percent;
use lodge_manifest::upstream::Policy;
use lodge_manifest::upstream::protocol::Scheme;

const SECOND: Duration = Duration::from_secs(1);
const FINE: TryOutcome = TryOutcome::Responded(StatusCode::OK);

fn found(ports: &[u16]) -> Vec<(Target, u32)> {
    let target = |port: &u16| Target {
        scheme: Scheme::Http,
        host: "10.0.0.7".into(),
        address: ([10, 0, 0, 7], *port).into(),
        other: None,
    };
    ports.iter().map(|port| (target(port), 1)).collect()
}

fn spec(keys: &str) -> Arc<Spec> {
    let limits = config::resolve(&[]).unwrap().config.limits;
    let text = format!("limits.wall = '1d'\n[upstream]\nreplicas_file = 'x'\n{keys}");
    Manifest::read("far", &text, &limits, 1 << 30).unwrap().upstream.unwrap()
}

fn set(keys: &str, ports: &[u16], now: Instant) -> Replicas {
    Replicas::new(spec(keys), found(ports), None, now)
}

/// Fails as many requests as an ejection needs.
fn fail(replicas: &Replicas, index: usize, now: Instant) -> Option<HealthChange> {
    let replica = Arc::clone(&replicas.members[index].replica);
    replica.in_flight.fetch_add(1, Relaxed);
    let chosen = ChosenReplica { index, panic_change: None, replica };
    (0..5).filter_map(|_| replicas.settle(&chosen, TryOutcome::Reset, now)).last()
}

fn chosen(replicas: &Replicas, now: Instant, tried: &[usize]) -> Vec<usize> {
    let mut indices: Vec<_> = (0..200).filter_map(|n| Some(replicas.choose(now, None, mix(n), tried)?.index)).collect();
    indices.sort_unstable();
    indices.dedup();
    indices
}

#[test]
fn requests_count_until_dropped() {
    let now = Instant::now();
    let replicas = set("", &[1, 2], now);
    let held: Vec<_> = (0..10).map(|n| replicas.choose(now, None, mix(n), &[]).unwrap()).collect();
    let in_flight = || replicas.iter().map(|(replica, _)| replica.in_flight()).collect::<Vec<_>>();
    assert_eq!(in_flight(), [5, 5], "the less busy one, each time");
    assert_eq!(held[0].replica().address, replicas.iter().nth(held[0].index).unwrap().0.address);
    drop(held);
    assert_eq!(in_flight(), [0, 0]);
}

#[test]
fn retries_use_another_replica() {
    let now = Instant::now();
    for policy in ["round-robin", "weighted", "random", "weighted-random", "least-in-flight", "hash"] {
        let replicas = set(&format!("policy = '{policy}'"), &[1, 2, 3], now);
        assert_eq!(chosen(&replicas, now, &[]), [0, 1, 2], "{policy}");
        assert_eq!(chosen(&replicas, now, &[1]), [0, 2], "{policy}");
        assert_eq!(chosen(&replicas, now, &[2, 1]), [0], "{policy}");
        assert!(replicas.has_another(now, &[2, 1]) && !replicas.has_another(now, &[0, 1, 2]));
        assert!(replicas.choose(now, None, 0, &[0, 1, 2]).is_some(), "{policy}: better one of them than none");
        replicas.members[0].replica.health.eject(now, &replicas.spec.ejection);
        assert_eq!(chosen(&replicas, now, &[1, 2]), [1, 2], "{policy}: one that was tried before one that is ejected");
        assert!(!replicas.has_another(now, &[1, 2]));
    }
    let none = set("", &[], now);
    assert!(none.choose(now, None, 0, &[]).is_none() && none.is_empty());
    let one = set("panic = '0%'", &[1], now);
    one.record_check(0, false, now);
    assert!(one.choose(now, None, 0, &[]).is_none() && one.choose(now, None, 0, &[0]).is_none());
}

#[test]
fn ejections_are_bounded() {
    let now = Instant::now();
    let replicas = set("", &[1, 2, 3, 4, 5], now);
    let changes = [0, 1, 2, 3, 4].map(|index| fail(&replicas, index, now).is_some());
    assert_eq!(changes, [true, true, false, false, false], "half of five, rounded down");
    assert_eq!(chosen(&replicas, now, &[]), [2, 3, 4]);
    assert_eq!(chosen(&replicas, now + 10 * SECOND, &[]), [0, 1, 2, 3, 4]);
    assert!(fail(&replicas, 2, now + 10 * SECOND).is_some(), "there is room again");
    let alone = set("", &[1], now);
    assert_eq!(fail(&alone, 0, now), None, "better this one than none");
    let all = set("[upstream.ejection]\nshare = '100%'", &[1], now);
    assert_eq!(fail(&all, 0, now), Some(HealthChange::Ejected(10 * SECOND)));
    assert_eq!(all.choose(now, None, 0, &[]).unwrap().panic_change, Some(PanicChange::Entered { available: 0 }));
}

#[test]
fn panic_is_logged_once() {
    let now = Instant::now();
    let replicas = set("[upstream.health]\npath = '/'", &[1, 2, 3, 4], now);
    let news = |at| replicas.choose(at, None, 0, &[]).unwrap().panic_change;
    (0..2).for_each(|index| assert_eq!(replicas.record_check(index, false, now), Some(HealthChange::Down)));
    assert_eq!((news(now), chosen(&replicas, now, &[])), (None, vec![2, 3]), "half of them is enough");
    replicas.record_check(2, false, now);
    assert_eq!(news(now), Some(PanicChange::Entered { available: 1 }));
    assert_eq!((news(now), chosen(&replicas, now, &[])), (None, vec![0, 1, 2, 3]));
    // A new set knows that the change was reported.
    let next = Replicas::new(Arc::clone(&replicas.spec), found(&[1, 2, 3, 4]), Some(&replicas), now);
    assert_eq!(next.choose(now, None, 0, &[]).unwrap().panic_change, None);
    for _ in 0..2 {
        replicas.record_check(0, true, now);
    }
    assert_eq!((news(now), news(now)), (Some(PanicChange::Left { available: 2 }), None));
    assert_eq!(chosen(&replicas, now, &[]), [0, 3]);
}

#[test]
fn outcomes_of_requests() {
    let now = Instant::now();
    let replicas = set("", &[1, 2], now);
    let settle = |outcomes: &[TryOutcome]| {
        let chosen = replicas.choose(now, None, 0, &[1]).unwrap();
        outcomes.iter().filter_map(|outcome| replicas.settle(&chosen, *outcome, now)).count()
    };
    let bad = TryOutcome::Responded(StatusCode::BAD_GATEWAY);
    assert_eq!(
        settle(&[bad, TryOutcome::Reset, TryOutcome::TimedOut, TryOutcome::Unconnected, FINE, bad, bad, bad, bad]),
        0
    );
    assert_eq!(settle(&[TryOutcome::Unsent, TryOutcome::Closed].repeat(9)), 0);
    assert_eq!(settle(&[bad]), 1, "a closed connection is neither a failure nor a sign of health");
}

/// When a name resolves to other addresses or the manifest changes, the state of the remaining replicas is kept.
#[test]
fn state_survives_changes() {
    let now = Instant::now();
    let before = set("", &[1, 2, 3, 4], now);
    fail(&before, 0, now);
    fail(&before, 3, now);
    let held = before.choose(now, None, 0, &[2]).unwrap();
    assert_eq!(held.index, 1);
    let after = Replicas::new(
        spec("policy = 'weighted-random'\nslow_start = '100s'"),
        found(&[5, 2, 1]),
        Some(&before),
        now + 9 * SECOND,
    );
    let at: Vec<_> = after.iter().map(|(replica, _)| replica.in_flight()).collect();
    assert_eq!(at, [0, 1, 0]);
    assert_eq!(chosen(&after, now + 9 * SECOND, &[]), [0, 1], "the first is still ejected, in its new place");
    assert_eq!(chosen(&after, now + 10 * SECOND, &[]), [0, 1, 2]);
    let weight = |index: usize, at| after.candidate(index, &after.members[index], at, false).unwrap().weight;
    let at = now + 100 * SECOND;
    assert_eq!([0, 1, 2].map(|index| weight(index, at)), [91, 100, 90], "from when each became available");
    drop(held);
    assert_eq!(
        after.iter().map(|(replica, _)| replica.in_flight()).sum::<usize>(),
        0,
        "also what the old set gave out"
    );
    // Without checks, a replica does not stay down.
    let checked = set("[upstream.health]\npath = '/'", &[1, 2], now);
    checked.record_check(0, false, now);
    let unchecked = Replicas::new(spec(""), found(&[1, 2]), Some(&checked), now);
    assert_eq!(chosen(&unchecked, now, &[]), [0, 1]);
}

/// Replicas for other zones are used while no other one is available, and for retries.
#[test]
fn far_replicas_come_last() {
    for policy in ["round-robin", "weighted", "random", "weighted-random", "least-in-flight", "hash"] {
        let now = Instant::now();
        let near = set(&format!("policy = '{policy}'\nejection.share = '100%'"), &[1, 2, 3, 4, 5], now);
        let targets: Vec<_> = found(&[1, 2, 3]).into_iter().map(|(target, _)| target).collect();
        let replicas = near.with_far(&targets.iter().collect());
        assert_eq!(chosen(&replicas, now, &[]), [3, 4], "{policy}");
        assert_eq!(chosen(&replicas, now, &[3]), [4], "{policy}");
        assert_eq!(chosen(&replicas, now, &[3, 4]), [0, 1, 2], "{policy}");
        fail(&replicas, 3, now);
        assert_eq!(chosen(&replicas, now, &[]), [4], "{policy}");
        fail(&replicas, 4, now);
        assert_eq!(chosen(&replicas, now, &[]), [0, 1, 2], "{policy}");
    }
}

#[test]
fn whether_it_is_another_set() {
    let replicas = set("", &[1, 2, 3], Instant::now());
    assert!(replicas.is_of(&found(&[1, 2, 3])) && replicas.is_of(&found(&[3, 1, 2])));
    assert!(!replicas.is_of(&found(&[1, 2])) && !replicas.is_of(&found(&[1, 2, 4])));
    assert!(!replicas.is_of(&found(&[1, 2, 3, 4])) && !replicas.is_of(&[]));
    let mut heavier = found(&[1, 2, 3]);
    heavier[1].1 = 2;
    assert!(!replicas.is_of(&heavier));
}

#[test]
fn replicas_are_unique_and_bounded() {
    let now = Instant::now();
    let mut twice = found(&[1, 2, 1]);
    twice[0].1 = 7;
    let replicas = Replicas::new(spec(""), twice, None, now);
    assert_eq!(replicas.iter().map(|(_, weight)| weight).collect::<Vec<_>>(), [7, 1]);
    let ports: Vec<_> = (1..=1003).rev().collect();
    let replicas = set("", &ports, now);
    assert_eq!((replicas.len(), replicas.left_out()), (MOST_REPLICAS, 3));
    assert!(replicas.iter().all(|(replica, _)| replica.address.address.port() <= 1000), "always the same ones");
}

/// While a key's replica is out, its requests go to the second choice, and afterwards back.
#[test]
fn keys_come_back() {
    let now = Instant::now();
    let replicas = set("policy = 'hash'", &[1, 2, 3, 4], now);
    let owner = |key: u64, at, tried: &[usize]| replicas.choose(at, Some(mix(key)), key, tried).unwrap().index;
    let first: Vec<_> = (0..500).map(|key| owner(key, now, &[])).collect();
    let second: Vec<_> = (0..500).map(|key| owner(key, now, &[first[key as usize]])).collect();
    fail(&replicas, 2, now);
    for key in 0..500 {
        let expected = if first[key] == 2 { second[key] } else { first[key] };
        assert_eq!(owner(key as u64, now, &[]), expected);
        assert_eq!(owner(key as u64, now + 10 * SECOND, &[]), first[key]);
    }
}

/// The order of the addresses does not matter.
#[test]
fn keys_do_not_depend_on_the_order() {
    let now = Instant::now();
    let (one, other) = (set("policy = 'hash'", &[1, 2, 3, 4], now), set("policy = 'hash'", &[3, 1, 4, 2], now));
    let owner = |set: &Replicas, key| set.choose(now, Some(key), 0, &[]).unwrap().replica().address.clone();
    assert!((0..500).all(|key| owner(&one, mix(key)) == owner(&other, mix(key))));
}

#[test]
fn concurrent_ejections_are_bounded() {
    let now = Instant::now();
    let sets: Vec<_> = (0..5000).map(|_| set("ejection.failures = 1", &[1, 2], now)).collect();
    let ejected = lockstep(&sets, |replicas, thread| {
        let chosen = replicas.choose(now, None, 0, &[thread]).unwrap();
        replicas.settle(&chosen, TryOutcome::Reset, now).is_some()
    });
    assert!(ejected.iter().all(|ejected| *ejected == 1), "half of two");
    assert!(sets.iter().flat_map(Replicas::iter).all(|(replica, _)| replica.in_flight() == 0));
}

#[derive(Clone, Debug)]
enum Step {
    Request { fails: bool, tried: Vec<usize>, random: u64 },
    Check { index: usize, passed: bool },
    Wait(u64),
    Renew(Vec<u16>),
}

fn step() -> impl Strategy<Value = Step> {
    let request = (prop::bool::weighted(0.7), proptest::collection::vec(0..6usize, 0..3), any::<u64>());
    prop_oneof![
        20 => request.prop_map(|(fails, tried, random)| Step::Request { fails, tried, random }),
        3 => (0..6usize, any::<bool>()).prop_map(|(index, passed)| Step::Check { index, passed }),
        3 => (0..30u64).prop_map(Step::Wait),
        1 => proptest::collection::vec(1..9u16, 0..7).prop_map(Step::Renew),
    ]
}

proptest! {
    /// No request goes to an unavailable replica outside of panic mode, none goes to the same one twice while there is
    /// another, and no more replicas are ejected than allowed.
    #[test]
    fn promises(policy in 0..6usize, panic in 0..=100u32, share in 0..=100u32, steps in proptest::collection::vec(step(), 1..200)) {
        use Policy::{Hash, LeastInFlight, Random, RoundRobin, Weighted, WeightedRandom};
        let policy = [RoundRobin, Weighted, Random, WeightedRandom, LeastInFlight, Hash][policy];
        let read = spec("[upstream.health]\npath = '/'");
        let mut spec = Spec { policy, panic: Percent::whole(panic), ..(*read).clone() };
        (spec.ejection.share, spec.ejection.failures) = (Percent::whole(share), 2);
        let spec = Arc::new(spec);
        let mut now = Instant::now();
        let mut replicas = Replicas::new(Arc::clone(&spec), found(&[1, 2, 3, 4]), None, now);
        let mut in_flight = Vec::new();
        let mut panicked = false;
        for step in steps {
            match step {
                Step::Wait(seconds) => now += SECOND * seconds as u32,
                Step::Check { index, passed } => {
replicas.record_check(index, passed, now);
}
                Step::Renew(ports) => replicas = Replicas::new(Arc::clone(&spec), found(&ports), Some(&replicas), now),
                Step::Request { fails, tried, random } => {
                    let status: Vec<_> = replicas.iter().map(|(replica, _)| replica.status(now)).collect();
                    let usable: Vec<_> = (0..status.len()).filter(|index| status[*index] == HealthStatus::Available).collect();
                    let panics = usable.len() * 100 < status.len() * panic as usize;
                    let usable = if panics { (0..status.len()).collect() } else { usable };
                    let fresh: Vec<_> = usable.iter().filter(|index| !tried.contains(index)).copied().collect();
                    let allowed = if fresh.is_empty() { usable } else { fresh };
                    let another = replicas.has_another(now, &tried);
                    let chosen = replicas.choose(now, Some(random), random, &tried);
                    prop_assert_eq!(chosen.is_some(), !allowed.is_empty());
                    prop_assert_eq!(another, allowed.iter().any(|index| !tried.contains(index)));
                    let Some(chosen) = chosen else { continue };
                    prop_assert!(allowed.contains(&chosen.index), "{} of {allowed:?}", chosen.index);
                    prop_assert_eq!(chosen.panic_change.is_some(), panics != panicked);
                    panicked = panics;
                    let ejected = |status: &HealthStatus| matches!(status, HealthStatus::Ejected(_));
                    let before = status.iter().filter(|status| ejected(status)).count();
                    let change = replicas.settle(&chosen, if fails { TryOutcome::Reset } else { FINE }, now);
                    if let Some(HealthChange::Ejected(_)) = change {
                        prop_assert!((before + 1) * 100 <= status.len() * share as usize);
                    }
                    in_flight.push(chosen);
                }
            }
        }
        drop(in_flight);
        prop_assert!(replicas.iter().all(|(replica, _)| replica.in_flight() == 0));
    }
}
