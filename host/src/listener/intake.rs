//! Bounds the memory for data that clients send by `listener.memory`.
//!
//! Every connection has an [`Account`] with the host's [`Buffers`]. Before bytes are read ([`Metered`]), the memory that they may
//! occupy is charged to the account; it is returned when a body was read or a request is finished. A connection that can get no
//! memory is not read: its client waits in TCP, and other clients do not.
//!
//! # What is charged
//!
//! * A connection: [`BASE`], which covers its task, one request, and 8 KiB of received bytes; over HTTP/2 [`FRAME`] more, so
//!   that a whole frame always fits.
//! * A connection over TLS: [`TLS`], from before its handshake to its end.
//! * Each further request in progress or in a queue: [`REQUEST`], and the part of its head over `HEAD`.
//! * HTTP/1.1: twice the bytes received since the connection was idle, or since a guest had read all of a body, at most `ONE`:
//!   hyper has a buffer of `listener.head`, which it copies when it grows, and a chunk of the body.
//! * HTTP/2: every byte from the first unread byte of a body on; if bodies of several requests are interleaved, from the last
//!   time when all of them were read. h2 keeps frames in the buffers that they were read into, so the bytes between two frames
//!   stay in memory as well, which flow control does not count.
//!
//! # What is always true
//!
//! * A connection whose bodies are all read can be read further, however much memory others use: slowly, one frame at a time.
//! * A connection has at most a sixteenth of all memory, or 2 MiB if that is more.

mod account;
mod bodies;
mod frames;
mod metered;
mod unread;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use http::HeaderMap;
use tokio::sync::Semaphore;

pub use account::{Account, Charge};
pub use bodies::{Charged, Upload};
pub use metered::Metered;

/// The bytes charged for a connection and its first request.
pub const BASE: usize = REQUEST + (8 << 10);
/// The bytes charged in addition for an HTTP/2 connection: the largest frame (`SETTINGS_MAX_FRAME_SIZE`).
pub const FRAME: usize = 16 << 10;
/// The bytes charged for TLS: a record that is not complete, one that is decrypted, and one that waits to be sent.
pub const TLS: usize = 48 << 10;
/// The bytes charged for a request: its task, its head, and the state of hyper and the host.
pub const REQUEST: usize = 16 << 10;
/// The bytes of a head that [`REQUEST`] covers.
const HEAD: usize = 4 << 10;
/// The most bytes that an HTTP/1.1 connection needs, since its data is not read ahead of the guest.
const ONE: usize = 192 << 10;
/// The bytes of a field in a header map, without its name and value.
const FIELD: usize = 64;
/// The bytes taken from the buffers at a time.
const GRANULE: usize = 16 << 10;
/// The least bytes worth a read, and the most bytes that are read of frames that may begin requests.
const CHUNK: usize = 1 << 10;
/// The most bytes of one connection on a host with little memory.
const LEAST_SHARE: usize = 2 << 20;
/// The bytes of bodies between two marks.
const MARK: usize = 8 << 10;

/// The least and the largest flow control window of an HTTP/2 connection, in bytes.
const WINDOWS: std::ops::RangeInclusive<usize> = (128 << 10)..=(512 << 10);

/// The memory for data that clients send, of all connections. One half is for the connections themselves, so that new ones can
/// be accepted however much others send; the other half is for their data.
pub struct Buffers {
    bases: Pool,
    extra: Pool,
}

/// A number of bytes that connections borrow.
struct Pool {
    permits: Semaphore,
    size: usize,
    /// The number of connections that wait for bytes.
    waiting: AtomicUsize,
}

impl Buffers {
    /// Returns buffers of `size` bytes.
    pub fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { bases: Pool::new(size / 2), extra: Pool::new(size - size / 2) })
    }

    /// Returns the bytes in use.
    pub fn used(&self) -> usize {
        self.bases.used() + self.extra.used()
    }

    /// Returns the number of connections that are not read for want of memory.
    pub fn waiting(&self) -> usize {
        self.bases.waiting.load(Relaxed) + self.extra.waiting.load(Relaxed)
    }

    /// Returns the most bytes of one connection in addition to its base.
    fn share(&self) -> usize {
        (self.extra.size / 8).max(LEAST_SHARE)
    }

    /// Takes the memory that a connection over TLS needs in addition, as soon as it is available.
    pub async fn for_tls(self: &Arc<Self>) -> TlsBuffers {
        let bytes = if self.bases.take(TLS) { TLS } else { self.bases.wait(TLS).await };
        TlsBuffers(Arc::clone(self), bytes)
    }

    /// Takes bytes as soon as they are available, first come, first served; for a base or in addition to it.
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
        // The semaphore is never closed.
        if got.is_ok() { bytes as usize } else { 0 }
    }
}

/// The memory of a connection over TLS, until it is dropped.
pub struct TlsBuffers(Arc<Buffers>, usize);

impl Drop for TlsBuffers {
    fn drop(&mut self) {
        self.0.bases.put(self.1);
    }
}

/// Counts a waiting connection while it exists.
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

/// Returns the flow control windows of an HTTP/2 stream and its connection, in bytes, on a host with this much memory for all
/// connections. Windows are small where memory is little, so that one client cannot use all of it, and never less than the
/// initial 65,535 bytes of RFC 9113 (6.9.2).
pub fn windows(memory: usize) -> (u32, u32) {
    let connection = (memory / 128).clamp(*WINDOWS.start(), *WINDOWS.end());
    let bytes = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
    (bytes(connection / 2), bytes(connection))
}

/// Returns the bytes of heap that headers use.
fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD).sum()
}

#[cfg(test)]
mod tests;
