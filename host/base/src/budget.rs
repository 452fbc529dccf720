//! A bound on the memory of response bodies: those stored, those being recorded, and those evicted while a client still
//! reads them. A [`Room`] is a reservation within the bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A bound on a number of bytes, shared by all reservations.
pub struct Budget {
    most: usize,
    used: AtomicUsize,
}

/// A reservation of bytes. Dropping it releases them.
pub struct Room {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// Creates a budget of `most` bytes.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, used: AtomicUsize::new(0) })
    }

    /// Reserves `bytes`, or returns `None` if the budget has fewer left.
    pub fn room(self: &Arc<Self>, bytes: usize) -> Option<Room> {
        let mut room = Room { budget: Arc::clone(self), bytes: 0 };
        room.grow(bytes).then_some(room)
    }

    /// Whether at least half of the bytes are reserved.
    pub fn is_pressed(&self) -> bool {
        self.used().saturating_mul(2) >= self.most
    }

    /// Reserved bytes.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }
}

impl Room {
    /// Reserves `bytes` more. Returns false, and reserves nothing, if the budget has fewer left.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let most = self.budget.most;
        let more = |used: usize| used.checked_add(bytes).filter(|used| *used <= most);
        let grown = self.budget.used.fetch_update(Relaxed, Relaxed, more).is_ok();
        if grown {
            self.bytes += bytes;
        }
        grown
    }

    /// Releases all but `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.budget.used.fetch_sub(less, Relaxed);
        self.bytes -= less;
    }

    /// Bytes of this reservation.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
    }
}
