//! Load balancing: selects one of the available replicas.
//!
//! Pure except for a counter; the caller passes 64 random bits. A selection reads each candidate a few times and
//! allocates nothing.

mod hash;
mod smooth;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use self::smooth::SmoothRoundRobin;
use lodge_base::ids::mix;
use lodge_manifest::upstream::Policy;

/// An available replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its index in the set.
    pub index: usize,
    /// Its weight, at least 1. Only the ratio between weights matters.
    pub weight: u32,
    /// Requests in flight at it.
    pub in_flight: usize,
    /// A hash that identifies the replica.
    pub seed: u64,
}

/// A balancing policy and its state.
#[derive(Debug)]
pub enum Balancer {
    /// The number of selections so far.
    RoundRobin(AtomicUsize),
    /// The position of each replica in its cycle.
    Weighted(SmoothRoundRobin),
    /// No state.
    Random,
    /// No state.
    WeightedRandom,
    /// No state.
    LeastInFlight,
    /// No state.
    Hash,
}

impl Balancer {
    /// Creates the balancer for a set of `replicas` replicas.
    pub fn new(policy: Policy, replicas: usize) -> Self {
        match policy {
            Policy::RoundRobin => Self::RoundRobin(AtomicUsize::new(0)),
            Policy::Weighted => Self::Weighted(SmoothRoundRobin::new(replicas)),
            Policy::Random => Self::Random,
            Policy::WeightedRandom => Self::WeightedRandom,
            Policy::LeastInFlight => Self::LeastInFlight,
            Policy::Hash => Self::Hash,
        }
    }

    /// Returns the index of a candidate, or `None` if there are none. `again` is true for a retry. `key` is the hash
    /// key; a request without one goes to a random replica.
    pub fn pick<I>(&self, candidates: I, key: Option<u64>, random: u64, again: bool) -> Option<usize>
    where
        I: Iterator<Item = Candidate> + Clone,
    {
        let picked = match self {
            // A retry does not advance the counter: with two replicas, one of them could otherwise get all first
            // attempts.
            Self::RoundRobin(_) if again => evenly(candidates, random),
            Self::RoundRobin(turn) => {
                let count = candidates.clone().count();
                let turn = turn.fetch_add(1, Relaxed).checked_rem(count)?;
                nth(candidates, turn)
            }
            Self::Weighted(smooth) => smooth.pick(candidates),
            Self::Random => evenly(candidates, random),
            Self::WeightedRandom => by_weight(candidates, random),
            Self::LeastInFlight => least_of_two(candidates, random),
            Self::Hash => hash::pick(candidates, key.unwrap_or(random)),
        };
        picked.map(|candidate| candidate.index)
    }
}

/// Returns candidate `n`, or the last one: candidates can become unavailable between counting and this pass.
fn nth(candidates: impl Iterator<Item = Candidate>, n: usize) -> Option<Candidate> {
    let (mut left, mut last) = (n, None);
    for candidate in candidates {
        last = Some(candidate);
        if left == 0 {
            break;
        }
        left -= 1;
    }
    last
}

fn evenly(candidates: impl Iterator<Item = Candidate> + Clone, random: u64) -> Option<Candidate> {
    let count = candidates.clone().count();
    nth(candidates, below(random, count as u64) as usize)
}

fn by_weight(candidates: impl Iterator<Item = Candidate> + Clone, random: u64) -> Option<Candidate> {
    let total = candidates.clone().map(|candidate| u64::from(candidate.weight)).sum();
    let (mut left, mut last) = (below(random, total), None);
    for candidate in candidates {
        last = Some(candidate);
        match left.checked_sub(u64::from(candidate.weight)) {
            Some(rest) => left = rest,
            None => break,
        }
    }
    last
}

/// Draws two candidates by weight and returns the less loaded one. Drawing by weight makes weights hold even when
/// nothing is in flight. With two instead of all, concurrent workers do not all choose the same replica.
fn least_of_two(candidates: impl Iterator<Item = Candidate> + Clone, random: u64) -> Option<Candidate> {
    let one = by_weight(candidates.clone(), random)?;
    let others = candidates.filter(|candidate| candidate.index != one.index);
    let Some(other) = by_weight(others, mix(random)) else { return Some(one) };
    let load = |of: Candidate, weight: u32| of.in_flight as u128 * u128::from(weight);
    Some(if load(other, one.weight) < load(one, other.weight) { other } else { one })
}

/// Returns a number below `limit` (0 if `limit` is 0). The bias is at most `limit` / 2^64.
fn below(random: u64, limit: u64) -> u64 {
    ((u128::from(random) * u128::from(limit)) >> 64) as u64
}

#[cfg(test)]
mod tests;
