//! The consumer of one service: receives its messages, sends each as a request, and settles it by the response.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::delivery;
use super::receiving::{OPERATION, before, renewing, take};
use crate::guests::stores::Stores;
use crate::request::handler::Handler;
use crate::request::message::{Handled, MessageSender};
use lodge_base::config::limits::Limits;
use lodge_base::lock::lock;
use lodge_base::telemetry::metrics::MessageBacklog;
use lodge_manifest::consume::Consume;
use lodge_manifest::spec::host_of;
use lodge_state::limits::{MAX_LEASE, MAX_RECEIVE};
use lodge_state::messages::{
    Backlog, Delivery, MessageQueue, Pattern, Settlement, SettlementOutcome, Subject, Subscription,
};
use lodge_state::{Error, Lease, Namespace};
use lodge_traffic::proxy::headers::Peer;
use lodge_traffic::service::Service;

/// How often the metrics are read while messages arrive: a server needs several requests for them.
const MEASURE: Duration = Duration::from_secs(1);

/// What a lease has beyond the time of the request, to settle the message.
const MARGIN: Duration = Duration::from_secs(30);

/// The first and the longest pause while the queue is not available or the service fails every message.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// The time between two log lines about refused messages.
const WARNINGS: Duration = Duration::from_secs(60);

/// Failures in succession after which the consumer pauses.
const PATIENCE: u32 = 3;

/// The consumer of one service.
pub(super) struct Consumer {
    shared: Arc<Shared>,
    stores: Arc<Stores>,
    slots: Arc<Semaphore>,
}

/// What the tasks of a consumer share.
struct Shared {
    handler: Arc<Handler>,
    service: Arc<Service>,
    host: String,
    peer: Peer,
    consume: Consume,
    lease: Duration,
    /// Failures since the last message that the service has handled.
    failures: watch::Sender<u32>,
    /// When the log last said that messages are refused or lost.
    warned: watch::Sender<Option<Instant>>,
}

impl Consumer {
    /// Creates the consumer of a service with these settings and limits. `slots` are all of the service.
    pub(super) fn new(
        handler: Arc<Handler>,
        stores: Arc<Stores>,
        service: Arc<Service>,
        (consume, limits): (Consume, &Limits),
        slots: Arc<Semaphore>,
    ) -> Self {
        let time = limits.wall.saturating_add(limits.queue_wait.saturating_mul(2)).saturating_add(MARGIN);
        let shared = Shared {
            handler,
            host: host_of(&service.name),
            peer: Peer::service("@messages"),
            service,
            consume,
            lease: time.min(MAX_LEASE),
            failures: watch::Sender::new(0),
            warned: watch::Sender::new(None),
        };
        Self { shared: Arc::new(shared), stores, slots }
    }

    /// Receives and sends messages until the sender of `stop` is dropped, and then until the last message is settled.
    pub(super) async fn run(self, stop: watch::Receiver<()>) {
        let mut tasks = JoinSet::new();
        self.receive_all(&mut tasks, &stop).await;
        while tasks.join_next().await.is_some() {}
    }

    /// Subscribes and receives until the end of `stop`. The queue may be away at any time.
    async fn receive_all(&self, tasks: &mut JoinSet<()>, stop: &watch::Receiver<()>) {
        let name = &*self.shared.service.name;
        let mut failed = 0;
        loop {
            let Err(error) = self.receive(tasks, &mut failed, stop).await else { return };
            if failed == 0 {
                tracing::warn!(service = name, "{name} receives no messages: {error}; trying again");
            }
            failed += 1;
            if before(stop, tokio::time::sleep(pause(failed))).await.is_none() {
                return;
            }
        }
    }

