//! Request coalescing: of concurrent requests for the same response, one fetches it and the others wait.
//!
//! The one that fetches holds a [`FillGuard`]. What becomes of those that wait is decided once, when it ends:
//!
//! * a response was stored, or invalidated meanwhile: all of them look again;
//! * the response cannot be stored: each of them goes alone;
//! * nothing is known of the response for others, since a policy refused the request, its client left, or it failed,
//!   which a client can cause: exactly one of them takes over the fill, and the others still wait.
//!
//! So a request is woken a fixed number of times, however many of those before it fail, and one that fails does not send
//! all of them to the service at once. If all fail, they go one after the other until their time is over. So that requests for
//! uncacheable responses do not wait for one another, the service's word on that is remembered for a while, and during
//! it every request goes alone. Purges and unsafe requests take from active fills the right to store: a response that
//! was requested before an invalidation must not be stored after it.
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
    active: Mutex<HashMap<CacheKey, KeyFills>>,
    /// Hash of a request → the time until which such requests go alone. A collision of hashes costs coalescing only.
    uncacheable: Cache<u64, Instant>,
    hasher: RandomState,
}

/// The active fills of one key since it was last invalidated.
#[derive(Default)]
struct KeyFills {
    /// Shared by all of them.
    invalidated: Arc<AtomicBool>,
    count: usize,
    /// Those that other requests may wait for, by variant.
    joinable: HashMap<u64, Arc<Fill>>,
}

/// The fetch of a response, by one request after the other if they are refused. What is not atomic in itself changes
/// only while `Coalescer::active` is locked.
struct Fill {
    key: CacheKey,
    variant: u64,
    invalidated: Arc<AtomicBool>,
    /// Other requests may wait for it.
    joinable: AtomicBool,
    /// A request is fetching the response.
    led: AtomicBool,
    ended: AtomicBool,
    /// When it has ended: each request that waited goes alone.
    alone: AtomicBool,
    waiters: AtomicUsize,
    /// Has one permit while a request that waits is to take over. It is closed when the fill ends.
    turn: Semaphore,
}

/// The right to fetch a response for other requests and to store it. If it is dropped, a request that waits gets it.
pub(super) struct FillGuard {
    coalescer: Arc<Coalescer>,
    fill: Arc<Fill>,
    /// Nobody takes over.
    done: bool,
}

/// The place of a request that waits for a fill.
pub(super) struct Waiter {
    coalescer: Arc<Coalescer>,
    fill: Arc<Fill>,
}

/// What a request does next.
pub(super) enum Joined {
    /// It fetches the response.
    Fill(FillGuard),
    /// It waits.
    Wait(Waiter),
}

/// What a request does that has waited.
pub(super) enum Turn {
    /// It looks again: there may be a response.
    Look,
    /// It goes alone, and no other request waits for it.
    Alone,
    /// It fetches the response for those that still wait.
    Lead(FillGuard),
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
        let fills = active.entry(key.clone()).or_default();
        let joinable = match fills.joinable.get(&variant) {
            _ if known.is_some() || most == 0 => false,
            None => true,
            Some(fill) if fill.waiters.load(Relaxed) < most => {
                fill.waiters.fetch_add(1, Relaxed);
                return Joined::Wait(Waiter { coalescer: Arc::clone(self), fill: Arc::clone(fill) });
            }
            Some(_) => false,
        };
        Joined::Fill(self.start(fills, key, variant, joinable))
    }

    /// Goes on with the fill that a request has taken over, unless it is another variant by now: a response has shown
    /// meanwhile by which headers they vary. Else joins a fill or starts one.
    pub(super) fn go_on(self: &Arc<Self>, turn: Turn, key: &CacheKey, variant: u64, most: usize) -> Joined {
        match turn {
            Turn::Lead(guard) if guard.fill.variant == variant => return Joined::Fill(guard),
            Turn::Lead(guard) => guard.look_again(),
            Turn::Look | Turn::Alone => {}
        }
        self.join(key, variant, most, Instant::now())
    }

    /// Starts a fill in place of the one that `waiter` waits for, which no request can join any more. Others can join
    /// the new one unless another request has started one.
    pub(super) fn replace(self: &Arc<Self>, waiter: &Waiter) -> FillGuard {
        let (mut active, stuck) = (lock(&self.active), &waiter.fill);
        stuck.joinable.store(false, Relaxed);
        let fills = active.entry(stuck.key.clone()).or_default();
        fills.close(stuck);
        let joinable = !fills.joinable.contains_key(&stuck.variant);
        self.start(fills, &stuck.key, stuck.variant, joinable)
    }

    fn start(self: &Arc<Self>, fills: &mut KeyFills, key: &CacheKey, variant: u64, joinable: bool) -> FillGuard {
        let fill = Arc::new(Fill {
            key: key.clone(),
            variant,
            invalidated: Arc::clone(&fills.invalidated),
            joinable: AtomicBool::new(joinable),
            led: AtomicBool::new(true),
            ended: AtomicBool::new(false),
            alone: AtomicBool::new(false),
            waiters: AtomicUsize::new(0),
            turn: Semaphore::new(0),
        });
        fills.count += 1;
        if joinable {
            fills.joinable.insert(variant, Arc::clone(&fill));
        }
        FillGuard { coalescer: Arc::clone(self), fill, done: false }
    }

    /// Runs `act`, which removes responses. Fills under matching keys that are active now will not be stored.
    pub(super) fn invalidate<T>(&self, so: impl Fn(&CacheKey) -> bool, act: impl FnOnce() -> T) -> T {
        let mut active = lock(&self.active);
        active.extract_if(|key, _| so(key)).for_each(|(_, fills)| fills.invalidated.store(true, Relaxed));
        act()
    }

    /// The same as [`invalidate`](Self::invalidate), for one key.
    pub(super) fn invalidate_key<T>(&self, key: &CacheKey, act: impl FnOnce() -> T) -> T {
        let mut active = lock(&self.active);
        active.remove(key).iter().for_each(|fills| fills.invalidated.store(true, Relaxed));
        act()
    }

    /// The number of active fills.
    #[cfg(test)]
    pub(super) fn active_fills(&self) -> usize {
        lock(&self.active).values().map(|fills| fills.count).sum()
    }
}

