//! Messages of services in JetStream.
//!
//! * Every consumer has two streams: `lodge-queue-CONSUMER-NUMBER` with the messages that it has not acknowledged, and
//!   `lodge-dead-CONSUMER-NUMBER` with dead ones. Their limits are its quota. [`registry`] says who consumes what.
//! * A message is stored for each of its consumers by a request of its own. Room is looked for before, and what was stored is
//!   removed when another consumer has none after all. If a request fails, some consumers may have the message and others not.
//! * All hosts pull from the durable consumer of a stream. A host that has received a message says for how long it wants it, by a
//!   negative acknowledgement with that delay: until then nobody else gets it. An acknowledgement after that counts only while
//!   nobody else has received the message.
//! * NATS counts deliveries. What does not count, and who has received a message last, is in a record of the message, which is
//!   written with its second delivery or with its release.

mod dead;
mod lease;
mod listing;
mod publishing;
mod queue;
mod receiving;
mod registry;
mod settlement;
mod stream_requests;
mod subscribing;
mod unrecorded;
mod wire;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lodge_remote::{Links, RemoteSpaces};
use lodge_state::messages::{
    Afterlife, DeadMessage, DeadSelection, Message, MessageId, Published, QueueBackend, QueueStatus, Receipt, Received,
    Settlement, SettlementOutcome, Subscription, place_of,
};
use lodge_state::{Error, Holder, Lease, Namespace};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::SERVER;
use crate::connector::{NatsConnection, NatsConnector};
use crate::messages::lease::LeasedMessages;
use crate::messages::publishing::Distinct;
use crate::messages::queue::QueueStreams;
use crate::messages::registry::Registry;
use crate::messages::unrecorded::UnrecordedStreams;
use crate::messages::wire::QueuedMessage;
use crate::stream::{NatsStream, StreamKind};

/// The longest time that a receiver waits for the server, beside the time that it waits for messages.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The namespace of the subscriptions.
const COMMON: &str = "services";
/// The namespace of publishing. No service has such a name.
const PUBLISHING: &str = "@messages";

/// The messages of all services in NATS.
pub(crate) struct NatsQueue {
    links: Arc<Links<NatsConnector>>,
    spaces: RemoteSpaces,
    registry: Registry,
    replicas: usize,
    /// This host, among those that receive for a consumer.
    host: Holder,
    consumers: Mutex<HashMap<Namespace, Arc<Consumer>>>,
    leases: LeasedMessages,
    unrecorded: UnrecordedStreams,
}

/// A consumer that this host receives for.
struct Consumer {
    name: Namespace,
    subscription: Subscription,
    number: String,
    queue: QueueStreams,
    /// When this host has said last that it receives.
    renewed: Mutex<Instant>,
    /// Changes when those who receive have to return.
    interrupted: watch::Sender<()>,
}

impl NatsQueue {
    /// # Errors
    /// If there are no random numbers.
    pub(crate) fn new(links: Arc<Links<NatsConnector>>, replicas: usize) -> Result<NatsQueue, Error> {
        let spaces = RemoteSpaces::new(SERVER);
        let space = spaces.open(&Namespace::new(COMMON)?, None)?;
        let registry = Registry::new(Arc::new(NatsStream::new(StreamKind::Messages, links.clone(), space, replicas)));
        let (host, consumers, leases) = (Holder::random()?, Mutex::default(), LeasedMessages::default());
        let unrecorded = UnrecordedStreams::default();
        Ok(NatsQueue { links, spaces, registry, replicas, host, consumers, leases, unrecorded })
    }

