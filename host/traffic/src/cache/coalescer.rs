//! Request coalescing: of concurrent requests for the same response, one fetches it and the others wait.
//!
//! The one that fetches holds a [`FillGuard`]. When that is dropped, the waiting requests look again. They find a
//! response, or learn that it is uncacheable, or one of them starts a fill. So that requests for uncacheable responses
//! do not wait for one another, this fact is remembered for a while, and during it every request goes alone. Purges and
//! unsafe requests take from active fills the right to store: a response that was requested before an invalidation must
//! not be stored after it.
//!
//! Waiting is bounded: a request that has waited as long as it may fetches the response itself, and no other request
//! joins the fill that it waited for. That fill may be sending to a client that reads slowly.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use tokio::sync::Semaphore;

use super::store::CacheKey;
use lodge_base::lock::lock;

/// How long a response counts as uncacheable. Ends early when one is stored.
const UNCACHEABLE_FOR: Duration = Duration::from_secs(30);

/// The maximum number of uncacheable responses that are remembered.
const UNCACHEABLE_KEYS: usize = 16 << 10;

/// The fills of all services.
pub(super) struct Coalescer {
    /// The active fills by key: at most as many as there are requests.
    active: Mutex<Active>,
    /// Hash of a request → the time until which such requests go alone. A collision of hashes costs coalescing only.
    uncacheable: Cache<u64, Instant>,
    hasher: RandomState,
}

type Active = HashMap<CacheKey, Vec<Arc<Fill>>>;

/// One request that fetches a response.
pub(super) struct Fill {
    key: CacheKey,
    variant: u64,
    /// Other requests may wait for it.
    joinable: AtomicBool,
    waiters: AtomicUsize,
    invalidated: AtomicBool,
    /// Never has permits; it is closed when the fill ends.
    finished: Semaphore,
}

/// The right to fetch a response for other requests and to store it. Dropping it ends the fill.
pub(super) struct FillGuard {
    coalescer: Arc<Coalescer>,
    fill: Arc<Fill>,
}

/// What a request does next.
pub(super) enum Joined {
    /// It fetches the response.
    Fill(FillGuard),
    /// It waits for this fill.
    Wait(Arc<Fill>),
}

impl Coalescer {
    /// None yet.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            active: Mutex::default(),
            uncacheable: Cache::new(UNCACHEABLE_KEYS),
            hasher: RandomState::new(),
        })
    }

    /// A hash of what distinguishes requests under one key that cannot share a response.
    pub(super) fn variant(&self, it: impl Hash) -> u64 {
        self.hasher.hash_one(it)
    }

    /// Joins the active fill if fewer than `most` requests wait for it; else starts one. Others can join the new one if
    /// there was none to join, responses are not known to be uncacheable, and `most` is not 0.
    pub(super) fn join(self: &Arc<Self>, key: &CacheKey, variant: u64, most: usize, now: Instant) -> Joined {
        let known = self.uncacheable.get(&variant).filter(|until| now < *until);
        let mut active = lock(&self.active);
        let joinable = match joinable(&active, key, variant) {
            _ if known.is_some() || most == 0 => false,
            None => true,
            Some(fill) if fill.waiters.fetch_add(1, Relaxed) < most => return Joined::Wait(Arc::clone(fill)),
            Some(_) => false,
        };
        Joined::Fill(self.start(&mut active, key, variant, joinable))
    }

    /// Starts a fill in place of `stuck`, which no request can join any more. Others can join the new one unless another
    /// request has started one.
    pub(super) fn replace(self: &Arc<Self>, stuck: &Fill) -> FillGuard {
        let mut active = lock(&self.active);
        stuck.joinable.store(false, Relaxed);
        let joinable = joinable(&active, &stuck.key, stuck.variant).is_none();
        self.start(&mut active, &stuck.key, stuck.variant, joinable)
    }

    fn start(self: &Arc<Self>, active: &mut Active, key: &CacheKey, variant: u64, joinable: bool) -> FillGuard {
        let fill = Arc::new(Fill {
            key: key.clone(),
            variant,
            joinable: AtomicBool::new(joinable),
            waiters: AtomicUsize::new(0),
            invalidated: AtomicBool::new(false),
            finished: Semaphore::new(0),
        });
        active.entry(key.clone()).or_default().push(Arc::clone(&fill));
        FillGuard { coalescer: Arc::clone(self), fill }
    }

    /// Runs `act`, which removes responses. Fills under matching keys that are active now will not be stored.
    pub(super) fn invalidate<T>(&self, so: impl Fn(&CacheKey) -> bool, act: impl FnOnce() -> T) -> T {
        let mut active = lock(&self.active);
        for (_, coalescer) in active.extract_if(|key, _| so(key)) {
            coalescer.iter().for_each(|fill| fill.invalidated.store(true, Relaxed));
        }
        act()
    }

    /// The same as [`invalidate`](Self::invalidate), for one key.
    pub(super) fn invalidate_key<T>(&self, key: &CacheKey, act: impl FnOnce() -> T) -> T {
        let mut active = lock(&self.active);
        let coalescer = active.remove(key);
        coalescer.iter().flatten().for_each(|fill| fill.invalidated.store(true, Relaxed));
        act()
    }

    /// The number of active fills.
    #[cfg(test)]
    pub(super) fn active_fills(&self) -> usize {
        lock(&self.active).values().map(Vec::len).sum()
    }
}

