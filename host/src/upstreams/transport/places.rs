//! How many connections there are to a replica: a place for each, held by the socket itself until that is something else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::total::Total;

/// The places of a replica, and who waits for one, or for a connection that has one.
pub(super) struct Places {
    limit: usize,
    taken: AtomicUsize,
    waiting: AtomicUsize,
    /// Something came free: a place, or a connection.
    pub(super) freed: Notify,
    /// The bound on those of all replicas.
    pub(super) total: Arc<Total>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The connections of this replica are as many as there may be, or one is being opened that others can share.
    Here,
    /// So are those of all replicas.
    Everywhere,
}

/// The right to an open socket. Given back with it, or when the connection becomes something else.
pub(super) struct Place {
    places: Arc<Places>,
    left: AtomicBool,
    /// What it takes of the bound for all replicas.
    units: AtomicUsize,
}

/// Somebody waits.
pub(super) struct Waiting<'a>(&'a Places);

impl Places {
    pub(super) fn new(limit: usize, total: Arc<Total>) -> Arc<Self> {
        let (taken, waiting) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { limit, taken, waiting, freed: Notify::new(), total })
    }

    /// A place for a connection that takes `units` of what there is for all replicas.
    pub(super) fn take(self: &Arc<Self>, units: usize) -> Result<Place, Full> {
        let free = |taken| (taken < self.limit).then_some(taken + 1);
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free).map_err(|_| Full::Here)?;
        if !self.total.take(units) {
            self.taken.fetch_sub(1, Ordering::SeqCst);
            return Err(Full::Everywhere);
        }
        Ok(Place { places: Arc::clone(self), left: AtomicBool::new(false), units: AtomicUsize::new(units) })
    }

    /// Sockets open now, and those that are being opened.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Says that one waits from now on; to be called before the last look.
    pub(super) fn waiting(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting(self)
    }

    /// Something came free: a place, or a connection that is idle now. Mostly no request waits, and then this is two loads.
    pub(super) fn free(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_one();
        }
        self.total.stir();
    }
}

impl Place {
    /// The socket is no connection to the replica any more, and counted elsewhere.
    pub(super) fn leave(&self) {
        if !self.left.swap(true, Ordering::SeqCst) {
            self.places.taken.fetch_sub(1, Ordering::SeqCst);
            self.places.free();
            self.places.total.give(self.units.load(Ordering::SeqCst));
        }
    }

    /// Gives back what a connection of HTTP/1.1 does not need. To be called by whoever opens it, once.
    pub(super) fn is_one(&self) {
        let spare = self.units.swap(1, Ordering::SeqCst).saturating_sub(1);
        if spare > 0 {
            self.places.total.give(spare);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
