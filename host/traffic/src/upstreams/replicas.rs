//! The set of an upstream's replicas: selects one for a request and records the outcome.
//!
//! A new set is built when the manifest changes or a name resolves to other addresses. Both sets share the [`Replica`]
//! of an address that is in both, so a new set neither ends an ejection nor loses the count of requests in flight.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::balance::{Balancer, Candidate};
use super::health::{FULL, Health, HealthChange, HealthStatus};
use super::retry::TryOutcome;
use super::transport::Target;
use lodge_base::ids::hash_of;
use lodge_base::lock::lock;
use lodge_manifest::upstream::{MOST_REPLICAS, Spec};

/// A replica and its state, shared by all sets that contain it.
#[derive(Debug)]
pub struct Replica {
    /// Its address.
    pub address: Target,
    /// Its health.
    pub health: Health,
    in_flight: AtomicUsize,
    /// Why it was unavailable the last time.
    cause: Mutex<Option<String>>,
    /// The hash of its address, which identifies it in rendezvous hashing.
    seed: u64,
}

/// All replicas at one time. Shared by all worker threads.
pub struct Replicas {
    spec: Arc<Spec>,
    members: Vec<Member>,
    balancer: Balancer,
    /// Panic mode: too few replicas are available, so all are used. Stored so that a change is logged once.
    in_panic: AtomicBool,
    /// Held while a replica is ejected: two concurrent ejections could exceed the maximum. Shared with earlier and
    /// later sets.
    ejecting: Arc<Mutex<()>>,
    left_out: usize,
    has_far: bool,
}

#[derive(Debug)]
struct Member {
    replica: Arc<Replica>,
    weight: u32,
    /// Whether it is for other zones.
    is_far: bool,
}

/// The replica that handles a request. Counts as in flight until it is dropped, so it must live until the last byte of
/// the response.
#[derive(Debug)]
pub struct ChosenReplica {
    /// Its index in the set, for the list of replicas already tried.
    pub index: usize,
    /// A change of panic mode that this selection found, to be logged.
    pub panic_change: Option<PanicChange>,
    replica: Arc<Replica>,
}

/// A change of panic mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicChange {
    /// Too few replicas are available; all are used from now on.
    Entered {
        /// The number of available replicas.
        available: usize,
    },
    /// Enough replicas are available again.
    Left {
        /// The number of available replicas.
        available: usize,
    },
}

