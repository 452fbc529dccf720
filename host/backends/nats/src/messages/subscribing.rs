//! Subscriptions of consumers: how they begin, change and end.

use std::time::Duration;

use lodge_remote::LinkFailure;
use lodge_state::limits::MAX_CONSUMERS;
use lodge_state::messages::Subscription;
use lodge_state::{Error, Namespace, Resource};
use tokio::time::Instant;

use crate::connector::NatsConnection;
use crate::messages::NatsQueue;
use crate::messages::queue::QueueStreams;
use crate::messages::registry::Registered;
use crate::stream::UpdateOutcome;

/// Attempts to write a subscription that other hosts write as well.
const ATTEMPTS: usize = 20;
/// How long the removal of what a failed attempt has created may take.
const WITHDRAWAL: Duration = Duration::from_secs(1);

impl NatsQueue {
    /// Creates the streams of a consumer and writes its subscription. Returns the number of the streams.
    pub(super) async fn subscribe(
        &self,
        connection: &NatsConnection,
        name: &Namespace,
        subscription: &Subscription,
    ) -> Result<String, LinkFailure> {
        self.admit(connection, name).await?;
        for _ in 0..ATTEMPTS {
            let found = self.registry.find(connection, name).await?;
            let live = found.as_ref().filter(|found| found.is_live());
            // First: who may not write here leaves no streams.
            self.registry.arrive(connection, name, self.host).await?;
            let number = match live {
                Some(live) => live.number.clone(),
                None => self.unrecorded.number(name)?,
            };
            let queue = QueueStreams::new(name, &number);
            queue.create(connection, subscription.quota(), self.replicas).await?;
            // Always: other hosts may have known this record for almost as long as it lasts.
            let written = (number.as_str(), subscription.patterns(), false);
            self.unrecorded.write(name);
            match self.registry.write(connection, name, written, found.as_ref()).await? {
                UpdateOutcome::Done(_) => {
                    self.unrecorded.remove(name);
                    return Ok(number);
                }
                UpdateOutcome::Conflict if live.is_none() => {
                    // An earlier attempt of this host may have written it, whose response was lost: the streams are in use then.
                    self.registry.forget().await;
                    let recorded = self.registry.find(connection, name).await?;
                    if recorded.is_none_or(|recorded| recorded.number != number) {
                        queue.delete(connection).await?;
                    }
                    self.unrecorded.remove(name);
                }
                UpdateOutcome::Conflict => {}
            }
            self.registry.forget().await;
        }
        Err(Error::unavailable("other hosts change the subscription of the service at the same time").into())
    }

    /// Deletes the streams that a failed [`subscribe`](Self::subscribe) has created, unless its subscription may be written.
    pub(super) async fn withdraw(&self, name: &Namespace) {
        let Some(number) = self.unrecorded.unwritten(name) else { return };
        let queue = QueueStreams::new(name, &number);
        let deleted = async |connection: NatsConnection| queue.delete(&connection).await;
        // If this fails, the next attempt has the same streams.
        if self.links.once(Instant::now() + WITHDRAWAL, deleted).await.is_ok() {
            self.unrecorded.remove(name);
        }
    }

    /// Removes subscriptions that have ended, and returns how many there are.
    pub(super) async fn sweep(&self, connection: &NatsConnection) -> Result<u64, LinkFailure> {
        let (live, ended) = self.registry.ended(connection).await?;
        for registered in &ended {
            if registered.has_ended() {
                self.discard(connection, registered).await?;
            } else if self.registry.is_received(connection, &registered.consumer).await? {
                self.registry.renew(connection, registered, false).await?;
            } else {
                self.close(connection, registered).await?;
            }
        }
        Ok(live)
    }

    /// Refuses a new subscription if there are too many.
    async fn admit(&self, connection: &NatsConnection, name: &Namespace) -> Result<(), LinkFailure> {
        let live = self.sweep(connection).await?;
        let known = self.registry.find(connection, name).await?;
        if live >= MAX_CONSUMERS && !known.is_some_and(|known| known.is_live()) {
            let (resource, used, limit) = (Resource::Consumers, live, MAX_CONSUMERS);
            return Err(Error::QuotaExceeded { resource, used, limit }.into());
        }
        Ok(())
    }

    /// Ends a subscription, and returns `false` if another host has written it meanwhile. It is marked first, so that nobody uses
    /// its streams when they are removed.
    async fn close(&self, connection: &NatsConnection, registered: &Registered) -> Result<bool, LinkFailure> {
        if self.registry.renew(connection, registered, true).await? == UpdateOutcome::Conflict {
            return Ok(false);
        }
        let found = self.registry.find(connection, &registered.consumer).await?;
        if let Some(ended) = found.filter(Registered::has_ended) {
            self.discard(connection, &ended).await?;
        }
        Ok(true)
    }

    /// Removes a subscription that has ended, and its messages.
    async fn discard(&self, connection: &NatsConnection, registered: &Registered) -> Result<(), LinkFailure> {
        // In this order: without the record nobody would know that there are streams.
        registered.queue().delete(connection).await?;
        self.registry.remove(connection, registered).await
    }

    /// Ends a subscription that no other host receives for.
    pub(super) async fn end(&self, connection: &NatsConnection, name: &Namespace) -> Result<bool, LinkFailure> {
        for _ in 0..ATTEMPTS {
            let found = self.registry.find(connection, name).await?.filter(Registered::is_live);
            let Some(found) = found else { return Ok(false) };
            if self.registry.leave(connection, name, self.host).await? {
                return Ok(false);
            }
            if self.close(connection, &found).await? {
                return Ok(true);
            }
            self.registry.forget().await;
        }
        Err(Error::unavailable("other hosts change the subscription of the service at the same time").into())
    }
}
