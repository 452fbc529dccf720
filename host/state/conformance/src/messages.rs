//! Messages: who receives them, how often, and what becomes of those that are not acknowledged.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::{Fixture, soon};
use lodge_state::messages::{
    Backlog, Delivery, Fault, Headers, Message, MessageBody, MessageQueue, Pattern, QueueStatus, Received, Settlement,
    SettlementOutcome, Subject, Subscription,
};
use lodge_state::{Error, Lease, Namespace, Resource};

pub(crate) const NO_PAUSE: Duration = Duration::ZERO;
const FAULT: Fault = Fault::Status(500);
pub(crate) const ROOMY: Backlog = Backlog { messages: 10_000, bytes: 16 << 20 };

/// A consumer under test.
pub(crate) struct Consumer {
    pub(crate) queue: Arc<dyn MessageQueue>,
    pub(crate) name: Namespace,
}

pub(crate) fn subject(text: &str) -> Subject {
    Subject::new(text).unwrap()
}

pub(crate) fn message(to: &str, body: &str) -> Message {
    let body = MessageBody::new(body.to_owned()).unwrap();
    Message { subject: subject(to), reply_to: None, headers: Headers::default(), body }
}

fn body(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message.body.bytes().to_vec()).unwrap()
}

impl Consumer {
    /// A consumer of `patterns`, which are subjects of this test only.
    pub(crate) async fn new(
        fixture: &Fixture,
        patterns: &[&str],
        max_deliver: u32,
        dead_letter: Option<&str>,
    ) -> Consumer {
        let consumer = Consumer { queue: fixture.backend.messages().unwrap(), name: fixture.namespace() };
        consumer.subscribe(patterns, max_deliver, dead_letter, ROOMY).await;
        consumer
    }

    pub(crate) async fn subscribe(
        &self,
        patterns: &[&str],
        max_deliver: u32,
        dead_letter: Option<&str>,
        quota: Backlog,
    ) {
        let patterns = patterns.iter().map(|text| Pattern::new(text).unwrap()).collect();
        let subscription = Subscription::new(patterns, max_deliver, dead_letter.map(subject), quota).unwrap();
        self.queue.subscribe(&self.name, subscription, soon()).await.unwrap();
    }

    pub(crate) async fn publish(&self, to: &str, body: &str) -> usize {
        self.queue.publish(message(to, body), soon()).await.unwrap().consumers
    }

    /// Receives what is there now.
    pub(crate) async fn receive(&self, lease: Duration) -> Received {
        let lease = Lease::new(lease).unwrap();
        self.queue.receive(&self.name, 64, lease, Instant::now()).await.unwrap()
    }

    pub(crate) async fn bodies(&self) -> Vec<String> {
        let received = self.receive(Duration::from_secs(600)).await;
        for delivery in &received.deliveries {
            assert_eq!(self.settle(delivery, Settlement::Acknowledge).await, SettlementOutcome::Done);
        }
        received.deliveries.iter().map(body).collect()
    }

    pub(crate) async fn one(&self, lease: Duration) -> Delivery {
        let mut deliveries = self.receive(lease).await.deliveries;
        assert_eq!(deliveries.len(), 1, "{deliveries:?}");
        deliveries.remove(0)
    }

    pub(crate) async fn settle(&self, delivery: &Delivery, settlement: Settlement) -> SettlementOutcome {
        self.queue.settle(&self.name, &delivery.receipt, settlement, soon()).await.unwrap()
    }

    pub(crate) async fn status(&self) -> QueueStatus {
        self.queue.status(&self.name, soon()).await.unwrap()
    }
}

/// Prefixes subjects, so that no other test has them.
pub(crate) fn unique(fixture: &Fixture) -> String {
    fixture.namespace().as_str().to_owned()
}

pub(crate) const LONG: Duration = Duration::from_secs(600);

