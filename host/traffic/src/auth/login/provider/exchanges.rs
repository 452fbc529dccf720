//! The exchanges of codes in progress, of which each client has a few.

use std::sync::Arc;

use tokio::sync::Notify;

use lodge_base::slots::{Slots, TakenSlot};

/// How many codes are exchanged at once for each login, and how many of these for one client.
const EXCHANGES: usize = 16;
const OF_CLIENT: usize = 4;

/// The exchanges with a provider.
pub(super) struct Exchanges {
    slots: Arc<Slots<u64>>,
    /// An exchange has ended.
    freed: Arc<Notify>,
}

/// The permit for an exchange, until it is dropped.
pub(in crate::auth::login) struct ExchangePlace {
    slot: Option<TakenSlot<u64>>,
    freed: Arc<Notify>,
}

impl Exchanges {
    pub(super) fn new() -> Self {
        Self { slots: Slots::new(EXCHANGES, OF_CLIENT), freed: Arc::default() }
    }

    /// Waits until a client with these keys has less than its share.
    pub(super) async fn place(&self, client: Vec<u64>) -> ExchangePlace {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Before the look, so that no end of an exchange is missed between the two.
            freed.as_mut().enable();
            if let Some(slot) = self.slots.take(client.clone()) {
                return ExchangePlace { slot: Some(slot), freed: Arc::clone(&self.freed) };
            }
            freed.await;
        }
    }
}

impl Drop for ExchangePlace {
    fn drop(&mut self) {
        drop(self.slot.take());
        self.freed.notify_waiters();
    }
}

impl std::fmt::Debug for Exchanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchanges").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// A client with many codes keeps nobody from logging in, and its own are exchanged one after another.
    #[tokio::test]
    async fn a_client_has_a_share_of_the_exchanges() {
        let exchanges = Exchanges::new();
        // A timeout looks at what it waits for before the time.
        let now = async |client: u64| timeout(Duration::ZERO, exchanges.place(vec![client])).await.ok();
        let mut held = Vec::new();
        while let Some(place) = now(1).await {
            held.push(place);
        }
        assert_eq!(held.len(), OF_CLIENT);
        let (mut waiting, other) = (Box::pin(exchanges.place(vec![1])), now(2).await);
        assert!(other.is_some() && timeout(Duration::ZERO, &mut waiting).await.is_err());
        held.pop();
        let place = timeout(Duration::from_secs(60), waiting).await;
        assert!(place.is_ok() && now(1).await.is_none(), "one that ends makes room for one");
        for client in 3..=16 {
            held.extend(now(client).await);
        }
        assert!(now(99).await.is_none(), "a bound for all");
    }
}
