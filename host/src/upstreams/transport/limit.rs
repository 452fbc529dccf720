//! The bound on connections to the replicas of all services, whose memory is the host's.
//!
//! Each pool has a bound of its own; this one is for all of them. Where it is reached, the next connection takes the place of an
//! idle one of any pool. Where none is idle, the request waits as for a connection of its own pool.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Notify;

use crate::base::lock::lock;

/// The connections to the replicas of all services, counted in units of memory: one for HTTP/1.1, `TWO` for HTTP/2.
pub struct ConnectionLimit {
    limit: usize,
    taken: AtomicUsize,
    waiting: AtomicUsize,
    /// Units came free.
    pub(super) freed: Notify,
    /// Whose idle connections may be closed. Those of pools that are gone leave when the list would grow.
    pools: Mutex<Vec<Weak<dyn CloseIdle>>>,
    /// The pool that is looked at first.
    turn: AtomicUsize,
}

/// Units of a connection of HTTP/2, or of one that may become that: its window is four times the buffers of HTTP/1.1.
pub(super) const HTTP2_UNITS: usize = 4;

/// A pool that can do with one connection less.
pub(super) trait CloseIdle: Send + Sync {
    /// Closes the connection that was idle for longest. Returns `false` when none is idle.
    fn close_idle(&self) -> bool;
}

/// A request that waits for units.
pub(super) struct UnitWaiter<'a>(&'a ConnectionLimit);

impl ConnectionLimit {
    /// At most so many units, and enough for one connection of any kind.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.max(HTTP2_UNITS),
            taken: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
            pools: Mutex::default(),
            turn: AtomicUsize::new(0),
        })
    }

    /// The most units.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Takes units, if there are so many.
    pub(super) fn take(&self, units: usize) -> bool {
        let free = |taken: usize| taken.checked_add(units).filter(|taken| *taken <= self.limit);
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free).is_ok()
    }

    /// Gives units back.
    pub(super) fn give_back(&self, units: usize) {
        self.taken.fetch_sub(units, Ordering::SeqCst);
        self.notify_free();
    }

    /// Whether there is no room for a connection that takes `units`.
    pub(super) fn is_full(&self, units: usize) -> bool {
        self.taken.load(Ordering::SeqCst).saturating_add(units) > self.limit
    }

    /// Wakes a request that waits, if there is room.
    pub(super) fn notify_free(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 && !self.is_full(1) {
            self.freed.notify_one();
        }
    }

    /// Wakes a request that waits: there may be an idle connection, whose place it can have.
    pub(super) fn notify_idle(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_one();
        }
    }

    /// Counts a request that waits from now on; to be called before its last look.
    pub(super) fn add_waiter(&self) -> UnitWaiter<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        UnitWaiter(self)
    }

    /// Whether a request waits.
    #[cfg(test)]
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Adds a pool whose idle connections may be closed.
    pub(super) fn add(&self, pool: Weak<dyn CloseIdle>) {
        let mut pools = lock(&self.pools);
        if pools.len() == pools.capacity() {
            pools.retain(|pool| pool.strong_count() > 0);
        }
        pools.push(pool);
    }

    /// Closes an idle connection of some pool, each in its turn. Its units come free when its socket is closed.
    pub(super) fn close_idle(&self) {
        // A copy, so that no pool is locked under this lock. Only where all units are taken.
        let pools: Vec<_> = lock(&self.pools).iter().filter_map(Weak::upgrade).collect();
        let Some(from) = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(pools.len()) else { return };
        let (before, after) = pools.split_at_checked(from).unwrap_or_default();
        let _closed = after.iter().chain(before).any(|pool| pool.close_idle());
    }
}

impl Drop for UnitWaiter<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        // What woke this request may be more than it needs.
        self.0.notify_free();
    }
}
