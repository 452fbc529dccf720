//! The progress of responses: bytes that hyper has and the client has not read, and clients that read too slowly.
//!
//! While the window of an HTTP/2 stream is closed, hyper does not poll its body, and h2 keeps the bytes that it has until the
//! window opens. Neither has a timeout, and a body cannot reset its stream. So each stream has a [`Transfer`]: the bytes given to
//! hyper ([`Chunk`]) report when they are written to the connection, and the connection checks its transfers at least every
//! second. A stream whose client reads less than [`PROGRESS`] bytes in `listener.idle`, and not everything that there is, is
//! reset: its task is aborted, and h2 resets a stream that is dropped before its end (RFC 9113, 5.4.2).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::task::AbortHandle;

use lodge_base::budget::Reservation;
use lodge_base::lock::lock;
use lodge_traffic::proxy::frames::FrameWindow;
use lodge_traffic::proxy::outbound::Hold;

/// The bytes of a response that a client must read within `listener.idle`, unless it reads everything that there is.
pub const PROGRESS: usize = 16 << 10;

/// A response that is being sent.
#[derive(Default)]
pub struct Transfer {
    /// Bytes that were given to hyper and are not yet written to the connection.
    pub(super) unsent: AtomicUsize,
    /// The frames of these bytes, which may be many and small.
    pub(super) frames: FrameWindow,
    /// Increases by the bytes written, and by at least [`PROGRESS`] whenever nothing is left to write. May wrap around.
    progress: AtomicUsize,
    /// The room of the response in `listener.unsent`, until the last byte is written or dropped.
    pub(super) room: OnceLock<Reservation>,
    /// Counts bytes that have no room there: of a stored response, or those that an encoder has written.
    pub(super) hold: Mutex<Option<Hold>>,
    /// The client read too slowly.
    stalled: AtomicBool,
    /// Bytes that were given to hyper were dropped unwritten.
    lost: AtomicBool,
    /// The task of the HTTP/2 stream, until it ends.
    task: Mutex<Option<AbortHandle>>,
}

/// Bytes of a response that hyper writes.
pub struct Chunk {
    bytes: Bytes,
    transfer: Option<Arc<Transfer>>,
}

/// The transfers of one connection.
#[derive(Default)]
pub(super) struct Transfers {
    entries: Vec<Entry>,
    /// The time of the last check.
    checked: Option<Instant>,
}

struct Entry {
    /// Weak, since entries are removed late, and a finished response must release its memory at once.
    transfer: Weak<Transfer>,
    /// The progress at the last check that found enough of it, and its time while bytes are left to write.
    seen: usize,
    since: Option<Instant>,
}

/// The result of a check.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stalled {
    /// The number of streams that were reset.
    pub(super) reset: u64,
    /// Whether a transfer can only end with its connection: that of HTTP/1.1, or a stream whose last bytes h2 has.
    pub(super) stuck: bool,
    /// Whether the last transfer has ended since the check before, which had found it waiting.
    pub(super) over: bool,
}

impl Transfer {
    /// Sets the task that serves the stream, so that it can be aborted.
    pub(super) fn set_task(&self, task: AbortHandle) {
        *lock(&self.task) = Some(task);
    }

    /// Forgets the task, which has ended or is about to.
    pub(super) fn clear_task(&self) {
        lock(&self.task).take();
    }

    fn record_written(&self, bytes: usize) {
        let left = self.unsent.fetch_sub(bytes, Relaxed) - bytes;
        self.progress.fetch_add(if left == 0 { bytes.max(PROGRESS) } else { bytes }, Relaxed);
    }

    /// Whether the transfer was aborted because the client reads too slowly.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Relaxed)
    }

    /// Whether bytes that were given to hyper are not written, or were dropped.
    pub(super) fn has_unwritten(&self) -> bool {
        self.lost.load(Relaxed) || self.unsent.load(Relaxed) > 0
    }

    /// Aborts the task of the stream. Returns false if there is none, or it has ended.
    fn reset(&self) -> bool {
        self.stalled.store(true, Relaxed);
        let task = lock(&self.task).take().filter(|task| !task.is_finished());
        task.inspect(AbortHandle::abort).is_some()
    }
}

impl Transfers {
    /// Adds a transfer.
    pub(super) fn add(&mut self, transfer: &Arc<Transfer>) {
        if self.entries.len() == self.entries.capacity() {
            self.entries.retain(|entry| entry.transfer.strong_count() > 0);
            if self.entries.len() * 2 >= self.entries.capacity() {
                self.entries.reserve(self.entries.capacity().max(8));
            }
        }
        self.entries.push(Entry { transfer: Arc::downgrade(transfer), seen: 0, since: None });
    }

    /// Whether there are none. Transfers that have ended since the last check may still count.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the time of the next check. Reads `clock` only for the first transfer since a check found none.
    pub(super) fn next_check(&mut self, every: Duration, clock: impl FnOnce() -> Instant) -> Option<Instant> {
        (!self.entries.is_empty()).then(|| *self.checked.get_or_insert_with(clock) + every)
    }

    /// Resets every stream whose client made no progress for `limit`.
    pub(super) fn check(&mut self, now: Instant, limit: Duration) -> Stalled {
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
        self.checked = Some(now).filter(|_| !self.entries.is_empty());
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
            transfer.frames.enter();
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
            transfer.record_written(bytes);
        }
    }
}

impl Drop for Chunk {
    /// The rest will not be written.
    fn drop(&mut self) {
        let Some(transfer) = &self.transfer else { return };
        if !self.bytes.is_empty() {
            transfer.unsent.fetch_sub(self.bytes.len(), Relaxed);
            transfer.lost.store(true, Relaxed);
        }
        transfer.frames.leave();
    }
}

#[cfg(test)]
mod tests;
