//! Tracks which bytes of an HTTP/2 connection may still hold unread parts of bodies.

use std::collections::VecDeque;

use super::MARK;

/// The bytes of bodies since the last time when all of them were read.
#[derive(Default)]
pub(super) struct Bodies {
    /// Bytes that were received, or whose frame has begun.
    arrived: usize,
    taken: usize,
    /// Whether they belong to several requests, in unknown order.
    mixed: bool,
    /// Pairs of body bytes and bytes of the connection that had arrived at the same time.
    marks: VecDeque<(usize, usize)>,
}

impl Bodies {
    /// Whether all bytes were read.
    pub(super) fn is_taken(&self) -> bool {
        self.taken >= self.arrived
    }

    /// Adds bytes that arrive after `wire` bytes of the connection.
    pub(super) fn arrive(&mut self, bytes: usize, wire: usize) {
        if bytes > 0 && self.marks.back().is_none_or(|(arrived, _)| self.arrived - arrived >= MARK) {
            self.marks.push_back((self.arrived, wire));
        }
        self.arrived = self.arrived.saturating_add(bytes);
    }

    /// Records that bytes were read. Returns how many first bytes of the connection no longer hold unread ones.
    pub(super) fn take(&mut self, bytes: usize) -> usize {
        self.taken = self.taken.saturating_add(bytes).min(self.arrived);
        let mut free = 0;
        while let Some((_, wire)) = self.marks.pop_front_if(|(arrived, _)| !self.mixed && *arrived <= self.taken) {
            free = wire;
        }
        free
    }

    /// Returns the state for this many bodies, of which everything was read.
    pub(super) fn of(uploads: usize) -> Self {
        Self { mixed: uploads > 1, ..Self::default() }
    }

    /// Records that bodies of several requests are interleaved from now on.
    pub(super) fn mix(&mut self) {
        self.mixed = true;
    }

    /// Subtracts bytes of the connection that have left memory.
    pub(super) fn free(&mut self, bytes: usize) {
        for (_, wire) in &mut self.marks {
            *wire = wire.saturating_sub(bytes);
        }
    }
}
