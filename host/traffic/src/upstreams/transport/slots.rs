//! Bounds the connections to a replica. Each socket owns a slot until it is closed or switches protocols.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::limit::ConnectionLimit;

/// The slots of one replica.
pub(super) struct ConnectionSlots {
    limit: usize,
    taken: AtomicUsize,
    waiting: AtomicUsize,
    /// Notified when a slot or a connection becomes free.
    pub(super) freed: Notify,
    /// The bound on the connections to all replicas.
    pub(super) total: Arc<ConnectionLimit>,
}

/// Why there is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// All slots of this replica are taken, or a connection is being opened that this request can share.
    Replica,
    /// All units of the host are taken.
    Host,
}

/// The right to have a socket open. Given back when the socket is closed or switches protocols.
pub(super) struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    released: AtomicBool,
    /// The units that it takes of the bound on all replicas.
    units: AtomicUsize,
}

/// A request that waits for a slot or connection; counted until it is dropped.
pub(super) struct SlotWaiter<'a>(&'a ConnectionSlots);

impl ConnectionSlots {
    pub(super) fn new(limit: usize, total: Arc<ConnectionLimit>) -> Arc<Self> {
        let (taken, waiting) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { limit, taken, waiting, freed: Notify::new(), total })
    }

    /// Takes a slot for a connection that needs `units` of the host's bound.
    pub(super) fn take(self: &Arc<Self>, units: usize) -> Result<ConnectionSlot, Full> {
        let free = |taken| (taken < self.limit).then_some(taken + 1);
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free).map_err(|_| Full::Replica)?;
        if !self.total.take(units) {
            self.taken.fetch_sub(1, Ordering::SeqCst);
            return Err(Full::Host);
        }
        Ok(ConnectionSlot { slots: Arc::clone(self), released: AtomicBool::new(false), units: AtomicUsize::new(units) })
    }

    /// Returns the number of sockets that are open or being opened.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Counts a waiting request. To be called before its last check for a free slot.
    pub(super) fn add_waiter(&self) -> SlotWaiter<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        SlotWaiter(self)
    }

    /// Notifies a waiter that a slot is free or a connection idle. Mostly none waits, and this is two loads.
    pub(super) fn notify_freed(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_one();
        }
        self.total.notify_idle();
    }
}

impl ConnectionSlot {
    /// Gives the slot back, for a socket that has switched protocols and is counted as a tunnel from now on.
    pub(super) fn release(&self) {
        if !self.released.swap(true, Ordering::SeqCst) {
            self.slots.taken.fetch_sub(1, Ordering::SeqCst);
            self.slots.notify_freed();
            self.slots.total.give_back(self.units.load(Ordering::SeqCst));
        }
    }

    /// Gives back the units that an HTTP/1.1 connection does not need. To be called once, after the version is known.
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