impl Replicas {
    /// Builds a set of the replicas in `found`, with weights of at least 1. Takes over the state of replicas that are
    /// also in `before`. Of duplicates, the first counts. Beyond [`MOST_REPLICAS`], those with the highest addresses
    /// are left out; the order of a DNS response changes every time, so it cannot decide.
    pub fn new(spec: Arc<Spec>, found: Vec<(Target, u32)>, before: Option<&Self>, now: Instant) -> Self {
        let known = before.into_iter().flat_map(|before| &before.members);
        let known: HashMap<_, _> = known.map(|member| (&member.replica.address, &member.replica)).collect();
        let mut seen = HashSet::new();
        let mut members = Vec::new();
        for (address, weight) in found {
            if seen.insert(address.clone()) {
                let replica = known.get(&address).map(|replica| Arc::clone(replica));
                let replica = replica.unwrap_or_else(|| Arc::new(Replica::new(address, now)));
                members.push(Member { replica, weight: weight.max(1), is_far: false });
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
            has_far: false,
        }
    }

    /// Marks the replicas that are for other zones. They are selected when no other one is available, or was tried.
    pub fn with_far(mut self, far: &HashSet<&Target>) -> Self {
        self.members.iter_mut().for_each(|member| member.is_far = far.contains(&member.replica.address));
        self.has_far = !far.is_empty();
        self
    }

    /// Returns whether the set has exactly the replicas and weights of `found`, in any order.
    pub fn is_of(&self, found: &[(Target, u32)]) -> bool {
        let ours: HashMap<_, _> = self.iter().map(|(replica, weight)| (&replica.address, weight)).collect();
        let same = |(address, weight): &(Target, u32)| ours.get(address) == Some(&(*weight).max(1));
        found.len() == ours.len() && found.iter().all(same)
    }

    /// Selects a replica for a request: an available one whose index is not in `tried`, or else one that was tried;
    /// first among those that are not [far](Self::with_far). In panic mode, all replicas count as available. `key` is the hash key of the request, `random` 64 random bits.
    /// Takes about 100 ns for three replicas and 20 ns more for each further one.
    pub fn choose(&self, now: Instant, key: Option<u64>, random: u64, tried: &[usize]) -> Option<ChosenReplica> {
        let available = self.available(now);
        let in_panic = self.has_too_few(available);
        let members = self.members.iter().enumerate();
        let usable = members.filter_map(|(index, member)| self.candidate(index, member, now, in_panic));
        let again = !tried.is_empty();
        let fresh = usable.clone().filter(|candidate| !tried.contains(&candidate.index));
        let near = fresh.clone().filter(|candidate| self.members.get(candidate.index).is_some_and(|it| !it.is_far));
        let index = if self.has_far { self.balancer.pick(near, key, random, again) } else { None };
        let index = index.or_else(|| self.balancer.pick(fresh, key, random, again));
        let index = index.or_else(|| self.balancer.pick(usable, key, random, again))?;
        let replica = Arc::clone(&self.members.get(index)?.replica);
        let panic_change = self.panic_change(in_panic, available);
        replica.in_flight.fetch_add(1, Relaxed);
        Some(ChosenReplica { index, panic_change, replica })
    }

    /// Returns whether [`choose`](Self::choose) would find a replica that is not in `tried`.
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

    /// Returns the number of available replicas.
    pub fn available(&self, now: Instant) -> usize {
        self.members.iter().filter(|member| member.replica.health.is_available(now)).count()
    }

    fn has_too_few(&self, available: usize) -> bool {
        !self.spec.panic.is_reached(available as u64, self.members.len() as u64)
    }

    /// Returns a change of panic mode, to the first caller that notices it.
    fn panic_change(&self, in_panic: bool, available: usize) -> Option<PanicChange> {
        // Loads before it swaps: all cores read this flag, and it rarely changes.
        if self.in_panic.load(Relaxed) == in_panic || self.in_panic.swap(in_panic, Relaxed) == in_panic {
            return None;
        }
        Some(if in_panic { PanicChange::Entered { available } } else { PanicChange::Left { available } })
    }

    /// Records the outcome of an attempt, and ejects the replica if that is due. Must not be called when the client
    /// went away, which says nothing about the replica.
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

    /// Records the result of a health check of the replica at `index`.
    pub fn record_check(&self, index: usize, passed: bool, now: Instant) -> Option<HealthChange> {
        self.members.get(index)?.replica.health.record_check(now, passed, &self.spec.health)
    }

    /// Returns all replicas with their weights, in the order of their indexes.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<Replica>, u32)> {
        self.members.iter().map(|member| (&member.replica, member.weight))
    }

    /// Returns the number of replicas.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Returns whether there are no replicas.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Returns how many replicas beyond [`MOST_REPLICAS`] were left out.
    pub fn left_out(&self) -> usize {
        self.left_out
    }
}

impl Replica {
    fn new(address: Target, now: Instant) -> Self {
        let seed = hash_of(address.to_string().as_bytes());
        Self { address, health: Health::new(now), in_flight: AtomicUsize::new(0), cause: Mutex::default(), seed }
    }

    /// Returns the number of requests in flight at this replica.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Returns the health status.
    pub fn status(&self, now: Instant) -> HealthStatus {
        self.health.status(now)
    }

    /// Stores why the replica is unavailable.
    pub fn set_cause(&self, why: &str) {
        *lock(&self.cause) = Some(why.to_owned());
    }

    /// Returns why the replica was unavailable the last time.
    pub fn cause(&self) -> Option<String> {
        lock(&self.cause).clone()
    }
}

impl ChosenReplica {
    /// Returns the replica.
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
