//! Which bytes of an HTTP/2 connection may still hold parts of bodies that nobody has read.

use std::collections::VecDeque;

use super::MARK;

/// Bytes of bodies in frames, since all of them were taken.
#[derive(Default)]
pub(super) struct Bodies {
    /// Those that were read, or whose frame has begun.
    arrived: usize,
    taken: usize,
    /// They are of several requests, whose order is not known.
    mixed: bool,
    /// How many had arrived when so many bytes of the connection were read.
    marks: VecDeque<(usize, usize)>,
}

impl Bodies {
    /// Whether nothing is unread.
    pub(super) fn is_taken(&self) -> bool {
        self.taken >= self.arrived
    }

    /// So many bytes more arrive after `wire` bytes of the connection.
    pub(super) fn arrive(&mut self, bytes: usize, wire: usize) {
        if bytes > 0 && self.marks.back().is_none_or(|(arrived, _)| self.arrived - arrived >= MARK) {
            self.marks.push_back((self.arrived, wire));
        }
        self.arrived = self.arrived.saturating_add(bytes);
    }

    /// So many are taken. Returns how many bytes of the connection no longer hold any.
    pub(super) fn take(&mut self, bytes: usize) -> usize {
        self.taken = self.taken.saturating_add(bytes).min(self.arrived);
        let mut free = 0;
        while let Some((_, wire)) = self.marks.pop_front_if(|(arrived, _)| !self.mixed && *arrived <= self.taken) {
            free = wire;
        }
        free
    }

    /// Bodies of so many requests, of which everything is taken.
    pub(super) fn of(uploads: usize) -> Self {
        Self { mixed: uploads > 1, ..Self::default() }
    }

    /// From now on they are of several requests.
    pub(super) fn mix(&mut self) {
        self.mixed = true;
    }

    /// So many bytes of the connection were left off at its beginning.
    pub(super) fn free(&mut self, bytes: usize) {
        for (_, wire) in &mut self.marks {
            *wire = wire.saturating_sub(bytes);
        }
    }
}
