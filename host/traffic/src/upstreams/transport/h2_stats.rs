//! The state of an HTTP/2 connection that its task, its pool and its exchanges share.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The stream limit and the reads of an HTTP/2 connection.
#[derive(Default)]
pub(super) struct H2Stats {
    /// The most streams that the replica accepts at once.
    limit: AtomicUsize,
    /// The number of reads from the socket.
    reads: AtomicUsize,
    /// Notified when the first read was processed, which has the stream limit.
    pub(super) settled: Notify,
}

impl H2Stats {
    /// Returns the most streams at once.
    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Returns a number that changes with every read.
    pub(super) fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    /// Sets the most streams at once.
    pub(super) fn set_limit(&self, streams: usize) {
        self.limit.store(streams, Ordering::Relaxed);
    }

    /// Counts a read from the socket.
    pub(super) fn record_read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }
}
