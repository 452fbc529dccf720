//! The handshakes in progress, of which one ends when there are too many: the oldest of the address that has most.
//!
//! A client that begins handshakes and does not finish them can hold only as many permits as this bound, and each only until
//! newer connections need it. It ends its own handshakes before those of others. A handshake of an honest client takes two round trips.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Mutex;

use tokio::sync::oneshot;

use crate::listener::places::{ByAddress, HeldId};
use lodge_base::lock::lock;

/// The handshakes in progress.
pub(super) struct Handshakes {
    most: usize,
    /// A handshake ends when its sender is dropped.
    running: Mutex<ByAddress<oneshot::Sender<Infallible>>>,
}

/// A permit among the handshakes in progress, until it is dropped.
pub(super) struct HandshakePlace<'a> {
    pending: &'a Handshakes,
    id: HeldId,
}

impl Handshakes {
    /// Returns room for `most` handshakes.
    pub(super) fn new(most: usize) -> Self {
        Self { most, running: Mutex::default() }
    }

    /// Begins a handshake of a client, and ends another one if there are too many. The future completes when this one has to end.
    pub(super) fn begin(&self, client: IpAddr) -> (HandshakePlace<'_>, impl Future<Output = ()> + use<>) {
        let (sender, receiver) = oneshot::channel();
        let mut running = lock(&self.running);
        if running.count() >= self.most {
            let first = running.by_most().flatten().next().map(|(id, _)| id);
            first.map(|id| running.remove(id));
        }
        let id = running.insert(client, sender);
        let ended = async {
            // Nothing is ever sent.
            let _ = receiver.await;
        };
        (HandshakePlace { pending: self, id }, ended)
    }
}

impl Drop for HandshakePlace<'_> {
    fn drop(&mut self) {
        lock(&self.pending.running).remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    #[tokio::test]
    async fn the_oldest_handshake_ends() {
        let pending = Handshakes::new(2);
        let (first, first_ended) = pending.begin(client(1));
        let (second, second_ended) = pending.begin(client(2));
        drop(first);
        let (_third, _third_ended) = pending.begin(client(3));
        let (_fourth, _fourth_ended) = pending.begin(client(4));
        // The permit of the first one was free, so the second one made room for the fourth.
        second_ended.await;
        drop(second);
        assert_eq!(lock(&pending.running).count(), 2);
        drop(first_ended);
    }

    /// A client that begins handshakes without end ends its own.
    #[tokio::test]
    async fn the_client_with_most_handshakes_makes_room() {
        let pending = Handshakes::new(4);
        let (_honest, honest_ended) = pending.begin(client(1));
        let (mut honest_ended, mut held) = (Box::pin(honest_ended), Vec::new());
        for _ in 0..100 {
            held.push(pending.begin(client(2)));
        }
        tokio::select! {
            biased;
            () = &mut honest_ended => panic!("ended for a client with more"),
            () = std::future::ready(()) => {}
        }
        let (_place, oldest_ended) = held.remove(0);
        oldest_ended.await;
        assert_eq!(lock(&pending.running).count(), 4);
    }
}