/// The fill that a request may join.
fn joinable<'a>(active: &'a Active, key: &CacheKey, variant: u64) -> Option<&'a Arc<Fill>> {
    let mut all = active.get(key).into_iter().flatten();
    all.find(|fill| fill.joinable.load(Relaxed) && fill.variant == variant)
}

impl Fill {
    /// Waits for the end of the fill.
    pub(super) async fn finished(&self) {
        // Returns when the semaphore is closed.
        let _ = self.finished.acquire().await;
    }
}

impl FillGuard {
    /// The key of the response.
    pub(super) fn key(&self) -> &CacheKey {
        &self.fill.key
    }

    /// Whether other requests may be waiting.
    pub(super) fn is_joinable(&self) -> bool {
        self.fill.joinable.load(Relaxed)
    }

    /// Stores the response with `store`, unless it was invalidated. `store` returns false if there was no space for it.
    pub(super) fn store(self, store: impl FnOnce(CacheKey) -> bool) {
        let active = lock(&self.coalescer.active);
        let refused = !self.fill.invalidated.load(Relaxed) && !store(self.fill.key.clone());
        drop(active);
        if refused {
            return self.finish_uncacheable();
        }
        self.coalescer.uncacheable.remove(&self.fill.variant);
    }

    /// Runs `change` on the stored responses while no other fill can, then does as
    /// [`finish_uncacheable`](Self::finish_uncacheable).
    pub(super) fn finish_uncacheable_after(self, change: impl FnOnce(&CacheKey)) {
        let active = lock(&self.coalescer.active);
        change(&self.fill.key);
        drop(active);
        self.finish_uncacheable();
    }

    /// Ends the fill without a response. Later requests do not wait for one another.
    pub(super) fn finish_uncacheable(self) {
        self.finish_uncacheable_at(Instant::now());
    }

    fn finish_uncacheable_at(self, now: Instant) {
        self.coalescer.uncacheable.insert(self.fill.variant, now + UNCACHEABLE_FOR);
    }
}

