//! How many connections there are to a replica: a place for each, held by the socket itself until that is something else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::limit::ConnectionLimit;

/// The places of a replica, and who waits for one, or for a connection that has one.
pub(super) struct ConnectionSlots {
    limit: usize,
    taken: AtomicUsize,
    waiting: AtomicUsize,
    /// Something came free: a place, or a connection.
    pub(super) freed: Notify,
    /// The bound on those of all replicas.
    pub(super) total: Arc<ConnectionLimit>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The connections of this replica are as many as there may be, or one is being opened that others can share.
    Replica,
    /// So are those of all replicas.
    Host,
}

/// The right to an open socket. Given back with it, or when the connection becomes something else.
pub(super) struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    released: AtomicBool,
    /// What it takes of the bound for all replicas.
    units: AtomicUsize,
}

/// Somebody waits.
pub(super) struct SlotWaiter<'a>(&'a ConnectionSlots);

impl ConnectionSlots {
    pub(super) fn new(limit: usize, total: Arc<ConnectionLimit>) -> Arc<Self> {
        let (taken, waiting) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { limit, taken, waiting, freed: Notify::new(), total })
    }

    /// A place for a connection that takes `units` of what there is for all replicas.
    pub(super) fn take(self: &Arc<Self>, units: usize) -> Result<ConnectionSlot, Full> {
        let free = |taken| (taken < self.limit).then_some(taken + 1);
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free).map_err(|_| Full::Replica)?;
        if !self.total.take(units) {
            self.taken.fetch_sub(1, Ordering::SeqCst);
            return Err(Full::Host);
        }
        Ok(ConnectionSlot { slots: Arc::clone(self), released: AtomicBool::new(false), units: AtomicUsize::new(units) })
    }

    /// Sockets open now, and those that are being opened.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Says that one waits from now on; to be called before the last look.
    pub(super) fn add_waiter(&self) -> SlotWaiter<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        SlotWaiter(self)
    }

    /// Something came free: a place, or a connection that is idle now. Mostly no request waits, and then this is two loads.
    pub(super) fn notify_freed(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_one();
        }
        self.total.notify_idle();
    }
}

impl ConnectionSlot {
    /// The socket is no connection to the replica any more, and counted elsewhere.
    pub(super) fn release(&self) {
        if !self.released.swap(true, Ordering::SeqCst) {
            self.slots.taken.fetch_sub(1, Ordering::SeqCst);
            self.slots.notify_freed();
            self.slots.total.give_back(self.units.load(Ordering::SeqCst));
        }
    }

    /// Gives back what a connection of HTTP/1.1 does not need. To be called by whoever opens it, once.
    pub(super) fn release_http2_units(&self) {
        let spare = self.units.swap(1, Ordering::SeqCst).saturating_sub(1);
        if spare > 0 {
            self.slots.total.give_back(spare);
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.release();
    }
}

impl Drop for SlotWaiter<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