/// A message reaches every consumer whose subscription matches, with all of its parts, and is gone when it is acknowledged.
pub async fn messages_reach_their_consumers(fixture: &Fixture) {
    let of = unique(fixture);
    let (created, deleted, other) = (format!("{of}.created"), format!("{of}.deleted"), format!("{of}.x.y"));
    let one = Consumer::new(fixture, &[&created], 5, None).await;
    let all = Consumer::new(fixture, &[&format!("{of}.*"), &format!("{of}.>")], 5, None).await;
    assert_eq!(one.publish(&format!("{of}x"), "nobody").await, 0);
    assert_eq!(one.status().await, QueueStatus::default());

    let headers = Headers::new([("traceparent", "00-1"), ("content-type", "text/plain")]).unwrap();
    let sent = Message { reply_to: Some(subject("re.ply")), headers, ..message(&created, "first") };
    let published = one.queue.publish(sent.clone(), soon()).await.unwrap();
    assert_eq!(published.consumers, 2);
    assert_eq!(one.publish(&deleted, "second").await, 1);
    assert_eq!(one.publish(&other, "third").await, 1);
    let status = one.status().await;
    assert!(status.backlog.messages == 1 && status.backlog.bytes >= sent.size(), "{status:?}");
    assert!(status.backlog.bytes == sent.size() || !fixture.exact_quotas, "{status:?}");
    assert_eq!((status.leased, status.dead, status.oldest.is_some()), (0, 0, true));

    let delivery = one.one(LONG).await;
    assert_eq!((&delivery.message, &delivery.id, delivery.attempt), (&sent, &published.id, 1));
    assert_eq!(one.status().await.leased, 1);
    assert_eq!(one.receive(LONG).await, Received::default(), "it is leased");
    assert_eq!(
        all.settle(&delivery, Settlement::Acknowledge).await,
        SettlementOutcome::Stale,
        "a receipt of another consumer"
    );
    assert_eq!(one.settle(&delivery, Settlement::Acknowledge).await, SettlementOutcome::Done);
    assert_eq!(one.settle(&delivery, Settlement::Acknowledge).await, SettlementOutcome::Stale);
    assert_eq!(one.status().await, QueueStatus::default());
    assert_eq!(all.bodies().await, ["first", "second", "third"], "the oldest first");
    assert!(all.bodies().await.is_empty());

    // Another subscription keeps what waits, and its end discards it.
    assert_eq!(one.publish(&created, "kept").await, 2);
    one.subscribe(&[&deleted], 5, None, ROOMY).await;
    assert_eq!(one.publish(&created, "not for one").await, 1);
    assert_eq!(one.bodies().await, ["kept"]);
    assert_eq!(all.queue.unsubscribe(&all.name, soon()).await, Ok(true));
    assert_eq!(all.queue.unsubscribe(&all.name, soon()).await, Ok(false));
    assert_eq!(one.publish(&created, "nobody").await, 0);
    let lease = Lease::new(LONG).unwrap();
    let received = all.queue.receive(&all.name, 1, lease, Instant::now()).await;
    assert!(matches!(received, Err(Error::Unavailable { .. })), "{received:?}");
}

/// A message is delivered again after its lease, and after the pause of a retry; one that was released was not delivered.
pub async fn messages_are_delivered_again(fixture: &Fixture) {
    let of = unique(fixture);
    let consumer = Consumer::new(fixture, &[&of], 5, None).await;
    consumer.publish(&of, "a").await;
    let first = consumer.one(fixture.short()).await;
    fixture.pass(fixture.short()).await;
    let second = consumer.one(LONG).await;
    assert_eq!((second.attempt, &second.id), (2, &first.id));
    assert_eq!(consumer.settle(&first, Settlement::Acknowledge).await, SettlementOutcome::Stale, "it is another's now");
    assert_eq!(consumer.settle(&first, Settlement::Reject(FAULT)).await, SettlementOutcome::Stale);

    assert_eq!(consumer.settle(&second, Settlement::Retry(fixture.short(), FAULT)).await, SettlementOutcome::Done);
    assert_eq!(consumer.receive(LONG).await, Received::default(), "the pause is not over");
    fixture.pass(fixture.short()).await;
    let third = consumer.one(LONG).await;
    assert_eq!(third.attempt, 3);
    assert_eq!(consumer.settle(&third, Settlement::Release(NO_PAUSE)).await, SettlementOutcome::Done);
    assert_eq!(consumer.one(fixture.short()).await.attempt, 3, "the release has not counted");
    // A lease that has ended can still be acknowledged, as long as nobody else has the message.
    fixture.pass(fixture.short()).await;
    let last = consumer.one(fixture.short()).await;
    fixture.pass(fixture.short()).await;
    assert_eq!(consumer.settle(&last, Settlement::Acknowledge).await, SettlementOutcome::Done);
    assert_eq!(consumer.status().await, QueueStatus::default());
}