    /// Subscribes and receives until that fails, or until the end of `stop`. `failed` is the number of failures before, and is reset by a success.
    async fn receive(
        &self,
        tasks: &mut JoinSet<()>,
        failed: &mut u32,
        stop: &watch::Receiver<()>,
    ) -> Result<(), Error> {
        let Shared { service, consume, lease, failures, .. } = &*self.shared;
        let queue = self.stores.opened_messages(consume.at_most_once);
        let queue = queue.ok_or_else(|| Error::unavailable("the store is not open"))?;
        let consumer = Namespace::new(&service.name)?;
        let subscribed = queue.subscribe(&consumer, subscription(consume)?, Instant::now() + OPERATION);
        let Some(subscribed) = before(stop, subscribed).await else { return Ok(()) };
        subscribed?;
        let mut measured: Option<Instant> = None;
        loop {
            let renewed = || queue.renew(&consumer, Instant::now() + OPERATION);
            let permit = before(stop, renewing(Arc::clone(&self.slots).acquire_owned(), renewed)).await;
            let Some(permit) = permit else { return Ok(()) };
            let mut permits = permit?.map_err(|_| Error::unavailable("the consumer has ended"))?;
            let failing = *failures.borrow();
            if failing > PATIENCE && before(stop, tokio::time::sleep(pause(failing - PATIENCE))).await.is_none() {
                return Ok(());
            }
            // One at a time shows whether the service works again. The permits are held while messages are on their way: slots are also
            // those of the consumer before an edit, or after it.
            let more = if failing > PATIENCE { 0 } else { self.slots.available_permits().min(MAX_RECEIVE - 1) };
            if let Ok(more) = Arc::clone(&self.slots).try_acquire_many_owned(u32::try_from(more).unwrap_or(0)) {
                permits.merge(more);
            }
            let limit = permits.num_permits();
            let Some(received) = take(&*queue, &consumer, (limit, Lease::new(*lease)?), stop).await? else {
                return Ok(());
            };
            if std::mem::take(failed) > 0 {
                tracing::info!(service = &*service.name, "{} receives messages again", service.name);
            }
            for _ in 0..received.dead {
                service.metrics.messages.delivered.count("dead");
            }
            if received.dead > 0 {
                let dead = received.dead;
                tracing::warn!(
                    service = &*service.name,
                    "{dead} messages to {0} are dead: a host ended while they were processed for the last time; \
                     see `lodge data dead {0}`",
                    service.name
                );
            }
            self.shared.lost(received.dropped);
            let idle = received.deliveries.is_empty();
            for delivery in received.deliveries {
                // No more were received than there are permits.
                let Some(permit) = permits.split(1) else { break };
                let (shared, queue, consumer) = (Arc::clone(&self.shared), Arc::clone(&queue), consumer.clone());
                tasks.spawn(async move { shared.deliver(&*queue, &consumer, delivery, permit).await });
            }
            drop(permits);
            while tasks.try_join_next().is_some() {}
            if idle || measured.is_none_or(|last| last.elapsed() >= MEASURE) {
                before(stop, self.measure(&*queue, &consumer)).await.transpose()?;
                measured = Some(Instant::now());
            }
        }
    }

    /// Records how many messages wait.
    async fn measure(&self, queue: &dyn MessageQueue, consumer: &Namespace) -> Result<(), Error> {
        let status = queue.status(consumer, Instant::now() + OPERATION).await?;
        let oldest = status.oldest.unwrap_or_default().as_millis().try_into().unwrap_or(u64::MAX);
        let Backlog { messages, bytes } = status.backlog;
        let read = MessageBacklog { messages, leased: status.leased, bytes, dead: status.dead, oldest };
        *lock(&self.shared.service.metrics.messages.backlog) = Some(read);
        Ok(())
    }
}

impl Shared {
    /// Sends a message to the service, and settles it by the response.
    async fn deliver(
        &self,
        queue: &dyn MessageQueue,
        consumer: &Namespace,
        delivery: Delivery,
        permit: OwnedSemaphorePermit,
    ) {
        let end = std::time::Instant::now() + self.lease;
        let handled = match delivery::delivered(&self.host, self.consume.path.as_deref(), &delivery) {
            Ok(request) => {
                let deadline = end.checked_sub(MARGIN / 2).unwrap_or(end);
                let sender = MessageSender { peer: &self.peer, request_id: None, depth: 0, deadline };
                self.handler.send_message(&self.host, sender, request, 0).await
            }
            Err(error) => {
                tracing::error!(service = &*self.service.name, "message {} cannot be sent: {error}", delivery.id);
                let (status, reason) = (StatusCode::BAD_REQUEST, Some("not-a-request"));
                Handled { status, reached: false, complete: true, reason, request_id: "".into(), body: None }
            }
        };
        let settlement = delivery::settlement(&handled, (delivery.attempt, delivery.age), &self.consume);
        if delivery::is_of_the_host(handled.status, handled.reached) && self.may_warn() {
            let (name, subject) = (&*self.service.name, &delivery.message.subject);
            let (status, reason) = (handled.status.as_u16(), handled.reason.unwrap_or_default());
            tracing::warn!(
                service = name,
                status,
                reason,
                "messages to {subject} wait: this host refuses them before they reach {name}; see its [[rules]], and the error {reason} in \
                 the docs; said once a minute"
            );
        }
        self.failures.send_modify(|failures| match settlement {
            // A rejected message was handled.
            Settlement::Acknowledge | Settlement::Reject(_) => *failures = 0,
            Settlement::Retry(..) | Settlement::Release(_) => *failures = failures.saturating_add(1),
        });
        self.settle(queue, consumer, (&delivery, settlement, &handled), end.into()).await;
        drop(permit);
    }

