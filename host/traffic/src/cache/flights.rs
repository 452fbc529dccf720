//! Requests for the same at the same time: one of them asks the service, the others wait for what it brings.
//!
//! The one that asks holds a [`Lead`]. When that is dropped, those that wait look again: there is a response now, or word
//! that there will be none, or one of them takes the lead. Responses that must not be stored must not make a queue of
//! their clients, so such news is remembered for a while, and until then every request goes alone. A lead also is what a
//! purge, or a POST, takes the right to store from: what was asked for before must not be stored after.
//!
//! A wait ends by time, too: a request that has waited as long as it may goes itself, and nobody else waits for the
//! flight that kept it. Its response may be on its way to a client that reads slowly.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use tokio::sync::Semaphore;

use super::store::Key;
use lodge_base::lock::lock;

/// How long it is remembered that an answer could not be kept. Ends early with one that can.
const ALONE: Duration = Duration::from_secs(30);

/// Of how many requests that is remembered.
const REMEMBERED: usize = 16 << 10;

/// All of them.
pub(super) struct Flights {
    /// Those of one key; as many at most as there are requests.
    flying: Mutex<Flying>,
    /// Hash of a request → until when its like go alone. Two that share a hash lose nothing but company.
    alone: Cache<u64, Instant>,
    hasher: RandomState,
}

type Flying = HashMap<Key, Vec<Arc<Flight>>>;

/// One request that asks its service.
pub(super) struct Flight {
    key: Key,
    like: u64,
    /// Others may wait for it.
    followed: AtomicBool,
    followers: AtomicUsize,
    doomed: AtomicBool,
    /// Has no permits, ever: it is closed when the flight is over.
    landed: Semaphore,
}

/// The right to ask a service for others, and to store what it says. Dropping it ends the flight.
pub(super) struct Lead {
    flights: Arc<Flights>,
    flight: Arc<Flight>,
}

/// What a request does next.
pub(super) enum Joined {
    /// It asks.
    Lead(Lead),
    /// It waits for this.
    Follow(Arc<Flight>),
}

impl Flights {
    /// None yet.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { flying: Mutex::default(), alone: Cache::new(REMEMBERED), hasher: RandomState::new() })
    }

    /// What tells requests apart that ask for one key and would not take each other's answers.
    pub(super) fn like(&self, it: impl Hash) -> u64 {
        self.hasher.hash_one(it)
    }

    /// Follows the flight that there is, if fewer than `most` have; else leads one. With none to follow it and none
    /// known to be in vain, the new one can be followed; never for `most` of 0.
    pub(super) fn join(self: &Arc<Self>, key: &Key, like: u64, most: usize, now: Instant) -> Joined {
        let known = self.alone.get(&like).filter(|until| now < *until);
        let mut flying = lock(&self.flying);
        let followed = match followable(&flying, key, like) {
            _ if known.is_some() || most == 0 => false,
            None => true,
            Some(flight) if flight.followers.fetch_add(1, Relaxed) < most => return Joined::Follow(Arc::clone(flight)),
            Some(_) => false,
        };
        Joined::Lead(self.lead(&mut flying, key, like, followed))
    }

    /// Leads in the place of a flight that was waited for in vain: nobody waits for that one any more. The new one can be
    /// followed, unless there is another by now.
    pub(super) fn instead_of(self: &Arc<Self>, stuck: &Flight) -> Lead {
        let mut flying = lock(&self.flying);
        stuck.followed.store(false, Relaxed);
        let followed = followable(&flying, &stuck.key, stuck.like).is_none();
        self.lead(&mut flying, &stuck.key, stuck.like, followed)
    }

    fn lead(self: &Arc<Self>, flying: &mut Flying, key: &Key, like: u64, followed: bool) -> Lead {
        let flight = Arc::new(Flight {
            key: key.clone(),
            like,
            followed: AtomicBool::new(followed),
            followers: AtomicUsize::new(0),
            doomed: AtomicBool::new(false),
            landed: Semaphore::new(0),
        });
        flying.entry(key.clone()).or_default().push(Arc::clone(&flight));
        Lead { flights: Arc::clone(self), flight }
    }

    /// Does something to the store after which nothing may be stored that was asked for before, of keys that are so.
    pub(super) fn doom<T>(&self, so: impl Fn(&Key) -> bool, act: impl FnOnce() -> T) -> T {
        let mut flying = lock(&self.flying);
        for (_, flights) in flying.extract_if(|key, _| so(key)) {
            flights.iter().for_each(|flight| flight.doomed.store(true, Relaxed));
        }
        act()
    }

    /// The same of one key.
    pub(super) fn doom_key<T>(&self, key: &Key, act: impl FnOnce() -> T) -> T {
        let mut flying = lock(&self.flying);
        let flights = flying.remove(key);
        flights.iter().flatten().for_each(|flight| flight.doomed.store(true, Relaxed));
        act()
    }

    /// Flights that are not over.
    #[cfg(test)]
    pub(super) fn flying(&self) -> usize {
        lock(&self.flying).values().map(Vec::len).sum()
    }
}

