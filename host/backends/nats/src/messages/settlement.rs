//! The end of a delivery: what is said to NATS, and what becomes of dead messages.

use std::time::Duration;

use bytes::Bytes;
use lodge_remote::LinkFailure;
use lodge_state::Error;
use lodge_state::limits::MAX_PAUSE;
use lodge_state::messages::{Fault, Message, Settlement, SettlementOutcome};
use serde_json::json;
use tokio::time::Instant;

use crate::connector::NatsConnection;
use crate::messages::lease::LeasedMessage;
use crate::messages::publishing::Distinct;
use crate::messages::registry::Deliveries;
use crate::messages::wire::{Death, QueuedMessage};
use crate::messages::{Consumer, NatsQueue};

/// Ends a message: it is done.
const ACKNOWLEDGE: &[u8] = b"+ACK";
/// Ends a message that is none of Lodge.
pub(super) const REFUSE: &[u8] = b"+TERM";

/// Lets NATS deliver a message again after `pause`, and not before.
pub(super) async fn delay(connection: &NatsConnection, reply: &str, pause: Duration) -> Result<(), LinkFailure> {
    let nanoseconds = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
    let text = match nanoseconds {
        0 => "-NAK".to_owned(),
        _ => format!("-NAK {}", json!({ "delay": nanoseconds })),
    };
    connection.request(reply.to_owned(), None, text.into()).await.map(drop)
}

impl NatsQueue {
    /// Settles a message that this host has received.
    pub(super) async fn settled(
        &self,
        connection: &NatsConnection,
        consumer: &Consumer,
        leased: &LeasedMessage,
        settlement: Settlement,
    ) -> Result<SettlementOutcome, LinkFailure> {
        if leased.queue != consumer.queue {
            return Ok(SettlementOutcome::Stale);
        }
        if Instant::now() >= leased.end {
            // It is delivered again, unless this comes first.
            let (known, _) = self.registry.deliveries(connection, &leased.queue, leased.place.sequence).await?;
            if settlement != Settlement::Acknowledge || known.all > leased.place.delivered {
                return Ok(SettlementOutcome::Stale);
            }
        }
        match settlement {
            Settlement::Acknowledge => self.finish(connection, leased).await.map(|()| SettlementOutcome::Done),
            Settlement::Retry(pause, _) if leased.attempt < consumer.subscription.max_deliver() => {
                delay(connection, &leased.place.reply, pause.min(MAX_PAUSE)).await?;
                Ok(SettlementOutcome::Done)
            }
            Settlement::Release(pause) => {
                let released = leased.released.saturating_add(1);
                let deliveries = Deliveries { all: leased.place.delivered, released };
                let at = (&leased.queue, leased.place.sequence);
                // Without a record it counts as a delivery. After a repetition there is one.
                self.registry.delivered(connection, at, deliveries, leased.record).await?;
                delay(connection, &leased.place.reply, pause.min(MAX_PAUSE)).await?;
                Ok(SettlementOutcome::Done)
            }
            Settlement::Retry(_, fault) | Settlement::Reject(fault) => {
                match leased.queue.read(connection, leased.place.sequence).await? {
                    None => Ok(SettlementOutcome::Stale),
                    Some(queued) => {
                        self.bury(connection, consumer, (leased, fault), queued).await?;
                        Ok(SettlementOutcome::Dead)
                    }
                }
            }
        }
    }

    async fn finish(&self, connection: &NatsConnection, leased: &LeasedMessage) -> Result<(), LinkFailure> {
        connection.request(leased.place.reply.clone(), None, Bytes::from_static(ACKNOWLEDGE)).await?;
        self.registry.settled(connection, leased.record).await;
        Ok(())
    }

    /// Ends the life of a message: it goes to the dead-letter subject once, or is kept apart.
    pub(super) async fn bury(
        &self,
        connection: &NatsConnection,
        consumer: &Consumer,
        (leased, fault): (&LeasedMessage, Fault),
        queued: QueuedMessage,
    ) -> Result<(), LinkFailure> {
        let mut moved = false;
        if let (Some(subject), None) = (consumer.subscription.dead_letter(), &queued.origin) {
            let origin = Some(queued.message.subject.clone());
            let message = Message { subject: subject.clone(), ..queued.message.clone() };
            let letter = QueuedMessage { message, origin, ..queued.clone() };
            // The consumer of dead messages may have the message itself as well. Another delivery may have stored it and removed it.
            let name = format!("{}-{}-{}", queued.id, consumer.queue.name(), leased.place.delivered);
            let distinct = Distinct::new(name, leased.removals.clone());
            moved = match Box::pin(self.store(connection, &letter, &distinct)).await {
                Ok(consumers) => consumers > 0,
                // Without room, or if NATS never accepts it, it is kept where it died.
                Err(LinkFailure::Refused(Error::QuotaExceeded { .. })) => false,
                Err(LinkFailure::Refused(error)) if error == connection.too_large() => false,
                Err(failed) => return Err(failed),
            };
        }
        if !moved {
            let at = self.registry.now(connection).await?.milliseconds();
            let attempts = leased.attempt.min(consumer.subscription.max_deliver());
            let death = Some(Death { at, attempts, fault: fault.code() });
            let (dead, room) = (QueuedMessage { death, ..queued }, (consumer.subscription.quota(), self.replicas));
            leased.queue.keep(connection, dead, leased.place.sequence, room).await?;
        }
        self.finish(connection, leased).await
    }
}