    fn consumer(&self, name: &Namespace) -> Option<Arc<Consumer>> {
        self.consumers.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn forget(&self, name: &Namespace) {
        self.consumers.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

impl QueueBackend for NatsQueue {
    async fn subscribe(&self, name: &Namespace, subscription: Subscription, deadline: Instant) -> Result<(), Error> {
        let _permit = self.spaces.open(name, None)?.enter(0)?;
        self.registry.create(deadline).await?;
        let subscribed = async |connection: NatsConnection| self.subscribe(&connection, name, &subscription).await;
        let number = match self.links.repeatable(deadline, subscribed).await {
            Ok(number) => number,
            Err(failed) => {
                self.withdraw(name).await;
                return Err(failed);
            }
        };
        let (queue, renewed) = (QueueStreams::new(name, &number), Mutex::new(Instant::now()));
        let mut consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        let interrupted = consumers.get(name).map_or_else(watch::Sender::default, |one| one.interrupted.clone());
        let consumer = Consumer { name: name.clone(), subscription, number, queue, renewed, interrupted };
        consumers.insert(name.clone(), Arc::new(consumer));
        Ok(())
    }

    async fn unsubscribe(&self, name: &Namespace, deadline: Instant) -> Result<bool, Error> {
        let _permit = self.spaces.open(name, None)?.enter(0)?;
        self.registry.create(deadline).await?;
        self.forget(name);
        let ended = async |connection: NatsConnection| self.end(&connection, name).await;
        self.links.repeatable(deadline, ended).await
    }

    async fn publish(&self, message: Message, deadline: Instant) -> Result<Published, Error> {
        let _permit = self.spaces.open(&Namespace::new(PUBLISHING)?, None)?.enter(message.size())?;
        self.registry.create(deadline).await?;
        let id = MessageId::new(format!("{:032x}", Holder::random()?.bits()));
        let distinct = Distinct::new(id.as_str().to_owned(), Arc::default());
        let stored = async |connection: NatsConnection| {
            let published = self.registry.now(&connection).await?;
            let queued =
                QueuedMessage { message: message.clone(), id: id.clone(), published, origin: None, death: None };
            queued.admit(&connection)?;
            self.store(&connection, &queued, &distinct).await
        };
        let consumers = self.links.repeatable(deadline, stored).await?;
        Ok(Published { id, consumers })
    }

    async fn receive(&self, name: &Namespace, limit: usize, lease: Lease, until: Instant) -> Result<Received, Error> {
        let consumer = self.consumer(name).ok_or_else(Error::unsubscribed)?;
        let _permit = self.spaces.open(name, None)?.enter(0)?;
        let deadline = until.max(Instant::now()) + RECEIVE_TIMEOUT * 2;
        let received =
            async |connection: NatsConnection| self.pull(&connection, &consumer, (limit, lease), until).await;
        self.links.repeatable(deadline, received).await
    }

    fn interrupt(&self, name: &Namespace) -> bool {
        if let Some(consumer) = self.consumer(name) {
            consumer.interrupted.send_replace(());
        }
        true
    }

    async fn renew(&self, name: &Namespace, deadline: Instant) -> Result<(), Error> {
        let Some(consumer) = self.consumer(name) else { return Ok(()) };
        let _permit = self.spaces.open(name, None)?.enter(0)?;
        let renewed = async |connection: NatsConnection| self.renew(&connection, &consumer).await;
        self.links.repeatable(deadline, renewed).await
    }

    async fn settle(
        &self,
        name: &Namespace,
        receipt: &Receipt,
        settlement: Settlement,
        deadline: Instant,
    ) -> Result<SettlementOutcome, Error> {
        let leased = self.leases.get(receipt).filter(|leased| leased.consumer == *name);
        let consumer = self.consumer(name);
        let (Some(leased), Some(consumer)) = (leased, consumer) else { return Ok(SettlementOutcome::Stale) };
        let _permit = self.spaces.open(name, None)?.enter(0)?;
        let settled =
            async |connection: NatsConnection| self.settled(&connection, &consumer, &leased, settlement).await;
        let outcome = self.links.repeatable(deadline, settled).await?;
        self.leases.remove(receipt);
        Ok(outcome)
    }

    async fn status(&self, name: &Namespace, deadline: Instant) -> Result<QueueStatus, Error> {
        let Some(consumer) = self.consumer(name) else { return Ok(QueueStatus::default()) };
        let _permit = self.spaces.open(name, None)?.enter(0)?;
        let status = async |connection: NatsConnection| {
            let now = self.registry.now(&connection).await?;
            consumer.queue.status(&connection, now).await
        };
        self.links.repeatable(deadline, status).await
    }

    async fn dead(
        &self,
        name: &Namespace,
        after: Option<&str>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Vec<DeadMessage>, Error> {
        let Some(consumer) = self.consumer(name) else { return Ok(Vec::new()) };
        let _permit = self.spaces.open(name, None)?.enter(0)?;
        let after = place_of(after)?.unwrap_or_default();
        let found = async |connection: NatsConnection| consumer.queue.dead(&connection, after, limit).await;
        self.links.repeatable(deadline, found).await
    }

    async fn dead_message(
        &self,
        name: &Namespace,
        place: &str,
        deadline: Instant,
    ) -> Result<Option<DeadMessage>, Error> {
        let (Some(consumer), Ok(sequence)) = (self.consumer(name), place.parse()) else { return Ok(None) };
        let _permit = self.spaces.open(name, None)?.enter(0)?;
        let found = async |connection: NatsConnection| consumer.queue.read_dead(&connection, sequence).await;
        let found = self.links.repeatable(deadline, found).await?;
        Ok(found.map(|queued| queued.into_dead(sequence)))
    }

    async fn end_dead(
        &self,
        name: &Namespace,
        which: DeadSelection<'_>,
        afterlife: Afterlife,
        deadline: Instant,
    ) -> Result<u64, Error> {
        let Some(consumer) = self.consumer(name) else { return Ok(0) };
        let only = match which.place().map(str::parse::<u64>) {
            Some(Err(_)) => return Ok(0),
            Some(Ok(sequence)) => Some(sequence),
            None => None,
        };
        let _permit = self.spaces.open(name, None)?.enter(0)?;
        let ended = async |connection: NatsConnection| consumer.queue.end_dead(&connection, only, afterlife).await;
        self.links.repeatable(deadline, ended).await
    }
}
