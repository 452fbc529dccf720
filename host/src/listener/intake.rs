//! The memory that clients can make the host use by what they send, all of it inside `listener.memory`.
//!
//! Every connection has an [`Account`] with the host's [`Buffers`]. What may have to be kept of the next bytes is taken from
//! there before they are read ([`Metered`]), and given back when a body was read or a request is over. A connection for which
//! there is nothing left is not read: its client waits in TCP, and nobody else does.
//!
//! # What is charged
//!
//! * A connection: [`BASE`], which pays for its task, one request, and 8 KiB of what was read; over HTTP/2 [`FRAME`] more, so
//!   that a whole frame always has room.
//! * Every further request at work or in a queue: [`REQUEST`]; the part of its head over `HEAD` as well.
//! * HTTP/1.1: twice the bytes since the connection was idle, or since a guest had read all of a body, at most `ONE`: hyper
//!   has a buffer of `listener.head` that it copies when it grows, and a chunk of the body.
//! * HTTP/2: every byte from the first unread one of a body on; where bodies of several requests mix, from the last moment when
//!   all of them were read. h2 keeps frames in the buffers that they were read into, so what is between two of them is kept as
//!   well, and the window says nothing of that.
//!
//! # What is always true
//!
//! * A connection whose bodies are all read can be read on, whatever others hold: slowly, a frame at a time.
//! * One connection has at most a sixteenth of it all, or 2 MiB.

mod account;
mod bodies;
mod frames;
mod metered;
mod unread;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::Semaphore;

pub use account::{Account, Charge};
pub use bodies::{Charged, Upload};
pub use metered::Metered;

/// Bytes for a connection and its first request.
pub const BASE: usize = REQUEST + (8 << 10);
/// Bytes for an HTTP/2 connection besides: the largest frame (`SETTINGS_MAX_FRAME_SIZE`).
pub const FRAME: usize = 16 << 10;
/// Bytes for a request: its task, its head, what hyper and the host know of it.
pub const REQUEST: usize = 16 << 10;
/// Bytes of a head that [`REQUEST`] pays for.
const HEAD: usize = 4 << 10;
/// The most that an HTTP/1.1 connection needs: what it sends is not read ahead of who reads it.
const ONE: usize = 192 << 10;
/// Bytes taken at once.
const GRANULE: usize = 16 << 10;
/// The least bytes worth a read, and the most that are read of frames that may begin requests.
const CHUNK: usize = 1 << 10;
/// The most that one connection may have in a host that has little.
const LEAST_SHARE: usize = 2 << 20;
/// Bytes of bodies between two marks.
const MARK: usize = 8 << 10;

/// The windows of HTTP/2, in bytes: what a client may send that nobody has read.
const WINDOWS: std::ops::RangeInclusive<usize> = (128 << 10)..=(512 << 10);

/// The memory for what clients send, all connections together: a half for connections, so that there can be new ones whatever
/// the others send, and a half for what they hold besides.
pub struct Buffers {
    bases: Pool,
    extra: Pool,
}

/// A number of bytes that are lent.
struct Pool {
    permits: Semaphore,
    size: usize,
    /// Connections that wait for some.
    waiting: AtomicUsize,
}

impl Buffers {
    /// So many bytes.
    pub fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { bases: Pool::new(size / 2), extra: Pool::new(size - size / 2) })
    }

    /// Bytes that are taken.
    pub fn used(&self) -> usize {
        self.bases.used() + self.extra.used()
    }

    /// Connections that are not read because there is nothing left for them.
    pub fn waiting(&self) -> usize {
        self.bases.waiting.load(Relaxed) + self.extra.waiting.load(Relaxed)
    }

    /// The most that one connection may have besides its base.
    fn share(&self) -> usize {
        (self.extra.size / 8).max(LEAST_SHARE)
    }

    /// Takes bytes as soon as they are there, in the order of those who wait, for a base or besides.
    async fn wait(self: Arc<Self>, bytes: usize, base: bool) -> usize {
        if base { self.bases.wait(bytes).await } else { self.extra.wait(bytes).await }
    }
}

impl Pool {
    fn new(size: usize) -> Self {
        let size = size.min(Semaphore::MAX_PERMITS);
        Self { permits: Semaphore::new(size), size, waiting: AtomicUsize::new(0) }
    }

    fn used(&self) -> usize {
        self.size.saturating_sub(self.permits.available_permits())
    }

    fn take(&self, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.permits.try_acquire_many(bytes).map(|permits| permits.forget()).is_ok()
    }

    fn put(&self, bytes: usize) {
        if bytes > 0 {
            self.permits.add_permits(bytes);
        }
    }

    async fn wait(&self, bytes: usize) -> usize {
        let waiting = Waiting::new(self);
        let bytes = u32::try_from(bytes.min(self.size)).unwrap_or(u32::MAX);
        let got = self.permits.acquire_many(bytes).await.map(|permits| permits.forget());
        drop(waiting);
        // It is never closed.
        if got.is_ok() { bytes as usize } else { 0 }
    }
}

/// One of those who wait.
struct Waiting<'a>(&'a Pool);

impl<'a> Waiting<'a> {
    fn new(pool: &'a Pool) -> Self {
        pool.waiting.fetch_add(1, Relaxed);
        Self(pool)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// The windows of an HTTP/2 stream and its connection, in bytes, of a host with so much for all of them: small ones where there
/// is little, so that one client does not take it all. Both are the least that RFC 9113 (6.9.2) allows, or more.
pub fn windows(memory: usize) -> (u32, u32) {
    let connection = (memory / 128).clamp(*WINDOWS.start(), *WINDOWS.end());
    let bytes = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
    (bytes(connection / 2), bytes(connection))
}

#[cfg(test)]
mod tests;