impl Drop for FillGuard {
    fn drop(&mut self) {
        let mut active = lock(&self.coalescer.active);
        // An invalidation has removed it already.
        if let Some(coalescer) = active.get_mut(&self.fill.key) {
            coalescer.retain(|fill| !Arc::ptr_eq(fill, &self.fill));
            if coalescer.is_empty() {
                active.remove(&self.fill.key);
            }
        }
        drop(active);
        self.fill.finished.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> CacheKey {
        CacheKey::new("users", &format!("http://h{path}").parse().unwrap())
    }

    fn join(coalescer: &Arc<Coalescer>, variant: u64, now: Instant) -> Option<FillGuard> {
        match coalescer.join(&key("/a"), variant, 2, now) {
            Joined::Fill(guard) => Some(guard),
            Joined::Wait(_) => None,
        }
    }

    #[tokio::test]
    async fn one_request_fetches_and_the_others_wait() {
        let start = Instant::now();
        let coalescer = Coalescer::new();
        let guard = join(&coalescer, 1, start).unwrap();
        let Joined::Wait(joinable) = coalescer.join(&key("/a"), 1, 2, start) else { panic!("two guard") };
        assert!(join(&coalescer, 2, start).is_some(), "another variant does not wait");
        let mut waiting = Box::pin(joinable.finished());
        assert!(futures_pending(&mut waiting));
        drop(guard);
        waiting.await;
        let mut stored = 0;
        join(&coalescer, 1, start).unwrap().store(|_| {
            stored += 1;
            true
        });
        assert_eq!((stored, coalescer.active_fills()), (1, 0));
    }

    #[test]
    fn the_number_of_waiting_requests_is_bounded() {
        let start = Instant::now();
        let coalescer = Coalescer::new();
        let _lead = join(&coalescer, 1, start).unwrap();
        let joined: Vec<_> = (0..3).map(|_| join(&coalescer, 1, start).is_some()).collect();
        assert_eq!(joined, [false, false, true]);
    }

    #[test]
    fn requests_do_not_wait_for_uncacheable_responses() {
        let start = Instant::now();
        let coalescer = Coalescer::new();
        join(&coalescer, 1, start).unwrap().finish_uncacheable_at(start);
        let alone: Vec<_> = (0..3).map(|_| join(&coalescer, 1, start).unwrap()).collect();
        assert_eq!((alone.len(), coalescer.active_fills()), (3, 3));
        drop(alone);
        // A stored response ends the period, and so does time.
        join(&coalescer, 1, start).unwrap().store(|_| true);
        let _lead = join(&coalescer, 1, start).unwrap();
        assert!(join(&coalescer, 1, start).is_none());
        // A response without space in the store does not.
        join(&coalescer, 3, start).unwrap().store(|_| false);
        assert!((0..2).all(|_| join(&coalescer, 3, start).is_some()));
        join(&coalescer, 2, start).unwrap().finish_uncacheable_at(start);
        let _lead = join(&coalescer, 2, start + UNCACHEABLE_FOR).unwrap();
        assert!(join(&coalescer, 2, start + UNCACHEABLE_FOR).is_none());
    }

    #[test]
    fn a_response_requested_before_a_purge_is_not_stored() {
        let start = Instant::now();
        let coalescer = Coalescer::new();
        let (late, other) = (join(&coalescer, 1, start).unwrap(), guard(&coalescer, "/b", 2));
        coalescer.invalidate_key(&key("/a"), || ());
        let fresh = join(&coalescer, 1, start).expect("requests do not join an invalidated fill");
        let mut stored = Vec::new();
        for (guard, name) in [(late, "late"), (fresh, "fresh"), (other, "other")] {
            guard.store(|_| {
                stored.push(name);
                true
            });
        }
        assert_eq!(stored, ["fresh", "other"]);
        let invalidated = join(&coalescer, 1, start).unwrap();
        coalescer.invalidate(|key| key.service() == "users", || ());
        invalidated.store(|_| panic!("an invalidated response was stored"));
    }

    /// A fill that others have waited for too long can no longer be joined.
    #[test]
    fn no_request_waits_twice_for_a_stuck_fill() {
        let (coalescer, start) = (Coalescer::new(), Instant::now());
        let _stuck = join(&coalescer, 1, start).unwrap();
        let Joined::Wait(joinable) = coalescer.join(&key("/a"), 1, 2, start) else { panic!("two guard") };
        let instead = coalescer.replace(&joinable);
        assert!(instead.is_joinable());
        let Joined::Wait(new) = coalescer.join(&key("/a"), 1, 2, start) else { panic!("it was not joinable") };
        assert!(!Arc::ptr_eq(&new, &joinable));
        // A second request that has waited for the same fill finds the new one, and does not wait again.
        assert!(!coalescer.replace(&joinable).is_joinable());
        assert!(matches!(coalescer.join(&key("/a"), 1, 2, start), Joined::Wait(still) if Arc::ptr_eq(&still, &new)));
    }

    fn guard(coalescer: &Arc<Coalescer>, path: &str, variant: u64) -> FillGuard {
        coalescer.start(&mut lock(&coalescer.active), &key(path), variant, false)
    }

    fn futures_pending(future: &mut (impl Future + Unpin)) -> bool {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::Pin::new(future).poll(&mut cx).is_pending()
    }
}
