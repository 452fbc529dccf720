//! Messages of NATS itself, which JetStream does not store: at most once.
//!
//! A consumer has a subscription with a queue group of its name on each host, so that one host gets each message. What comes is kept
//! in the memory of this host, as the backend in memory keeps messages, until the service has handled it. What nobody subscribes to,
//! what comes while the connection is away, what a quota has no room for, and what waits when the host ends, is lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::Subscriber;
use futures_util::{StreamExt, stream};
use lodge_remote::{LinkFailure, Links};
use lodge_state::messages::{
    Afterlife, DeadMessage, DeadSelection, Headers, Message, MessageBody, MessageQueue, Published, QueueBackend,
    QueueStatus, Receipt, Received, Settlement, SettlementOutcome, Subject, Subscription,
};
use lodge_state::{Backend, Error, Lease, Memory, Namespace, SystemClock};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::connector::{NatsConnection, NatsConnector};

/// What subjects of hosts begin with: messages of other services, and replies to other requests.
const FOREIGN: [&str; 2] = ["lodge.", "_INBOX."];
/// The headers that are passed on.
const HEADERS: [&str; 3] = ["content-type", "traceparent", "tracestate"];

/// The messages of NATS for all consumers of this host.
pub(crate) struct UnstoredQueue {
    links: Arc<Links<NatsConnector>>,
    runtime: Handle,
    consumers: Mutex<HashMap<Namespace, Arc<UnstoredConsumer>>>,
}

/// A consumer of this host.
struct UnstoredConsumer {
    /// What has come, of this consumer alone.
    messages: Arc<dyn MessageQueue>,
    /// Whether its subscription has ended, so that nothing comes any more.
    ended: AtomicBool,
    /// Messages without room since they were counted last.
    dropped: Arc<AtomicU64>,
    /// Whether the subscription still brings messages.
    connected: watch::Receiver<bool>,
    bringing: AbortHandle,
}

impl UnstoredConsumer {
    /// Ends its subscription.
    fn end(&self) -> bool {
        self.bringing.abort();
        !self.ended.swap(true, Ordering::Relaxed)
    }
}

impl Drop for UnstoredConsumer {
    fn drop(&mut self) {
        self.bringing.abort();
    }
}

impl UnstoredQueue {
    pub(crate) fn new(links: Arc<Links<NatsConnector>>, runtime: &Handle) -> UnstoredQueue {
        UnstoredQueue { links, runtime: runtime.clone(), consumers: Mutex::default() }
    }

