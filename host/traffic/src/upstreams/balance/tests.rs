use lodge_base::ids::hash_of;
use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn set(weights: &[u32]) -> Vec<Candidate> {
    let named = |index| hash_of(format!("http://10.0.0.{index}:8080").as_bytes());
    let candidate =
        |(index, weight): (usize, &u32)| Candidate { index, weight: *weight, in_flight: 0, seed: named(index) };
    weights.iter().enumerate().map(candidate).collect()
}

fn pick(balancer: &Balancer, candidates: &[Candidate], random: u64) -> Option<usize> {
    balancer.pick(candidates.iter().copied(), None, random, false)
}

/// Returns a fixed sequence of pseudorandom numbers.
fn draws() -> impl Iterator<Item = u64> {
    (1..).map(|n: u64| mix(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

fn counts(picks: impl Iterator<Item = usize>, replicas: usize) -> Vec<f64> {
    let mut counts = vec![0.0; replicas];
    picks.for_each(|index| counts[index] += 1.0);
    counts
}

/// Pearson's chi-squared test at the 0.1 % level, for up to eight degrees of freedom.
fn is_by_weight(counts: &[f64], weights: &[u32]) {
    let (all, total) = (counts.iter().sum::<f64>(), f64::from(weights.iter().sum::<u32>()));
    let off = counts.iter().zip(weights).map(|(count, weight)| {
        let expected = all * f64::from(*weight) / total;
        (count - expected).powi(2) / expected
    });
    let critical = [0.0, 10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32, 26.12][counts.len() - 1];
    let off: f64 = off.sum();
    assert!(off < critical, "{counts:?} is not {weights:?}: {off}");
}

const POLICIES: [Policy; 6] =
    [Policy::RoundRobin, Policy::Weighted, Policy::Random, Policy::WeightedRandom, Policy::LeastInFlight, Policy::Hash];

#[test]
fn one_and_none() {
    for policy in POLICIES {
        let balancer = Balancer::new(policy, 3);
        assert_eq!(pick(&balancer, &[], 7), None, "{policy:?}");
        assert_eq!(pick(&balancer, &set(&[1, 1, 1])[2..], u64::MAX), Some(2), "{policy:?}");
    }
}

#[test]
fn one_after_another() {
    let (balancer, three) = (Balancer::new(Policy::RoundRobin, 3), set(&[1, 9, 1]));
    let order: Vec<_> = (0..7).filter_map(|_| pick(&balancer, &three, 0)).collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2, 0], "weights are ignored");
    // Without the first replica, the others get equal shares: the next one does not also get its turns.
    let two = counts(std::iter::repeat_with(|| pick(&balancer, &three[1..], 0).unwrap()).take(1000), 3);
    assert_eq!(two, [0.0, 500.0, 500.0]);
}

/// A replica that fails does not change which one gets the next first attempt.
#[test]
fn retries_do_not_shift_turns() {
    let (balancer, three) = (Balancer::new(Policy::RoundRobin, 3), set(&[1, 1, 1]));
    let mut first = vec![0; 3];
    for random in draws().take(999) {
        let one = pick(&balancer, &three, random).unwrap();
        first[one] += 1;
        if one == 0 {
            let others = three[1..].iter().copied();
            assert_ne!(balancer.pick(others, None, random, true), Some(0));
        }
    }
    assert_eq!(first, [333, 333, 333]);
}

/// The sequence in the commit message of nginx.
#[test]
fn weighted_turns_are_spread() {
    let balancer = Balancer::new(Policy::Weighted, 3);
    let weighted = set(&[5, 1, 1]);
    let order: Vec<_> = (0..14).filter_map(|_| pick(&balancer, &weighted, 0)).collect();
    assert_eq!(order, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
    let (balancer, weighted) = (Balancer::new(Policy::Weighted, 2), set(&[300, 200]));
    let order: Vec<_> = (0..5).filter_map(|_| pick(&balancer, &weighted, 0)).collect();
    assert_eq!(order, [0, 1, 0, 1, 0], "only how weights compare matters");
}

proptest! {
    /// After each selection, every replica has had at least its share of the complete cycles and at most that of the
    /// next one.
    #[test]
    fn weighted_turns_are_never_off_by_more_than_a_cycle(weights in proptest::collection::vec(1u32..20, 1..8), picks in 1usize..300) {
        let (balancer, candidates) = (Balancer::new(Policy::Weighted, weights.len()), set(&weights));
        let cycle: u32 = weights.iter().sum();
        let mut had = vec![0u32; weights.len()];
        for n in 1..=picks as u32 {
            had[pick(&balancer, &candidates, 0).unwrap()] += 1;
            for (had, weight) in had.iter().zip(&weights) {
                prop_assert!(*had >= n / cycle * weight && *had <= n.div_ceil(cycle) * weight, "{had} of {n} by {weight}/{cycle}");
            }
        }
    }

    /// Whatever the arguments, the result is one of the candidates.
    #[test]
    fn one_of_them(
        policy in 0..6usize,
        them in proptest::collection::btree_map(0usize..40, (1u32..1_000_000, 0usize..1000, any::<u64>()), 1..40),
        asked in proptest::collection::vec((any::<Option<u64>>(), any::<u64>(), any::<bool>()), 1..20),
    ) {
        let balancer = Balancer::new(POLICIES[policy], 40);
        let candidates = them.iter().map(|(&index, &(weight, in_flight, seed))| Candidate { index, weight, in_flight, seed });
        for (key, random, again) in asked {
            let picked = balancer.pick(candidates.clone(), key, random, again);
            prop_assert!(picked.is_some_and(|index| them.contains_key(&index)), "{picked:?}");
        }
    }
}

#[test]
fn random_choices_are_fair() {
    let weights = [4, 1, 2, 1, 12];
    for (policy, parts) in [(Policy::Random, [1; 5]), (Policy::WeightedRandom, weights)] {
        let (balancer, candidates) = (Balancer::new(policy, 5), set(&weights));
        let picks = draws().take(20_000).map(|random| pick(&balancer, &candidates, random).unwrap());
        is_by_weight(&counts(picks, 5), &parts);
    }
}

/// With nothing in flight, only the weights decide.
#[test]
fn weights_apply_without_load() {
    let weights = [100, 300, 50];
    let (balancer, candidates) = (Balancer::new(Policy::LeastInFlight, 3), set(&weights));
    let picks = draws().take(20_000).map(|random| pick(&balancer, &candidates, random).unwrap());
    is_by_weight(&counts(picks, 3), &weights);
}

#[test]
fn the_less_busy_of_two_is_chosen() {
    let balancer = Balancer::new(Policy::LeastInFlight, 3);
    let mut candidates = set(&[1, 1, 1]);
    candidates[1].in_flight = 1;
    let two = counts(draws().take(1000).map(|random| pick(&balancer, &candidates[..2], random).unwrap()), 2);
    assert_eq!(two, [1000.0, 0.0], "with two, both are compared");
    candidates[0].in_flight = 9;
    candidates[2].in_flight = 5;
    let three = counts(draws().take(9000).map(|random| pick(&balancer, &candidates, random).unwrap()), 3);
    assert_eq!(three[0], 0.0, "the busiest never wins");
    assert!(three[1] > 5500.0 && three[2] > 2500.0, "not all go to the least busy: {three:?}");
    // Half as busy relative to its weight.
    let mut heavy = set(&[1, 4]);
    (heavy[0].in_flight, heavy[1].in_flight) = (2, 4);
    assert!(draws().take(1000).all(|random| pick(&balancer, &heavy, random) == Some(1)));
    heavy[1].in_flight = 9;
    assert!(draws().take(1000).all(|random| pick(&balancer, &heavy, random) == Some(0)));
}

/// Requests never end here; the load evens out by weight.
#[test]
fn load_is_balanced() {
    let balancer = Balancer::new(Policy::LeastInFlight, 4);
    let mut candidates = set(&[1, 1, 2, 4]);
    for random in draws().take(800) {
        let index = pick(&balancer, &candidates, random).unwrap();
        candidates[index].in_flight += 1;
    }
    for candidate in &candidates {
        let load = candidate.in_flight as f64 / f64::from(candidate.weight);
        assert!((90.0..110.0).contains(&load), "{candidates:?}");
    }
}

fn owners(candidates: &[Candidate], keys: std::ops::Range<u64>) -> HashMap<u64, usize> {
    let balancer = Balancer::new(Policy::Hash, 8);
    let owner = |n: u64| {
        let key = hash_of(format!("user-{n}").as_bytes());
        (n, balancer.pick(candidates.iter().copied(), Some(key), n, false).unwrap())
    };
    keys.map(owner).collect()
}

#[test]
fn keys_are_divided_by_weight() {
    for weights in [vec![1; 8], vec![1, 2, 3, 4, 10], vec![100, 1000]] {
        let owners = owners(&set(&weights), 0..20_000);
        is_by_weight(&counts(owners.values().copied(), weights.len()), &weights);
    }
}

/// Of eight replicas, one that goes away moves only its eighth of the keys, and these spread over all others.
#[test]
fn only_keys_of_removed_replicas_move() {
    let all = set(&[1; 8]);
    let before = owners(&all, 0..20_000);
    let without: Vec<_> = all.iter().copied().filter(|candidate| candidate.index != 3).collect();
    let after = owners(&without, 0..20_000);
    let moved: Vec<_> = before.iter().filter(|(key, owner)| after[key] != **owner).collect();
    assert!(moved.iter().all(|(_, owner)| **owner == 3), "a key moved between those that stayed");
    assert_eq!(moved.len(), before.values().filter(|owner| **owner == 3).count());
    assert!((2_300..2_700).contains(&moved.len()), "{}", moved.len());
    let landed = counts(moved.iter().map(|(key, _)| after[key]), 8);
    is_by_weight(&[&landed[..3], &landed[4..]].concat(), &[1; 7]);
}

/// A replica with more weight only gains keys.
#[test]
fn only_the_share_that_changed_moves() {
    let (before, after) = (owners(&set(&[1; 4]), 0..20_000), owners(&set(&[1, 1, 2, 1]), 0..20_000));
    let moved: Vec<_> = before.iter().filter(|(key, owner)| after[key] != **owner).collect();
    assert!(moved.iter().all(|(key, _)| after[key] == 2));
    assert!((2_800..3_200).contains(&moved.len()), "{}: from a quarter to two fifths", moved.len());
}

/// Hosts of different versions must agree.
#[test]
fn hashes_never_change() {
    assert_eq!(hash_of(b""), mix(0xcbf2_9ce4_8422_2325));
    assert_eq!(hash_of(b"a"), mix(0xaf63_dc4c_8601_ec8c));
    assert_eq!(hash_of(b"foobar"), mix(0x8594_4171_f739_67e8));
}

#[test]
fn without_a_key_anywhere() {
    let (balancer, candidates) = (Balancer::new(Policy::Hash, 3), set(&[1, 1, 1]));
    let picks = draws().take(9000).map(|random| pick(&balancer, &candidates, random).unwrap());
    is_by_weight(&counts(picks, 3), &[1, 1, 1]);
}
