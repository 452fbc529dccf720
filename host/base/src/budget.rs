//! A bound on the memory of response bodies: those stored, those being recorded, and those evicted while a client still
//! reads them. A [`Reservation`] is a reservation within the bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A bound on a number of bytes, shared by all reservations.
#[derive(Debug)]
pub struct Budget {
    most: usize,
    used: AtomicUsize,
}

/// A reservation of bytes. Dropping it releases them.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// Creates a budget of `most` bytes.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, used: AtomicUsize::new(0) })
    }

    /// Reserves `bytes`, or returns `None` if the budget has fewer left.
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        let mut reservation = Reservation { budget: Arc::clone(self), bytes: 0 };
        reservation.grow(bytes).then_some(reservation)
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

impl Reservation {
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

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
    }
}
