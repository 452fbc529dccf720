//! The bound on the connections to all replicas, since the memory of their buffers is the host's.
//!
//! Each pool also has a bound of its own. When this one is reached, a new connection takes the units of an idle one of
//! any pool. If none is idle, the request waits as it does for a connection of its own pool.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Notify;

use lodge_base::lock::lock;

/// The connections to all replicas, counted in units of memory: 1 for HTTP/1.1, `HTTP2_UNITS` for HTTP/2.
pub struct ConnectionLimit {
    limit: usize,
    taken: AtomicUsize,
    waiting: AtomicUsize,
    /// Notified when units become free.
    pub(super) freed: Notify,
    /// Pools whose idle connections may be closed. Dropped pools are removed when the list would grow.
    pools: Mutex<Vec<Weak<dyn CloseIdle>>>,
    /// The pool to start with, round robin.
    turn: AtomicUsize,
}

/// The units of an HTTP/2 connection, or of one that may become HTTP/2: its window is four times the buffers of
/// HTTP/1.1.
pub(super) const HTTP2_UNITS: usize = 4;

/// A pool that can close an idle connection.
pub(super) trait CloseIdle: Send + Sync {
    /// Closes the connection that was idle longest. Returns `false` if none is idle.
    fn close_idle(&self) -> bool;
}

/// A request that waits for units; counted until it is dropped.
pub(super) struct UnitWaiter<'a>(&'a ConnectionLimit);

impl ConnectionLimit {
    /// Creates a bound of `limit` units, at least enough for one connection of any version.
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

    /// Returns the maximum, in units.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Takes units. Returns `false` if there are not enough.
    pub(super) fn take(&self, units: usize) -> bool {
        let free = |taken: usize| taken.checked_add(units).filter(|taken| *taken <= self.limit);
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free).is_ok()
    }

    /// Gives units back.
    pub(super) fn give_back(&self, units: usize) {
        self.taken.fetch_sub(units, Ordering::SeqCst);
        self.notify_free();
    }

    /// Returns whether fewer than `units` are free.
    pub(super) fn is_full(&self, units: usize) -> bool {
        self.taken.load(Ordering::SeqCst).saturating_add(units) > self.limit
    }

    /// Wakes a waiting request if a unit is free.
    pub(super) fn notify_free(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 && !self.is_full(1) {
            self.freed.notify_one();
        }
    }

    /// Wakes a waiting request because a connection became idle, whose units it can take.
    pub(super) fn notify_idle(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_one();
        }
    }

    /// Counts a waiting request. To be called before its last check.
    pub(super) fn add_waiter(&self) -> UnitWaiter<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        UnitWaiter(self)
    }

    /// Returns whether a request waits.
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

    /// Closes an idle connection of some pool, round robin. Its units become free when its socket is closed.
    pub(super) fn close_idle(&self) {
        // Copied, so that no pool is locked under this lock. This runs only when all units are taken.
        let pools: Vec<_> = lock(&self.pools).iter().filter_map(Weak::upgrade).collect();
        let Some(from) = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(pools.len()) else { return };
        let (before, after) = pools.split_at_checked(from).unwrap_or_default();
        let _closed = after.iter().chain(before).any(|pool| pool.close_idle());
    }
}

impl Drop for UnitWaiter<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        // More units may be free than this request needed.
        self.0.notify_free();
    }
}
