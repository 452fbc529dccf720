//! The messages that this host has received and not settled.

use std::collections::HashMap;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::Message;
use lodge_state::limits::MAX_LEASE;
use lodge_state::messages::Receipt;
use lodge_state::{Error, Holder, Namespace};
use tokio::time::Instant;

use crate::messages::queue::QueueStreams;

/// Where a delivery is from, by the subject that it is acknowledged at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeliveryPlace {
    pub(crate) reply: String,
    /// How often NATS has delivered the message.
    pub(crate) delivered: u64,
    pub(crate) sequence: u64,
}

impl DeliveryPlace {
    /// Reads `$JS.ACK.STREAM.CONSUMER.DELIVERED.SEQUENCE.…`, also with a domain and an account before the stream.
    pub(crate) fn read(message: &Message) -> Option<DeliveryPlace> {
        let reply = message.reply.as_ref()?.as_str();
        let tokens: Vec<_> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let first = if tokens.len() == 7 { 2 } else { 4 };
        let number = |index: usize| tokens.get(index)?.parse().ok();
        Some(DeliveryPlace { reply: reply.to_owned(), delivered: number(first)?, sequence: number(first + 1)? })
    }
}

/// A message that this host has received.
#[derive(Clone, Debug)]
pub(crate) struct LeasedMessage {
    pub(crate) consumer: Namespace,
    pub(crate) queue: QueueStreams,
    pub(crate) place: DeliveryPlace,
    /// The deliveries before that do not count.
    pub(crate) released: u64,
    pub(crate) attempt: u32,
    /// The sequence of the record of its deliveries; 0 without one.
    pub(crate) record: u64,
    /// Until then no other host receives it.
    pub(crate) end: Instant,
    /// How often it was removed from a consumer of dead messages, because another one had no room.
    pub(crate) removals: Arc<AtomicU32>,
}

/// All of them.
#[derive(Default)]
pub(crate) struct LeasedMessages(Mutex<HashMap<Receipt, LeasedMessage>>);

impl LeasedMessages {
    fn lock(&self) -> MutexGuard<'_, HashMap<Receipt, LeasedMessage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message.
    ///
    /// # Errors
    /// If there are no random numbers.
    pub(crate) fn add(&self, leased: LeasedMessage) -> Result<Receipt, Error> {
        let receipt = Receipt::new(format!("{:032x}", Holder::random()?.bits()));
        self.lock().insert(receipt.clone(), leased);
        Ok(receipt)
    }

    /// Removes those that nobody will settle any more: their lease has ended long ago.
    pub(crate) fn clean(&self) {
        let now = Instant::now();
        self.lock().retain(|_, leased| leased.end + MAX_LEASE > now);
    }

    /// The message with a receipt.
    pub(crate) fn get(&self, receipt: &Receipt) -> Option<LeasedMessage> {
        self.lock().get(receipt).cloned()
    }

    /// Removes a message that is settled.
    pub(crate) fn remove(&self, receipt: &Receipt) {
        self.lock().remove(receipt);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_of_acknowledgements_are_read() {
        let read = |reply: &str| {
            let (subject, payload) = ("a".into(), Default::default());
            let reply = Some(reply.into());
            let (headers, status, description) = (None, None, None);
            DeliveryPlace::read(&Message { subject, reply, payload, headers, status, description, length: 0 })
        };
        for reply in ["$JS.ACK.s.c.2.7.9.1796054613958242619.4", "$JS.ACK.hub.acc.s.c.2.7.9.1796054613958242619.4.rnd"]
        {
            let place = DeliveryPlace { reply: reply.to_owned(), delivered: 2, sequence: 7 };
            assert_eq!(read(reply), Some(place));
        }
        for foreign in ["a", "$JS.ACK.s.c", "$JS.ACK.s.c.x.7.9.1.4"] {
            assert_eq!(read(foreign), None, "{foreign}");
        }
    }
}