impl KeyFills {
    /// Lets no request join the fill.
    fn close(&mut self, fill: &Arc<Fill>) {
        if self.joinable.get(&fill.variant).is_some_and(|joinable| Arc::ptr_eq(joinable, fill)) {
            self.joinable.remove(&fill.variant);
        }
    }
}

impl Fill {
    /// Whether a request that waits may take over.
    fn can_be_led(&self) -> bool {
        self.joinable.load(Relaxed) && !self.invalidated.load(Relaxed)
    }

    /// Ends the fill, if it has not ended. Those that wait look again, unless they are to go alone.
    fn end(self: &Arc<Self>, active: &mut HashMap<CacheKey, KeyFills>) {
        if self.ended.swap(true, Relaxed) {
            return;
        }
        // An invalidation has removed it already.
        if let Some(fills) = active.get_mut(&self.key)
            && Arc::ptr_eq(&fills.invalidated, &self.invalidated)
        {
            fills.close(self);
            fills.count -= 1;
            if fills.count == 0 {
                active.remove(&self.key);
            }
        }
        self.turn.close();
    }
}

impl Waiter {
    /// Waits until the fill ends, or this request is the one to take it over.
    pub(super) async fn turn(&self) -> Turn {
        match self.fill.turn.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) if self.fill.alone.load(Relaxed) => return Turn::Alone,
            Err(_) => return Turn::Look,
        }
        let mut active = lock(&self.coalescer.active);
        if !self.fill.can_be_led() {
            self.fill.end(&mut active);
            return Turn::Look;
        }
        self.fill.led.store(true, Relaxed);
        Turn::Lead(FillGuard { coalescer: Arc::clone(&self.coalescer), fill: Arc::clone(&self.fill), done: false })
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut active = lock(&self.coalescer.active);
        let was_last = self.fill.waiters.fetch_sub(1, Relaxed) == 1;
        if was_last && !self.fill.led.load(Relaxed) {
            self.fill.end(&mut active);
        }
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
            return self.finish_unstored();
        }
        self.coalescer.uncacheable.remove(&self.fill.variant);
        self.look_again();
    }

    /// Ends the fill. Those that wait look again.
    pub(super) fn look_again(mut self) {
        self.done = true;
    }

    /// Lets one of those that wait fetch the response, since this request has shown nothing of it. The others still wait.
    pub(super) fn hand_over(self) {}

    /// Ends the fill with a response that there is no space for. Each of those that wait goes alone; later ones wait for one
    /// another as before.
    pub(super) fn finish_unstored(mut self) {
        self.fill.alone.store(true, Relaxed);
        self.done = true;
    }

    /// Runs `change` on the stored responses while no other fill can, then does as
    /// [`finish_uncacheable`](Self::finish_uncacheable).
    pub(super) fn finish_uncacheable_after(self, change: impl FnOnce(&CacheKey)) {
        let active = lock(&self.coalescer.active);
        change(&self.fill.key);
        drop(active);
        self.finish_uncacheable();
    }

    /// Does as [`finish_unstored`](Self::finish_unstored), and later requests do not wait for one another either.
    pub(super) fn finish_uncacheable(self) {
        self.finish_uncacheable_at(Instant::now());
    }

    fn finish_uncacheable_at(self, now: Instant) {
        self.coalescer.uncacheable.insert(self.fill.variant, now + UNCACHEABLE_FOR);
        self.finish_unstored();
    }
}

impl Drop for FillGuard {
    fn drop(&mut self) {
        let (mut active, fill) = (lock(&self.coalescer.active), &self.fill);
        if !self.done && fill.can_be_led() && fill.waiters.load(Relaxed) > 0 {
            fill.led.store(false, Relaxed);
            fill.turn.add_permits(1);
        } else {
            fill.end(&mut active);
        }
    }
}

#[cfg(test)]
mod tests;