    fn consumer(&self, name: &Namespace) -> Option<Arc<UnstoredConsumer>> {
        self.consumers.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

/// Subscribes to the patterns of a consumer, and waits until NATS knows it. All have one queue group, so NATS sends a message once also
/// if several of them have its subject.
async fn subscribed(
    connection: &NatsConnection,
    name: &Namespace,
    subscription: &Subscription,
) -> Result<Vec<Subscriber>, LinkFailure> {
    let group = format!("lodge-{}", crate::names::token(name.as_str()));
    let mut subscribers = Vec::new();
    for pattern in subscription.patterns() {
        let subscribed = connection.client.queue_subscribe(pattern.as_str().to_owned(), group.clone());
        subscribers.push(connection.unless_lost(subscribed).await?.map_err(|_| LinkFailure::Lost)?);
    }
    connection.round_trip().await?;
    Ok(subscribers)
}

/// Brings what comes into the memory until the connection is lost.
async fn bring(
    connection: NatsConnection,
    subscribers: Vec<Subscriber>,
    messages: Arc<dyn MessageQueue>,
    dropped: Arc<AtomicU64>,
    connected: watch::Sender<bool>,
) {
    let mut coming = stream::select_all(subscribers);
    while let Ok(Some(message)) = connection.unless_lost(coming.next()).await {
        let Some(message) = read(&message) else { continue };
        if messages.publish(message, Instant::now()).await.is_err() {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
    connected.send_replace(false);
}

/// Reads a message; `None` if it is one of a host, or its subject is none of Lodge's. Replies to it would lead nowhere.
fn read(message: &async_nats::Message) -> Option<Message> {
    let subject = Subject::new(&message.subject).ok()?;
    if FOREIGN.iter().any(|prefix| subject.as_str().starts_with(prefix)) {
        return None;
    }
    let fields = message.headers.as_ref();
    let field = |name: &'static str| Some((name, fields?.get(name)?.as_str()));
    let headers = Headers::new(HEADERS.into_iter().filter_map(field)).unwrap_or_default();
    // As the memory keeps it for long, it keeps no other bytes that came with it.
    let body = MessageBody::new(message.payload.to_vec()).ok()?;
    Some(Message { subject, reply_to: None, headers, body })
}

impl QueueBackend for UnstoredQueue {
    async fn subscribe(&self, name: &Namespace, subscription: Subscription, deadline: Instant) -> Result<(), Error> {
        // What has come before an edit is kept, and can be settled.
        let messages = match self.consumer(name) {
            Some(before) => {
                before.end();
                before.messages.clone()
            }
            None => Memory::new(0, Arc::new(SystemClock::new())).messages()?,
        };
        messages.subscribe(name, subscription.clone(), deadline).await?;
        let opened = async |connection: NatsConnection| {
            let subscribers = subscribed(&connection, name, &subscription).await?;
            Ok::<_, LinkFailure>((connection, subscribers))
        };
        let (connection, subscribers) = self.links.repeatable(deadline, opened).await?;
        let (dropped, (connected, known)) = (Arc::<AtomicU64>::default(), watch::channel(true));
        let bringing = self.runtime.spawn(bring(connection, subscribers, messages.clone(), dropped.clone(), connected));
        let bringing = bringing.abort_handle();
        let consumer =
            UnstoredConsumer { messages, ended: AtomicBool::new(false), dropped, connected: known, bringing };
        self.consumers.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), Arc::new(consumer));
        Ok(())
    }

    /// Ends the subscription of this host. What it is working on can still be settled.
    async fn unsubscribe(&self, name: &Namespace, _: Instant) -> Result<bool, Error> {
        Ok(self.consumer(name).is_some_and(|consumer| consumer.end()))
    }

    async fn publish(&self, _: Message, _: Instant) -> Result<Published, Error> {
        Err(Error::unavailable("messages are published to JetStream"))
    }

    async fn receive(&self, name: &Namespace, limit: usize, lease: Lease, until: Instant) -> Result<Received, Error> {
        let consumer = self.consumer(name).filter(|consumer| !consumer.ended.load(Ordering::Relaxed));
        let consumer = consumer.ok_or_else(Error::unsubscribed)?;
        let mut connected = consumer.connected.clone();
        let received = tokio::select! {
            received = consumer.messages.receive(name, limit, lease, until) => received?,
            _ = connected.wait_for(|connected| !connected) => {
                return Err(Error::unavailable("the connection to NATS was lost: messages that are sent now are lost"));
            }
        };
        Ok(Received { dropped: consumer.dropped.swap(0, Ordering::Relaxed), ..received })
    }

    async fn settle(
        &self,
        name: &Namespace,
        receipt: &Receipt,
        settlement: Settlement,
        deadline: Instant,
    ) -> Result<SettlementOutcome, Error> {
        let Some(consumer) = self.consumer(name) else { return Ok(SettlementOutcome::Stale) };
        let failed = matches!(settlement, Settlement::Retry(..) | Settlement::Reject(_));
        // Nothing is delivered again, and nothing is kept.
        let settlement = if failed { Settlement::Acknowledge } else { settlement };
        let outcome = consumer.messages.settle(name, receipt, settlement, deadline).await?;
        Ok(if failed && outcome == SettlementOutcome::Done { SettlementOutcome::Dead } else { outcome })
    }

    async fn status(&self, name: &Namespace, deadline: Instant) -> Result<QueueStatus, Error> {
        let Some(consumer) = self.consumer(name) else { return Ok(QueueStatus::default()) };
        consumer.messages.status(name, deadline).await
    }

    async fn dead(&self, _: &Namespace, _: Option<&str>, _: usize, _: Instant) -> Result<Vec<DeadMessage>, Error> {
        Ok(Vec::new())
    }

    async fn dead_message(&self, _: &Namespace, _: &str, _: Instant) -> Result<Option<DeadMessage>, Error> {
        Ok(None)
    }

    async fn end_dead(&self, _: &Namespace, _: DeadSelection<'_>, _: Afterlife, _: Instant) -> Result<u64, Error> {
        Ok(0)
    }
}
