//! Which of the replicas that can be used gets a request.
//!
//! Pure but for a counter: randomness is 64 bits that the caller passes in. A choice looks at each candidate a few times
//! and allocates nothing.

mod hash;
mod smooth;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use self::smooth::SmoothRoundRobin;
use crate::base::ids::mix;
use crate::manifest::upstream::Policy;

/// A replica that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the set.
    pub index: usize,
    /// What it counts for, 1 or more; only how weights compare matters.
    pub weight: u32,
    /// Requests that it is answering.
    pub in_flight: usize,
    /// Random bits that are always the same for the same replica, and different for others.
    pub seed: u64,
}

/// A policy, and what it must remember from choice to choice.
#[derive(Debug)]
pub enum Balancer {
    /// How many have been chosen.
    RoundRobin(AtomicUsize),
    /// Where each is in its cycle.
    Weighted(SmoothRoundRobin),
    /// Remembers nothing.
    Random,
    /// Remembers nothing.
    WeightedRandom,
    /// Remembers nothing.
    LeastInFlight,
    /// Remembers nothing.
    Hash,
}

impl Balancer {
    /// For a set of so many replicas.
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

    /// The index of one of the candidates, or nothing when there are none. `again` says that the request was sent before;
    /// `key` is what hashing goes by, and a request without one goes anywhere.
    pub fn pick<I>(&self, candidates: I, key: Option<u64>, random: u64, again: bool) -> Option<usize>
    where
        I: Iterator<Item = Candidate> + Clone,
    {
        let picked = match self {
            // Were the turn after a failure a turn like others, then of two replicas one could get all first tries.
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

/// Candidates can become fewer while they are looked at; the last one then stands for those that are gone.
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

/// Drawn by weight, so that weights hold as well while there is little to do, when nobody has anything in flight. Two
/// and not all: workers that choose at the same moment then do not all choose the same one.
fn least_of_two(candidates: impl Iterator<Item = Candidate> + Clone, random: u64) -> Option<Candidate> {
    let one = by_weight(candidates.clone(), random)?;
    let others = candidates.filter(|candidate| candidate.index != one.index);
    let Some(other) = by_weight(others, mix(random)) else { return Some(one) };
    let load = |of: Candidate, weight: u32| of.in_flight as u128 * u128::from(weight);
    Some(if load(other, one.weight) < load(one, other.weight) { other } else { one })
}

/// A number below `limit`, or zero when that is, each as likely as the other to 1 in 2^64 / `limit`.
fn below(random: u64, limit: u64) -> u64 {
    ((u128::from(random) * u128::from(limit)) >> 64) as u64
}

#[cfg(test)]
mod tests;
