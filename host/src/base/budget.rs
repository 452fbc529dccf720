//! Bytes that may be in memory for answers, all together: kept, being recorded, or still on their way to somebody after
//! they had to make room. Holding a [`Room`] is the proof that there was room.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// All bytes that there may be.
pub struct Budget {
    most: usize,
    used: AtomicUsize,
}

/// Some of them. Dropping it gives them back.
pub struct Room {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// So many.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, used: AtomicUsize::new(0) })
    }

    /// Room for so many bytes, if there is.
    pub fn room(self: &Arc<Self>, bytes: usize) -> Option<Room> {
        let mut room = Room { budget: Arc::clone(self), bytes: 0 };
        room.grow(bytes).then_some(room)
    }

    /// Whether half of the bytes are taken.
    pub fn is_pressed(&self) -> bool {
        self.used().saturating_mul(2) >= self.most
    }

    /// Bytes that are taken.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }
}

impl Room {
    /// Takes so many bytes more, if they are there.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let most = self.budget.most;
        let more = |used: usize| used.checked_add(bytes).filter(|used| *used <= most);
        let grown = self.budget.used.fetch_update(Relaxed, Relaxed, more).is_ok();
        if grown {
            self.bytes += bytes;
        }
        grown
    }

    /// Gives back all but so many bytes.
    pub fn shrink(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.budget.used.fetch_sub(less, Relaxed);
        self.bytes -= less;
    }

    /// How many.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
    }
}