/// The flight that such a request may wait for.
fn followable<'a>(flying: &'a Flying, key: &Key, like: u64) -> Option<&'a Arc<Flight>> {
    let mut all = flying.get(key).into_iter().flatten();
    all.find(|flight| flight.followed.load(Relaxed) && flight.like == like)
}

impl Flight {
    /// Ready when it is over.
    pub(super) async fn landed(&self) {
        // It is never acquired; that it is closed is the news.
        let _ = self.landed.acquire().await;
    }
}

impl Lead {
    /// What is asked for.
    pub(super) fn key(&self) -> &Key {
        &self.flight.key
    }

    /// Whether others may be waiting.
    pub(super) fn is_followed(&self) -> bool {
        self.flight.followed.load(Relaxed)
    }

    /// Stores what was brought, unless it is too late for that. `store` says whether there was a place for it.
    pub(super) fn land(self, store: impl FnOnce(Key) -> bool) {
        let flying = lock(&self.flights.flying);
        let refused = !self.flight.doomed.load(Relaxed) && !store(self.flight.key.clone());
        drop(flying);
        if refused {
            return self.barren();
        }
        self.flights.alone.remove(&self.flight.like);
    }

    /// The same as [`barren`](Self::barren), after a change of what is stored. Nobody else changes it meanwhile.
    pub(super) fn barren_after(self, change: impl FnOnce(&Key)) {
        let flying = lock(&self.flights.flying);
        change(&self.flight.key);
        drop(flying);
        self.barren();
    }

    /// There is nothing to store, and it is not worth waiting for another.
    pub(super) fn barren(self) {
        self.barren_at(Instant::now());
    }