/// A message dies after its last delivery, however that ends, and is published once to the dead-letter subject.
pub async fn dead_messages(fixture: &Fixture) {
    let of = unique(fixture);
    let (work, dead, worse) = (format!("{of}.work"), format!("{of}.dead"), format!("{of}.worse"));
    let consumer = Consumer::new(fixture, &[&work], 2, None).await;
    // One is retried too often, the lease of one ends too often, and one is rejected.
    for body in ["retried", "left", "rejected"] {
        consumer.publish(&work, body).await;
    }
    let deliveries = consumer.receive(fixture.short()).await.deliveries;
    assert_eq!(consumer.settle(&deliveries[0], Settlement::Retry(NO_PAUSE, FAULT)).await, SettlementOutcome::Done);
    assert_eq!(consumer.settle(&deliveries[2], Settlement::Reject(FAULT)).await, SettlementOutcome::Dead);
    fixture.pass(fixture.short()).await;
    let deliveries = consumer.receive(fixture.short()).await.deliveries;
    assert_eq!(deliveries.iter().map(|delivery| delivery.attempt).collect::<Vec<_>>(), [2, 2]);
    let retried = deliveries.iter().find(|delivery| body(delivery) == "retried").unwrap();
    assert_eq!(consumer.settle(retried, Settlement::Retry(NO_PAUSE, FAULT)).await, SettlementOutcome::Dead);
    fixture.pass(fixture.short()).await;
    let received = consumer.receive(LONG).await;
    assert_eq!((received.deliveries.len(), received.dead), (0, 1));
    let status = consumer.status().await;
    assert_eq!((status.backlog, status.dead), (Backlog::default(), 3));

    // With a subject for dead messages its consumer receives them, and there they die for good.
    let letters = Consumer::new(fixture, &[&dead], 1, Some(&worse)).await;
    let worst = Consumer::new(fixture, &[&worse], 1, None).await;
    consumer.subscribe(&[&work], 1, Some(&dead), ROOMY).await;
    consumer.publish(&work, "letter").await;
    let delivery = consumer.one(LONG).await;
    assert_eq!(consumer.settle(&delivery, Settlement::Retry(NO_PAUSE, FAULT)).await, SettlementOutcome::Dead);
    let letter = letters.one(LONG).await;
    assert_eq!((letter.origin.as_ref(), letter.attempt), (Some(&subject(&work)), 1));
    assert_eq!((body(&letter), &letter.id, &letter.message.subject), ("letter".into(), &delivery.id, &subject(&dead)));
    assert_eq!(letters.settle(&letter, Settlement::Reject(FAULT)).await, SettlementOutcome::Dead);
    assert_eq!((consumer.status().await.dead, letters.status().await.dead), (3, 1), "kept where it died last");
    assert_eq!(worst.receive(LONG).await, Received::default(), "a message moves once");

    let letters = |dead_letter: &str| {
        let pattern = Pattern::new(&format!("{of}.*")).unwrap();
        Subscription::new(vec![pattern], 1, Some(subject(dead_letter)), ROOMY)
    };
    assert!(letters("elsewhere").is_ok() && letters(&dead).is_err(), "its own dead-letter subject");
}

/// A consumer whose quota is used up refuses messages, and the publisher knows; nobody gets a part of them.
pub async fn message_quotas(fixture: &Fixture) {
    let of = unique(fixture);
    let other = Consumer::new(fixture, &[&of], 5, None).await;
    let consumer = Consumer::new(fixture, &[&of], 5, None).await;
    consumer.subscribe(&[&of], 5, None, Backlog { messages: 2, bytes: 1 << 20 }).await;
    let publish = |body: String| consumer.queue.publish(message(&of, &body), soon());
    for body in ["a", "b"] {
        publish(body.into()).await.unwrap();
    }
    let full = publish("c".into()).await;
    assert_eq!(full, Err(Error::QuotaExceeded { resource: Resource::Messages, used: 2, limit: 2 }));
    assert_eq!(other.status().await.backlog.messages, 2, "all or none");
    assert_eq!(consumer.bodies().await, ["a", "b"]);
    publish("d".into()).await.unwrap();

    consumer.subscribe(&[&of], 5, None, Backlog { messages: 100, bytes: 1000 }).await;
    let full = publish("x".repeat(1000)).await;
    assert!(matches!(full, Err(Error::QuotaExceeded { resource: Resource::Bytes, limit: 1000, .. })), "{full:?}");
    assert_eq!(consumer.bodies().await, ["d"]);
    // Dead messages do not count, and are bounded by themselves.
    let size = 300 - of.len();
    for _ in 0..5 {
        publish("x".repeat(size)).await.unwrap();
        let delivery = consumer.one(LONG).await;
        assert_eq!(consumer.settle(&delivery, Settlement::Reject(FAULT)).await, SettlementOutcome::Dead);
    }
    let dead = consumer.status().await.dead;
    assert!(dead == 3 || !fixture.exact_quotas && (1..3).contains(&dead), "{dead} in 1000 bytes");
    let large = MessageBody::new(vec![0; (1 << 20) + 1]);
    assert!(matches!(large, Err(Error::TooLarge { .. })));
}

