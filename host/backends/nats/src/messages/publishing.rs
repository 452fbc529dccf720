//! Storing a message for its consumers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::future::join_all;
use lodge_remote::LinkFailure;
use lodge_state::Error;

use crate::connector::NatsConnection;
use crate::messages::NatsQueue;
use crate::messages::stream_requests::Storing;
use crate::messages::wire::QueuedMessage;

/// What NATS knows a message by, so that it stores one once although a request is repeated.
///
/// A message that was stored and removed has another one: NATS would say of the first that it is stored.
pub(crate) struct Distinct {
    name: String,
    removals: Arc<AtomicU32>,
}

impl Distinct {
    /// That of a message with this name. `removals` counts how often it was removed.
    pub(crate) fn new(name: String, removals: Arc<AtomicU32>) -> Distinct {
        Distinct { name, removals }
    }

    fn text(&self) -> String {
        match self.removals.load(Ordering::Relaxed) {
            0 => self.name.clone(),
            removals => format!("{}.{removals}", self.name),
        }
    }
}

impl NatsQueue {
    /// Stores a message for each of its consumers, or for none of them, and returns how many it has.
    pub(super) async fn store(
        &self,
        connection: &NatsConnection,
        message: &QueuedMessage,
        distinct: &Distinct,
    ) -> Result<usize, LinkFailure> {
        let size = message.message.size();
        for _ in 0..2 {
            let queues = self.registry.consumers(connection, &message.message.subject).await?;
            if queues.len() > 1 {
                let rooms = join_all(queues.iter().map(|queue| queue.room(connection, size))).await;
                if rooms.into_iter().collect::<Result<Vec<_>, _>>()?.contains(&false) {
                    // The subscription of one has ended.
                    self.registry.forget().await;
                    continue;
                }
            }
            let name = distinct.text();
            let stored = join_all(queues.iter().map(|queue| queue.store(connection, message, &name))).await;
            let (mut full, mut too_large) = (None, false);
            let mut gone = false;
            for (queue, stored) in queues.iter().zip(&stored) {
                match stored {
                    Ok(Storing::Stored(_)) => {}
                    Ok(Storing::Full) => full = Some(queue),
                    Ok(Storing::TooLarge) => too_large = true,
                    Ok(Storing::Gone) => gone = true,
                    Err(failed) => return Err(failed.clone()),
                }
            }
            if full.is_some() || too_large {
                // First: a removal whose response is lost may be done.
                distinct.removals.fetch_add(1, Ordering::Relaxed);
                for (queue, stored) in queues.iter().zip(&stored) {
                    if let Ok(Storing::Stored(sequence)) = stored {
                        queue.remove(connection, *sequence).await?;
                    }
                }
                return Err(match full {
                    Some(full) => full.refusal(connection, size).await,
                    None => connection.too_large().into(),
                });
            }
            if !gone {
                return Ok(queues.len());
            }
            // Its subscription has ended; what is stored is not stored twice.
            self.registry.forget().await;
        }
        Err(Error::unavailable("the messages of a consumer were deleted in NATS: it creates them again").into())
    }
}
