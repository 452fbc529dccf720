//! Receiving messages: NATS delivers them to this host, which claims them.

use std::sync::PoisonError;
use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use futures_util::future::join_all;
use lodge_remote::LinkFailure;
use lodge_state::limits::MAX_RECEIVE;
use lodge_state::messages::{Delivery, Fault, Received};
use lodge_state::{Error, Lease};
use tokio::time::Instant;

use crate::connector::NatsConnection;
use crate::messages::lease::{DeliveryPlace, LeasedMessage};
use crate::messages::queue::UNCLAIMED;
use crate::messages::registry::Deliveries;
use crate::messages::settlement::{REFUSE, delay};
use crate::messages::wire::QueuedMessage;
use crate::messages::{Consumer, NatsQueue};
use crate::unexpected;

/// How often a host says that it receives for a consumer, and looks whether there is its subscription still.
const RENEWAL: Duration = Duration::from_secs(60);

/// What becomes of a message that NATS has delivered to this host.
enum ClaimOutcome {
    Delivered(Delivery),
    Dead,
    /// Another host has it, or will have it.
    Lost,
}

impl NatsQueue {
    /// Says once a minute that this host receives for a consumer.
    pub(super) async fn renew(&self, connection: &NatsConnection, consumer: &Consumer) -> Result<(), LinkFailure> {
        let renewed = *consumer.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        if renewed.elapsed() < RENEWAL {
            return Ok(());
        }
        self.registry.arrive(connection, &consumer.name, self.host).await?;
        let found = self.registry.find(connection, &consumer.name).await?;
        let Some(found) = found.filter(|found| found.number == consumer.number) else {
            self.forget(&consumer.name);
            return Err(Error::unavailable("the subscription of the service has ended: it subscribes again").into());
        };
        if !found.is_current(consumer.subscription.patterns()) {
            // Another host may have done so.
            self.registry.renew(connection, &found, false).await?;
        }
        self.sweep(connection).await?;
        // Nobody waits for this; it is tried again.
        let _ = self.clear(connection).await;
        *consumer.renewed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Ok(())
    }

    /// Receives messages, and claims them.
    pub(super) async fn pull(
        &self,
        connection: &NatsConnection,
        consumer: &Consumer,
        (limit, lease): (usize, Lease),
        until: Instant,
    ) -> Result<Received, LinkFailure> {
        let interrupted = consumer.interrupted.subscribe();
        loop {
            self.renew(connection, consumer).await?;
            let requested = Instant::now();
            let messages = consumer.queue.pull(connection, limit.clamp(1, MAX_RECEIVE), until, &interrupted).await?;
            let ends = Instant::now() >= until || interrupted.has_changed().is_ok_and(|changed| changed);
            if messages.is_empty() && ends {
                return Ok(Received::default());
            }
            self.leases.clean();
            let claims =
                join_all(messages.iter().map(|message| self.claim(connection, consumer, message, lease, requested)))
                    .await;
            let (mut received, mut failed) = (Received::default(), None);
            for claim in claims {
                match claim {
                    Ok(ClaimOutcome::Delivered(delivery)) => received.deliveries.push(delivery),
                    Ok(ClaimOutcome::Dead) => received.dead += 1,
                    Ok(ClaimOutcome::Lost) => {}
                    // It is delivered again.
                    Err(error) => failed = Some(error),
                }
            }
            match failed {
                Some(failed) if received == Received::default() => return Err(failed),
                _ if received != Received::default() || ends => return Ok(received),
                _ => {}
            }
        }
    }

    /// Claims a message that NATS has delivered after the moment `requested`.
    async fn claim(
        &self,
        connection: &NatsConnection,
        consumer: &Consumer,
        message: &Message,
        lease: Lease,
        requested: Instant,
    ) -> Result<ClaimOutcome, LinkFailure> {
        let place = DeliveryPlace::read(message).ok_or_else(unexpected)?;
        let headers = message.headers.clone().unwrap_or_default();
        let Some(queued) = QueuedMessage::read(&headers, message.payload.clone()) else {
            // Another program has published it.
            connection.request(place.reply, None, Bytes::from_static(REFUSE)).await?;
            return Ok(ClaimOutcome::Dead);
        };
        let (queue, name) = (consumer.queue.clone(), consumer.name.clone());
        let (known, record) = match place.delivered {
            0 | 1 => Default::default(),
            _ => self.registry.deliveries(connection, &queue, place.sequence).await?,
        };
        let attempt = place.delivered.saturating_sub(known.released).try_into().unwrap_or(u32::MAX);
        let (released, end, removals) = (known.released, requested, Default::default());
        let mut leased = LeasedMessage { consumer: name, queue, place, released, attempt, record, end, removals };
        if attempt > consumer.subscription.max_deliver() {
            return match self.bury(connection, consumer, (&leased, Fault::Unsettled), queued).await {
                Ok(()) => Ok(ClaimOutcome::Dead),
                // Another delivery tries it again. Until then this host receives others.
                Err(LinkFailure::Refused(_)) => Ok(ClaimOutcome::Lost),
                Err(failed) => Err(failed),
            };
        }
        // Before the claim: after it an error would lose the message for its lease.
        let age = self.registry.now(connection).await?.since(queued.published);
        leased.end = Instant::now() + lease.duration();
        delay(connection, &leased.place.reply, lease.duration()).await?;
        if leased.place.delivered > 1 {
            let deliveries = Deliveries { all: leased.place.delivered, released: known.released };
            let at = (&leased.queue, leased.place.sequence);
            let written = match known.all > deliveries.all {
                true => None,
                false => self.registry.delivered(connection, at, deliveries, record).await?,
            };
            let Some(record) = written else { return Ok(ClaimOutcome::Lost) };
            leased.record = record;
        }
        if requested.elapsed() >= UNCLAIMED {
            // It may have been delivered to another host before the claim.
            return Ok(ClaimOutcome::Lost);
        }
        let receipt = self.leases.add(leased)?;
        let QueuedMessage { message, id, origin, .. } = queued;
        Ok(ClaimOutcome::Delivered(Delivery { message, id, receipt, attempt, age, origin }))
    }
}
