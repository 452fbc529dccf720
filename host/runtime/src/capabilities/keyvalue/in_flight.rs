//! What one sandbox has in memory of the host for its store: bytes on their way, and handles.
//!
//! Async functions let a guest begin thousands of operations before the first has ended. Their arguments and results are not in
//! the memory of the sandbox, so `limits.memory` is no bound of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use lodge_state::Error;
use lodge_state::limits::{MAX_BATCH_BYTES, MAX_KEY, MAX_PAGE, MAX_VALUE};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// Bytes of keys and values that are being sent. They are in memory already, so more is an error.
const SENT: usize = 16 << 20;

/// Bytes of keys and values that are being received. Operations wait for their part of it.
const RECEIVED: usize = 32 << 20;

/// Bytes that an operation needs beside its keys and values, roughly.
const OPERATION: usize = 1 << 10;

/// Handles of buckets and of compare-and-swap. A handle has a key, or some cursors.
pub(super) const HANDLES: usize = 256;

/// The largest results of operations, in bytes.
pub(super) const VALUE: usize = MAX_VALUE;
pub(super) const BATCH: usize = MAX_BATCH_BYTES;
pub(super) const PAGE: usize = MAX_PAGE * MAX_KEY;

/// What a sandbox has in flight.
pub(super) struct InFlight {
    sent: AtomicUsize,
    received: Arc<Semaphore>,
    handles: AtomicUsize,
}

/// Bytes that are being sent, until this is dropped.
pub(super) struct SentPermit {
    in_flight: Arc<InFlight>,
    bytes: usize,
}

/// A handle, until this is dropped.
pub(super) struct HandlePermit(Arc<InFlight>);

impl Drop for SentPermit {
    fn drop(&mut self) {
        self.in_flight.sent.fetch_sub(self.bytes, Relaxed);
    }
}

impl Drop for HandlePermit {
    fn drop(&mut self) {
        self.0.handles.fetch_sub(1, Relaxed);
    }
}

impl InFlight {
    /// Nothing.
    pub(super) fn new() -> Arc<Self> {
        let (sent, handles) = Default::default();
        Arc::new(Self { sent, received: Arc::new(Semaphore::new(RECEIVED)), handles })
    }

    /// Begins to send `bytes` of keys and values.
    ///
    /// # Errors
    /// If the sandbox sends too much already.
    pub(super) fn send(self: &Arc<Self>, bytes: usize) -> Result<SentPermit, Error> {
        let bytes = bytes.saturating_add(OPERATION);
        let all = self.sent.load(Relaxed).saturating_add(bytes);
        if all > SENT {
            let what = "what this request sends to its store at a time";
            return Err(Error::TooLarge { what, unit: "bytes", size: all, limit: SENT });
        }
        self.sent.fetch_add(bytes, Relaxed);
        Ok(SentPermit { in_flight: Arc::clone(self), bytes })
    }

    /// Waits for room for a result of up to `bytes`.
    ///
    /// # Errors
    /// [`Error::Timeout`] at the deadline.
    pub(super) async fn receive(&self, bytes: usize, deadline: Instant) -> Result<OwnedSemaphorePermit, Error> {
        let units = u32::try_from(bytes.min(RECEIVED)).unwrap_or(u32::MAX);
        // Most operations need no timer.
        if let Ok(permit) = Arc::clone(&self.received).try_acquire_many_owned(units) {
            return Ok(permit);
        }
        let permit = timeout_at(deadline, Arc::clone(&self.received).acquire_many_owned(units)).await;
        permit.ok().and_then(Result::ok).ok_or(Error::Timeout)
    }

    /// Makes a handle; `None` if the sandbox has too many.
    pub(super) fn handle(self: &Arc<Self>) -> Option<HandlePermit> {
        if self.handles.load(Relaxed) >= HANDLES {
            return None;
        }
        self.handles.fetch_add(1, Relaxed);
        Some(HandlePermit(Arc::clone(self)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_sent_is_bounded() {
        let in_flight = InFlight::new();
        let many: Vec<_> = (0..15).map(|_| in_flight.send(1 << 20).unwrap()).collect();
        let error = in_flight.send(1 << 20).err().unwrap().to_string();
        assert!(error.contains("what this request sends") && error.contains("the limit is 16777216"), "{error}");
        assert!(in_flight.send(usize::MAX).is_err());
        drop(many);
        assert_eq!(in_flight.sent.load(Relaxed), 0);
        // Operations without keys and values are bounded as well.
        let operations: Vec<_> = (0..SENT / OPERATION).map(|_| in_flight.send(0).unwrap()).collect();
        assert!(in_flight.send(0).is_err());
        drop(operations);
        assert!(in_flight.send(1 << 20).is_ok());
    }

    #[tokio::test]
    async fn what_is_received_waits_for_room() {
        let in_flight = InFlight::new();
        let later = Instant::now() + Duration::from_secs(60);
        let mut all = Vec::new();
        for _ in 0..RECEIVED / VALUE {
            all.push(in_flight.receive(VALUE, later).await.unwrap());
        }
        assert_eq!(in_flight.receive(VALUE, Instant::now()).await.err(), Some(Error::Timeout));
        let (waiting, ()) = tokio::join!(in_flight.receive(VALUE, later), async { drop(all.pop()) });
        assert!(waiting.is_ok());
    }

    #[test]
    fn handles_are_bounded() {
        let in_flight = InFlight::new();
        let mut handles: Vec<_> = (0..HANDLES).map(|_| in_flight.handle().unwrap()).collect();
        assert!(in_flight.handle().is_none());
        handles.pop();
        assert!(in_flight.handle().is_some());
    }
}