    /// Counts messages that are lost for want of room.
    fn lost(&self, dropped: u64) {
        for _ in 0..dropped {
            self.service.metrics.messages.delivered.count("dropped");
        }
        if dropped > 0 && self.may_warn() {
            let name = &*self.service.name;
            tracing::warn!(
                service = name,
                "{dropped} messages to {name} are lost: as many wait as `messages` and `bytes` of [consume] allow; said once a minute"
            );
        }
    }

    /// Whether the log may say now that messages are refused or lost.
    fn may_warn(&self) -> bool {
        self.warned.send_if_modified(|last| {
            let due = last.is_none_or(|last| last.elapsed() >= WARNINGS);
            *last = if due { Some(Instant::now()) } else { *last };
            due
        })
    }

    /// Settles a message, again and again until it succeeds or the lease ends.
    async fn settle(
        &self,
        queue: &dyn MessageQueue,
        consumer: &Namespace,
        (delivery, settlement, handled): (&Delivery, Settlement, &Handled),
        end: Instant,
    ) {
        let (name, id, subject) = (&*self.service.name, &delivery.id, &delivery.message.subject);
        let mut failed = 0;
        let settled = loop {
            let deadline = end.min(Instant::now() + OPERATION);
            match queue.settle(consumer, &delivery.receipt, settlement, deadline).await {
                Ok(settled) => break settled,
                Err(error) if Instant::now() + pause(failed + 1) >= end => {
                    tracing::warn!(service = name, "message {id} to {subject} is delivered again: {error}");
                    break SettlementOutcome::Stale;
                }
                Err(_) => {
                    failed += 1;
                    tokio::time::sleep(pause(failed)).await;
                }
            }
        };
        let outcome = match (settled, settlement) {
            (SettlementOutcome::Dead, _) => "dead",
            (SettlementOutcome::Stale, _) => "stale",
            (SettlementOutcome::Done, Settlement::Acknowledge) => "acknowledged",
            (SettlementOutcome::Done, Settlement::Release(_)) => "released",
            (SettlementOutcome::Done, Settlement::Retry(..) | Settlement::Reject(_)) => "retried",
        };
        self.service.metrics.messages.delivered.count(outcome);
        if settled == SettlementOutcome::Dead {
            let (attempt, fault) = (delivery.attempt, delivery::fault(handled));
            let times = if attempt == 1 { "1 delivery".into() } else { format!("{attempt} deliveries") };
            let next = match &self.consume.dead_letter {
                Some(subject) => format!("it is published to {subject}, or kept without a consumer there"),
                None if self.consume.at_most_once => "it is not kept, as `consume.at_most_once` says".into(),
                None => format!("see `lodge data dead {name}`"),
            };
            tracing::warn!(
                service = name,
                request_id = &*handled.request_id,
                "message {id} to {subject} is dead after {times} to {name}: {fault}; {next}"
            );
        }
    }
}

/// Returns the subscription that a manifest describes.
fn subscription(consume: &Consume) -> Result<Subscription, Error> {
    let patterns = consume.subjects.iter().map(|text| Pattern::new(text)).collect::<Result<_, _>>()?;
    let dead_letter = consume.dead_letter.as_deref().map(Subject::new).transpose()?;
    let quota = Backlog { messages: consume.messages, bytes: consume.bytes };
    Subscription::new(patterns, consume.max_deliver, dead_letter, quota)
}

/// Returns the pause after so many failures in succession.
fn pause(failures: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    PAUSES.0.saturating_mul(doubled).min(PAUSES.1)
}