    fn barren_at(self, now: Instant) {
        self.flights.alone.insert(self.flight.like, now + ALONE);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let mut flying = lock(&self.flights.flying);
        // Those that a purge has taken out are not there any more.
        if let Some(flights) = flying.get_mut(&self.flight.key) {
            flights.retain(|flight| !Arc::ptr_eq(flight, &self.flight));
            if flights.is_empty() {
                flying.remove(&self.flight.key);
            }
        }
        drop(flying);
        self.flight.landed.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> Key {
        Key::new("users", &format!("http://h{path}").parse().unwrap())
    }

    fn leads(flights: &Arc<Flights>, like: u64, now: Instant) -> Option<Lead> {
        match flights.join(&key("/a"), like, 2, now) {
            Joined::Lead(lead) => Some(lead),
            Joined::Follow(_) => None,
        }
    }

    #[tokio::test]
    async fn one_asks_and_the_others_wait() {
        let start = Instant::now();
        let flights = Flights::new();
        let lead = leads(&flights, 1, start).unwrap();
        let Joined::Follow(followed) = flights.join(&key("/a"), 1, 2, start) else { panic!("two lead") };
        assert!(leads(&flights, 2, start).is_some(), "another kind of request waits for nothing");
        let mut waiting = Box::pin(followed.landed());
        assert!(futures_pending(&mut waiting));
        drop(lead);
        waiting.await;
        let mut stored = 0;
        leads(&flights, 1, start).unwrap().land(|_| {
            stored += 1;
            true
        });
        assert_eq!((stored, flights.flying()), (1, 0));
    }

    #[test]
    fn no_more_wait_than_may() {
        let start = Instant::now();
        let flights = Flights::new();
        let _lead = leads(&flights, 1, start).unwrap();
        let joined: Vec<_> = (0..3).map(|_| leads(&flights, 1, start).is_some()).collect();
        assert_eq!(joined, [false, false, true]);
    }

    #[test]
    fn what_cannot_be_kept_makes_no_queue() {
        let start = Instant::now();
        let flights = Flights::new();
        leads(&flights, 1, start).unwrap().barren_at(start);
        let alone: Vec<_> = (0..3).map(|_| leads(&flights, 1, start).unwrap()).collect();
        assert_eq!((alone.len(), flights.flying()), (3, 3));
        drop(alone);
        // One that can be kept ends it, and so does time.
        leads(&flights, 1, start).unwrap().land(|_| true);
        let _lead = leads(&flights, 1, start).unwrap();
        assert!(leads(&flights, 1, start).is_none());
        // One that there was no place for does not.
        leads(&flights, 3, start).unwrap().land(|_| false);
        assert!((0..2).all(|_| leads(&flights, 3, start).is_some()));
        leads(&flights, 2, start).unwrap().barren_at(start);
        let _lead = leads(&flights, 2, start + ALONE).unwrap();
        assert!(leads(&flights, 2, start + ALONE).is_none());
    }

    #[test]
    fn what_was_asked_for_before_a_purge_is_not_stored_after() {
        let start = Instant::now();
        let flights = Flights::new();
        let (late, other) = (leads(&flights, 1, start).unwrap(), lead(&flights, "/b", 2));
        flights.doom_key(&key("/a"), || ());
        let fresh = leads(&flights, 1, start).expect("nobody waits for what is out of date");
        let mut stored = Vec::new();
        for (lead, name) in [(late, "late"), (fresh, "fresh"), (other, "other")] {
            lead.land(|_| {
                stored.push(name);
                true
            });
        }
        assert_eq!(stored, ["fresh", "other"]);
        let doomed = leads(&flights, 1, start).unwrap();
        flights.doom(|key| key.service() == "users", || ());
        doomed.land(|_| panic!("it was purged"));
    }

    /// A flight that keeps others waiting longer than they may is left behind, whatever becomes of it.
    #[test]
    fn nobody_waits_twice_for_what_is_stuck() {
        let (flights, start) = (Flights::new(), Instant::now());
        let _stuck = leads(&flights, 1, start).unwrap();
        let Joined::Follow(followed) = flights.join(&key("/a"), 1, 2, start) else { panic!("two lead") };
        let instead = flights.instead_of(&followed);
        assert!(instead.is_followed());
        let Joined::Follow(new) = flights.join(&key("/a"), 1, 2, start) else { panic!("it goes alone") };
        assert!(!Arc::ptr_eq(&new, &followed));
        // Another that has waited for the same finds the new one, and does not wait any more.
        assert!(!flights.instead_of(&followed).is_followed());
        assert!(matches!(flights.join(&key("/a"), 1, 2, start), Joined::Follow(still) if Arc::ptr_eq(&still, &new)));
    }

    fn lead(flights: &Arc<Flights>, path: &str, like: u64) -> Lead {
        flights.lead(&mut lock(&flights.flying), &key(path), like, false)
    }

    fn futures_pending(future: &mut (impl Future + Unpin)) -> bool {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::Pin::new(future).poll(&mut cx).is_pending()
    }
}
