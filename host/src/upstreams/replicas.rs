//! The replicas of an upstream: who is there, which of them gets a request, and what became of it.
//!
//! A set is made anew when a manifest changes or a name resolves to something else. What is known of a replica that is in
//! both is the same value in both, so that neither undoes an ejection or forgets a request that is in flight.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::balance::{Balancer, Candidate};
use super::health::{FULL, Health, HealthChange, HealthStatus};
use super::retry::TryOutcome;
use super::transport::Target;
use crate::base::ids::hash_of;
use crate::base::lock::lock;
use crate::manifest::upstream::{MOST_REPLICAS, Spec};

/// A replica, and what is known of it in every set that it is in.
#[derive(Debug)]
pub struct Replica {
    /// Where it is.
    pub address: Target,
    /// Whether it can be used.
    pub health: Health,
    in_flight: AtomicUsize,
    /// Why it was out the last time.
    cause: Mutex<Option<String>>,
    /// What it is told apart by when hashing.
    seed: u64,
}

/// All that there are at a time. Shared by all workers.
pub struct Replicas {
    spec: Arc<Spec>,
    members: Vec<Member>,
    balancer: Balancer,
    /// All are used because too few are available. Known, so that it is said once.
    in_panic: AtomicBool,
    /// Held by whoever ejects: two at once could leave out more than they may. Shared with the sets before and after.
    ejecting: Arc<Mutex<()>>,
    left_out: usize,
}

#[derive(Debug)]
struct Member {
    replica: Arc<Replica>,
    weight: u32,
}

/// A replica that answers a request. Dropping it ends that: it has to live to the last byte.
#[derive(Debug)]
pub struct ChosenReplica {
    /// Its place in the set that it was chosen from: what to name among those tried.
    pub index: usize,
    /// What the operator should hear of.
    pub panic_change: Option<PanicChange>,
    replica: Arc<Replica>,
}

/// What has just become of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicChange {
    /// So few are available that all are used from now on.
    Entered {
        /// Replicas that are available.
        available: usize,
    },
    /// Enough are available again.
    Left {
        /// Replicas that are available.
        available: usize,
    },
}

impl Replicas {
    /// A set of what was found, with weights from 1. What `before` knows of those that were there then goes on; others
    /// are new. Whatever is there twice counts once, and what is over [`MOST_REPLICAS`] is left out: the last by address,
    /// because names resolve to another order each time.
    pub fn new(spec: Arc<Spec>, found: Vec<(Target, u32)>, before: Option<&Self>, now: Instant) -> Self {
        let known = before.into_iter().flat_map(|before| &before.members);
        let known: HashMap<_, _> = known.map(|member| (&member.replica.address, &member.replica)).collect();
        let mut seen = HashSet::new();
        let mut members = Vec::new();
        for (address, weight) in found {
            if seen.insert(address.clone()) {
                let replica = known.get(&address).map(|replica| Arc::clone(replica));
                let replica = replica.unwrap_or_else(|| Arc::new(Replica::new(address, now)));
                members.push(Member { replica, weight: weight.max(1) });
            }
        }
        let left_out = members.len().saturating_sub(MOST_REPLICAS);
        if left_out > 0 {
            members.sort_by(|one: &Member, other| one.replica.address.cmp(&other.replica.address));
            members.truncate(MOST_REPLICAS);
        }
        if spec.health.path.is_none() {
            members.iter().for_each(|member| member.replica.health.forget_checks(now));
        }
        Self {
            balancer: Balancer::new(spec.policy, members.len()),
            in_panic: AtomicBool::new(before.is_some_and(|before| before.in_panic.load(Relaxed))),
            ejecting: before.map(|before| Arc::clone(&before.ejecting)).unwrap_or_default(),
            spec,
            members,
            left_out,
        }
    }

    /// Whether this is the set of what was found, in whatever order: then no other one is needed.
    pub fn is_of(&self, found: &[(Target, u32)]) -> bool {
        let ours: HashMap<_, _> = self.iter().map(|(replica, weight)| (&replica.address, weight)).collect();
        let same = |(address, weight): &(Target, u32)| ours.get(address) == Some(&(*weight).max(1));
        found.len() == ours.len() && found.iter().all(same)
    }

