//! The handshakes in progress, of which the oldest ends when there are too many.
//!
//! A client that begins handshakes and does not finish them can hold only as many permits as this bound, and each only until
//! newer connections need it. A handshake of an honest client takes two round trips.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Mutex;

use tokio::sync::oneshot;

use lodge_base::lock::lock;

/// The handshakes in progress.
pub(super) struct Handshakes {
    most: usize,
    running: Mutex<InProgress>,
}

#[derive(Default)]
struct InProgress {
    next: u64,
    /// Ends a handshake when its sender is dropped; the oldest first.
    handshakes: BTreeMap<u64, oneshot::Sender<Infallible>>,
}

/// A permit among the handshakes in progress, until it is dropped.
pub(super) struct HandshakePlace<'a> {
    pending: &'a Handshakes,
    number: u64,
}

impl Handshakes {
    /// Returns room for `most` handshakes.
    pub(super) fn new(most: usize) -> Self {
        Self { most, running: Mutex::default() }
    }

    /// Begins a handshake, and ends the oldest one if there are too many. The future completes when this one has to end.
    pub(super) fn begin(&self) -> (HandshakePlace<'_>, impl Future<Output = ()> + use<>) {
        let (sender, receiver) = oneshot::channel();
        let mut running = lock(&self.running);
        let number = running.next;
        running.next += 1;
        if running.handshakes.len() >= self.most {
            running.handshakes.pop_first();
        }
        running.handshakes.insert(number, sender);
        let ended = async {
            // Nothing is ever sent.
            let _ = receiver.await;
        };
        (HandshakePlace { pending: self, number }, ended)
    }
}

impl Drop for HandshakePlace<'_> {
    fn drop(&mut self) {
        lock(&self.pending.running).handshakes.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_handshake_ends() {
        let pending = Handshakes::new(2);
        let (first, first_ended) = pending.begin();
        let (second, second_ended) = pending.begin();
        drop(first);
        let (_third, _third_ended) = pending.begin();
        let (_fourth, _fourth_ended) = pending.begin();
        // The permit of the first one was free, so the second one made room for the fourth.
        second_ended.await;
        drop(second);
        assert_eq!(lock(&pending.running).handshakes.len(), 2);
        drop(first_ended);
    }
}
