//! How many connections there are to a replica: a place for each, held by the socket itself until that is something else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The places of a replica, and who waits for one, or for a connection that has one.
pub(super) struct Places {
    limit: usize,
    taken: AtomicUsize,
    waiting: AtomicUsize,
    /// Something came free: a place, or a connection.
    pub(super) freed: Notify,
}

/// The right to an open socket. Given back with it, or when the connection becomes something else.
pub(super) struct Place {
    places: Arc<Places>,
    left: AtomicBool,
}

/// Somebody waits.
pub(super) struct Waiting<'a>(&'a Places);

impl Places {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: AtomicUsize::new(0), waiting: AtomicUsize::new(0), freed: Notify::new() })
    }

    pub(super) fn take(self: &Arc<Self>) -> Option<Place> {
        let free = |taken| (taken < self.limit).then_some(taken + 1);
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free).ok()?;
        Some(Place { places: Arc::clone(self), left: AtomicBool::new(false) })
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

    /// Something came free. Nobody waits, mostly, and then this is one load.
    pub(super) fn free(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_one();
        }
    }
}

impl Place {
    /// The socket is no connection to the replica any more, and counted elsewhere.
    pub(super) fn leave(&self) {
        if !self.left.swap(true, Ordering::SeqCst) {
            self.places.taken.fetch_sub(1, Ordering::SeqCst);
            self.places.free();
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
