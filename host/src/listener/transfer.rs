//! Response bytes that hyper holds and the client has not taken, and which clients take too few of them.
//!
//! hyper polls no body while the window of its HTTP/2 stream is closed, and h2 keeps what it was handed until the window
//! opens, if it ever does. Neither has a timer, and a body cannot reset its stream. So each stream has a [`Transfer`]: the
//! bytes handed to hyper ([`Chunk`]) report when they are written to the connection, and the connection looks over its
//! transfers every second at most. A stream whose client takes less than [`PROGRESS`] bytes in `listener.idle`, and not all
//! there is, is reset: its task is aborted, and h2 resets a stream that is dropped before its end (RFC 9113, 5.4.2).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::task::AbortHandle;

use lodge_base::budget::Reservation;
use lodge_base::lock::lock;
use lodge_traffic::proxy::outbound::Hold;

/// Bytes of a response that a client must take within `listener.idle`, unless it takes all there is.
pub const PROGRESS: usize = 16 << 10;

/// One response on its way to its client.
#[derive(Default)]
pub struct Transfer {
    /// Bytes handed to hyper and not yet written to the connection.
    pub(super) unsent: AtomicUsize,
    /// Grows by what is written, and by [`PROGRESS`] whenever nothing is left to write.
    progress: AtomicUsize,
    /// Given back when the last byte is written, or the response is dropped.
    pub(super) room: OnceLock<Reservation>,
    /// In the place of room.
    pub(super) hold: Mutex<Option<Hold>>,
    /// Its client took too little of it.
    stalled: AtomicBool,
    /// Bytes of it were handed to hyper and never written.
    lost: AtomicBool,
    /// The task of the HTTP/2 stream, until it ends.
    task: Mutex<Option<AbortHandle>>,
}

/// Bytes of a response that hyper holds.
pub struct Chunk {
    bytes: Bytes,
    transfer: Option<Arc<Transfer>>,
}

/// The transfers of one connection.
#[derive(Default)]
pub(super) struct Transfers {
    entries: Vec<Entry>,
    /// The last look.
    looked: Option<Instant>,
}

struct Entry {
    /// Weak: the list is swept late, and what a response holds must not wait for that.
    transfer: Weak<Transfer>,
    /// The progress seen last, and when it was seen while bytes were left.
    seen: usize,
    since: Option<Instant>,
}

/// What a look has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stalled {
    /// Streams that were reset.
    pub(super) reset: u64,
    /// There is a transfer that only the end of its connection can end: HTTP/1.1, or a stream whose last bytes are with h2.
    pub(super) stuck: bool,
    /// The last transfer has ended since the look before, which still saw it waiting.
    pub(super) over: bool,
}

impl Transfer {
    /// The task that serves the stream, which can be aborted from now on.
    pub(super) fn runs(&self, task: AbortHandle) {
        *lock(&self.task) = Some(task);
    }

    /// The task has ended, or is about to.
    pub(super) fn ends(&self) {
        lock(&self.task).take();
    }

    fn wrote(&self, bytes: usize) {
        let left = self.unsent.fetch_sub(bytes, Relaxed) - bytes;
        self.progress.fetch_add(if left == 0 { bytes.max(PROGRESS) } else { bytes }, Relaxed);
    }

    /// Whether it was given up because its client took too little of it.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Relaxed)
    }

    /// Whether bytes that were handed to hyper are not written, or never will be.
    pub(super) fn loses(&self) -> bool {
        self.lost.load(Relaxed) || self.unsent.load(Relaxed) > 0
    }

    /// Resets its stream. False where there is none, or its task has ended.
    fn reset(&self) -> bool {
        self.stalled.store(true, Relaxed);
        let task = lock(&self.task).take().filter(|task| !task.is_finished());
        task.inspect(AbortHandle::abort).is_some()
    }
}

impl Transfers {
    /// One more.
    pub(super) fn add(&mut self, transfer: &Arc<Transfer>) {
        if self.entries.len() == self.entries.capacity() {
            self.entries.retain(|entry| entry.transfer.strong_count() > 0);
            if self.entries.len() * 2 >= self.entries.capacity() {
                self.entries.reserve(self.entries.capacity().max(8));
            }
        }
        self.entries.push(Entry { transfer: Arc::downgrade(transfer), seen: 0, since: None });
    }

    /// Whether there are none. Those that have ended since the last look may still count.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// When to look next; reads `clock` when transfers have begun since the last look found none.
    pub(super) fn next_look(&mut self, every: Duration, clock: impl FnOnce() -> Instant) -> Option<Instant> {
        (!self.entries.is_empty()).then(|| *self.looked.get_or_insert_with(clock) + every)
    }

    /// Looks over all of them, and resets every stream whose client made no progress for `limit`.
    pub(super) fn look(&mut self, now: Instant, limit: Duration) -> Stalled {
        let (mut found, mut waited) = (Stalled::default(), false);
        self.entries.retain_mut(|entry| {
            waited |= entry.since.is_some();
            let Some(transfer) = entry.transfer.upgrade() else { return false };
            if entry.is_overdue(&transfer, now, limit) {
                entry.since = Some(now);
                let reset = transfer.reset();
                found.reset += u64::from(reset);
                found.stuck |= !reset;
            }
            true
        });
        found.over = waited && self.entries.is_empty();
        self.looked = Some(now).filter(|_| !self.entries.is_empty());
        found
    }
}

impl Entry {
    fn is_overdue(&mut self, transfer: &Transfer, now: Instant, limit: Duration) -> bool {
        let progress = transfer.progress.load(Relaxed);
        if transfer.unsent.load(Relaxed) == 0 {
            self.since = None;
        } else if self.since.is_none() || progress.wrapping_sub(self.seen) >= PROGRESS {
            (self.since, self.seen) = (Some(now), progress);
        }
        self.since.is_some_and(|since| now.saturating_duration_since(since) >= limit)
    }
}

impl Chunk {
    pub(super) fn new(bytes: Bytes, transfer: Option<&Arc<Transfer>>) -> Self {
        if let Some(transfer) = transfer {
            transfer.unsent.fetch_add(bytes.len(), Relaxed);
        }
        Self { bytes, transfer: transfer.cloned() }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, bytes: usize) {
        self.bytes.advance(bytes);
        if let Some(transfer) = self.transfer.as_ref().filter(|_| bytes > 0) {
            transfer.wrote(bytes);
        }
    }
}

impl Drop for Chunk {
    /// What is left is never written.
    fn drop(&mut self) {
        if let Some(transfer) = self.transfer.as_ref().filter(|_| !self.bytes.is_empty()) {
            transfer.unsent.fetch_sub(self.bytes.len(), Relaxed);
            transfer.lost.store(true, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