    /// One for a request: any that is available and not among those `tried` (their places in this set); if there is none,
    /// one that was tried. When too few are available, all of them count as that. `key` is what hashing goes by, `random`
    /// 64 bits that are. Takes about 100 ns of three replicas, and 20 ns more for each of many.
    pub fn choose(&self, now: Instant, key: Option<u64>, random: u64, tried: &[usize]) -> Option<ChosenReplica> {
        let available = self.available(now);
        let in_panic = self.has_too_few(available);
        let members = self.members.iter().enumerate();
        let usable = members.filter_map(|(index, member)| self.candidate(index, member, now, in_panic));
        let again = !tried.is_empty();
        let fresh = usable.clone().filter(|candidate| !tried.contains(&candidate.index));
        let index = self.balancer.pick(fresh, key, random, again);
        let index = index.or_else(|| self.balancer.pick(usable, key, random, again))?;
        let replica = Arc::clone(&self.members.get(index)?.replica);
        let panic_change = self.panic_change(in_panic, available);
        replica.in_flight.fetch_add(1, Relaxed);
        Some(ChosenReplica { index, panic_change, replica })
    }

    /// Whether [`choose`](Self::choose) finds one that is not among those `tried`.
    pub fn has_another(&self, now: Instant, tried: &[usize]) -> bool {
        let in_panic = self.has_too_few(self.available(now));
        let mut others = self.members.iter().enumerate().filter(|(index, _)| !tried.contains(index));
        others.any(|(_, member)| in_panic || member.replica.health.is_available(now))
    }

    fn candidate(&self, index: usize, member: &Member, now: Instant, in_panic: bool) -> Option<Candidate> {
        let Replica { health, in_flight, seed, .. } = &*member.replica;
        let share = health.share(now, self.spec.slow_start).or(in_panic.then_some(FULL))?;
        let weight = member.weight.saturating_mul(share);
        Some(Candidate { index, weight, in_flight: in_flight.load(Relaxed), seed: *seed })
    }

    /// Replicas that can be used.
    pub fn available(&self, now: Instant) -> usize {
        self.members.iter().filter(|member| member.replica.health.is_available(now)).count()
    }

    fn has_too_few(&self, available: usize) -> bool {
        available * 100 < self.members.len() * usize::from(self.spec.panic.0)
    }

    /// To whoever notices it first.
    fn panic_change(&self, in_panic: bool, available: usize) -> Option<PanicChange> {
        // Read first: all cores read it, and it hardly ever changes.
        if self.in_panic.load(Relaxed) == in_panic || self.in_panic.swap(in_panic, Relaxed) == in_panic {
            return None;
        }
        Some(if in_panic { PanicChange::Entered { available } } else { PanicChange::Left { available } })
    }

    /// What became of a try. A request whose client went away says nothing about the replica, and is not settled.
    pub fn settle(&self, chosen: &ChosenReplica, outcome: TryOutcome, now: Instant) -> Option<HealthChange> {
        let (health, ejection) = (&chosen.replica.health, &self.spec.ejection);
        match outcome.verdict()? {
            true => {
                health.record_success();
                return None;
            }
            false if !health.record_failure(now, ejection) => return None,
            false => {}
        }
        let _ejecting = lock(&self.ejecting);
        let ejected = self.members.iter().filter(|member| member.replica.health.is_ejected(now)).count();
        let most = ejection.share.of(self.members.len() as u64);
        if (ejected as u64) < most { health.eject(now, ejection) } else { None }
    }

    /// The result of a check of the replica in this place.
    pub fn record_check(&self, index: usize, passed: bool, now: Instant) -> Option<HealthChange> {
        self.members.get(index)?.replica.health.record_check(now, passed, &self.spec.health)
    }

    /// All of them with their weights, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<Replica>, u32)> {
        self.members.iter().map(|member| (&member.replica, member.weight))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How many were found over [`MOST_REPLICAS`].
    pub fn left_out(&self) -> usize {
        self.left_out
    }
}

impl Replica {
    fn new(address: Target, now: Instant) -> Self {
        let seed = hash_of(address.to_string().as_bytes());
        Self { address, health: Health::new(now), in_flight: AtomicUsize::new(0), cause: Mutex::default(), seed }
    }

    /// Requests that it is answering.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// What it is, for people.
    pub fn status(&self, now: Instant) -> HealthStatus {
        self.health.status(now)
    }

    /// Remembers why it is out.
    pub fn set_cause(&self, why: &str) {
        *lock(&self.cause) = Some(why.to_owned());
    }

    /// Why it was out the last time.
    pub fn cause(&self) -> Option<String> {
        lock(&self.cause).clone()
    }
}

impl ChosenReplica {
    /// Which it is.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }
}

impl Drop for ChosenReplica {
    fn drop(&mut self) {
        self.replica.in_flight.fetch_sub(1, Relaxed);
    }
}

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.members).finish()
    }
}

#[cfg(test)]
mod tests;