/// A receiver waits until there is a message, and until the pause of one is over.
pub async fn receivers_wait(fixture: &Fixture) {
    let of = unique(fixture);
    let consumer = Consumer::new(fixture, &[&of], 5, None).await;
    let began = Instant::now();
    let lease = Lease::new(LONG).unwrap();
    let until = began + Duration::from_millis(100);
    assert_eq!(consumer.queue.receive(&consumer.name, 1, lease, until).await, Ok(Received::default()));
    assert!(began.elapsed() >= Duration::from_millis(100));

    let waiting = tokio::spawn({
        let (queue, name) = (consumer.queue.clone(), consumer.name.clone());
        async move { queue.receive(&name, 1, lease, soon()).await.unwrap() }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    consumer.publish(&of, "a").await;
    let received = waiting.await.unwrap();
    assert_eq!(received.deliveries.iter().map(body).collect::<Vec<_>>(), ["a"]);

    let waiting = tokio::spawn({
        let (queue, name) = (consumer.queue.clone(), consumer.name.clone());
        async move { queue.receive(&name, 1, lease, soon()).await.unwrap() }
    });
    let pause = Duration::from_millis(200);
    assert_eq!(
        consumer.settle(&received.deliveries[0], Settlement::Retry(pause, FAULT)).await,
        SettlementOutcome::Done
    );
    fixture.pass(pause).await;
    assert_eq!(waiting.await.unwrap().deliveries.len(), 1);
}

/// Concurrent receivers of one consumer get every message once, as long as their leases last.
pub async fn receivers_share(fixture: &Fixture) {
    let of = unique(fixture);
    let consumer = Arc::new(Consumer::new(fixture, &[&of], 5, None).await);
    const MESSAGES: usize = 200;
    let (count, end) = (Arc::new(AtomicUsize::new(0)), soon());
    let receivers: Vec<_> = (0..8)
        .map(|_| {
            let (consumer, count) = (consumer.clone(), count.clone());
            tokio::spawn(async move {
                let mut bodies = Vec::new();
                loop {
                    let lease = Lease::new(LONG).unwrap();
                    let until = Instant::now() + Duration::from_millis(500);
                    // Once all have come, another look shows whether one comes twice.
                    let all = count.load(Ordering::Relaxed) >= MESSAGES || Instant::now() > end;
                    let received = consumer.queue.receive(&consumer.name, 3, lease, until).await.unwrap();
                    if received.deliveries.is_empty() && all {
                        return bodies;
                    }
                    count.fetch_add(received.deliveries.len(), Ordering::Relaxed);
                    assert!(received.deliveries.len() <= 3);
                    for delivery in &received.deliveries {
                        bodies.push(body(delivery));
                        assert_eq!(consumer.settle(delivery, Settlement::Acknowledge).await, SettlementOutcome::Done);
                    }
                }
            })
        })
        .collect();
    for number in 0..MESSAGES {
        consumer.publish(&of, &number.to_string()).await;
    }
    let mut bodies = Vec::new();
    for receiver in receivers {
        bodies.extend(receiver.await.unwrap());
    }
    assert_eq!(bodies.len(), MESSAGES, "none twice");
    let all: BTreeSet<_> = bodies.into_iter().collect();
    assert_eq!(all.len(), MESSAGES);
    assert_eq!(consumer.status().await, QueueStatus::default());
}
