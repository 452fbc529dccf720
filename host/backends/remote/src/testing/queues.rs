//! What every backend of a server promises of the messages that hosts share: hosts are several backends here, or processes that
//! are killed.

mod killed;
mod outage;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lodge_state::messages::{Backlog, Delivery, Fault, Headers, MessageBody, Received, Settlement, SettlementOutcome};
use lodge_state::{Backend, Error, Lease, Message, MessageQueue, Namespace, Pattern, Subject, Subscription};
use tokio::sync::Barrier;
use tokio::time::{Instant, sleep, timeout};

use crate::testing::TestServer;

pub use killed::{killed_hosts, receive_until_killed};
pub use outage::queue_outages;

/// Connects a backend, as a host does, to the server of a test on a port.
pub type Connect = fn(u16) -> Arc<dyn Backend>;

/// How long anything may take that is to happen at all.
const PATIENCE: Duration = Duration::from_secs(120);

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

fn namespace(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

/// A host, with its queue.
struct Host(Arc<dyn MessageQueue>);

impl Host {
    fn new(connect: Connect, server: &TestServer) -> Host {
        Host(connect(server.port()).messages().unwrap())
    }

    async fn subscribe(&self, consumer: &str, subject: &str, dead_letter: Option<&str>) {
        subscribe(&*self.0, consumer, subject, dead_letter).await.unwrap();
    }

    async fn publish(&self, subject: &str, body: &str) -> (String, usize) {
        let published = self.0.publish(message(subject, body), soon()).await.unwrap();
        (published.id.to_string(), published.consumers)
    }

    async fn receive(&self, consumer: &str, limit: usize, until: Instant) -> Received {
        self.0.receive(&namespace(consumer), limit, lease(60), until).await.unwrap()
    }

    async fn settle(&self, consumer: &str, delivery: &Delivery, settlement: Settlement) -> SettlementOutcome {
        self.0.settle(&namespace(consumer), &delivery.receipt, settlement, soon()).await.unwrap()
    }
}

fn lease(seconds: u64) -> Lease {
    Lease::new(Duration::from_secs(seconds)).unwrap()
}

fn message(subject: &str, body: &str) -> Message {
    let body = MessageBody::new(body.to_owned()).unwrap();
    Message { subject: Subject::new(subject).unwrap(), reply_to: None, headers: Headers::default(), body }
}

fn body(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message.body.bytes().to_vec()).unwrap()
}

async fn subscribe(
    queue: &dyn MessageQueue,
    consumer: &str,
    subject: &str,
    dead_letter: Option<&str>,
) -> Result<(), Error> {
    let dead_letter = dead_letter.map(|subject| Subject::new(subject).unwrap());
    let quota = Backlog { messages: 100_000, bytes: 64 << 20 };
    let subscription = Subscription::new(vec![Pattern::new(subject).unwrap()], 1000, dead_letter, quota).unwrap();
    queue.subscribe(&namespace(consumer), subscription, Instant::now() + Duration::from_secs(20)).await
}

/// Receives on a host until `all` messages have come to any, and returns the numbers of its own.
async fn worked(host: Host, all: usize, count: Arc<AtomicUsize>, both: Arc<Barrier>) -> Vec<usize> {
    let (mut numbers, end) = (Vec::new(), soon());
    loop {
        // Once all have come, another look shows whether one comes twice.
        let complete = count.load(Ordering::Relaxed) >= all || Instant::now() > end;
        let received = host.receive("worker", 4, Instant::now() + Duration::from_secs(3)).await;
        if received.deliveries.is_empty() && complete {
            return numbers;
        }
        if numbers.is_empty() && !received.deliveries.is_empty() {
            // The other host gets some of them, however slow it is.
            timeout(PATIENCE, both.wait()).await.expect("both hosts work");
        }
        count.fetch_add(received.deliveries.len(), Ordering::Relaxed);
        for delivery in &received.deliveries {
            assert_eq!(delivery.attempt, 1);
            numbers.push(body(delivery).parse().unwrap());
            let settled = host.settle("worker", delivery, Settlement::Acknowledge).await;
            assert_eq!(settled, SettlementOutcome::Done);
        }
    }
}

/// Two hosts share the work of a consumer: each message is delivered once, whichever of them has published it, and the longest
/// waiting first. What one has subscribed to, the other one knows at once. A subscription ends with the last host.
pub async fn hosts_share(server: TestServer, connect: Connect) {
    const MESSAGES: usize = 300;
    let hosts = [Host::new(connect, &server), Host::new(connect, &server)];
    let publisher = Host::new(connect, &server);
    assert_eq!(publisher.publish("work.x", "nobody").await.1, 0);
    hosts[0].subscribe("worker", "work.*", Some("dead")).await;
    assert_eq!(publisher.publish("work.x", "0").await.1, 1, "a subscription of another host");
    hosts[1].subscribe("worker", "work.*", Some("dead")).await;
    hosts[1].subscribe("grave", "dead", None).await;

    let (count, both) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(hosts.len())));
    let work = |host: &Host| tokio::spawn(worked(Host(host.0.clone()), MESSAGES, count.clone(), both.clone()));
    let workers = hosts.each_ref().map(work);
    for number in 1..MESSAGES {
        let from = if number % 2 == 0 { &publisher } else { &hosts[0] };
        assert_eq!(from.publish("work.x", &number.to_string()).await.1, 1);
    }
    let mut all = BTreeSet::new();
    for worker in workers {
        let numbers = worker.await.unwrap();
        assert!(numbers.is_sorted(), "the longest waiting first: {numbers:?}");
        for number in numbers {
            assert!(all.insert(number), "{number} twice");
        }
    }
    assert_eq!(all.len(), MESSAGES);

    // A message that one host gives back is delivered to the other one, with its count; there it dies, for a consumer of a third.
    publisher.publish("work.x", "moves").await;
    let first = hosts[0].receive("worker", 1, soon()).await.deliveries.remove(0);
    assert_eq!(hosts[1].receive("worker", 1, Instant::now()).await, Received::default(), "it is leased by a host");
    assert_eq!(hosts[0].settle("worker", &first, Settlement::Release(Duration::ZERO)).await, SettlementOutcome::Done);
    let second = hosts[1].receive("worker", 1, soon()).await.deliveries.remove(0);
    assert_eq!((second.attempt, &second.id), (1, &first.id), "a release does not count");
    let pause = Settlement::Retry(Duration::from_millis(10), Fault::Status(500));
    assert_eq!(hosts[1].settle("worker", &second, pause).await, SettlementOutcome::Done);
    let third = hosts[0].receive("worker", 1, soon()).await.deliveries.remove(0);
    assert_eq!((third.attempt, &third.id), (2, &first.id));
    assert_eq!(hosts[0].settle("worker", &second, Settlement::Acknowledge).await, SettlementOutcome::Stale);
    assert_eq!(
        hosts[0].settle("worker", &third, Settlement::Reject(Fault::Status(500))).await,
        SettlementOutcome::Dead
    );
    let letter = hosts[1].receive("grave", 1, soon()).await.deliveries.remove(0);
    assert_eq!((body(&letter), letter.origin.unwrap().as_str(), &letter.id), ("moves".into(), "work.x", &first.id));

    hosts[0].subscribe("twin", "work.*", None).await;
    assert_eq!(publisher.publish("work.x", "kept").await.1, 2);
    assert_eq!(hosts[0].0.unsubscribe(&namespace("worker"), soon()).await, Ok(false), "another host receives");
    assert_eq!(publisher.publish("work.x", "kept").await.1, 2);
    assert_eq!(hosts[1].receive("worker", 2, soon()).await.deliveries.len(), 2);
    assert_eq!(hosts[1].0.unsubscribe(&namespace("worker"), soon()).await, Ok(true));
    assert_eq!(publisher.publish("work.x", "one").await.1, 1, "the other consumer has it at once");
    assert_eq!(hosts[0].0.unsubscribe(&namespace("twin"), soon()).await, Ok(true));
    assert_eq!(publisher.publish("work.x", "nobody").await.1, 0);
    hosts[0].subscribe("worker", "work.*", None).await;
    assert_eq!(hosts[0].receive("worker", 1, Instant::now()).await, Received::default(), "it begins anew");
}

/// A receiver that is interrupted returns at once, and what it has received is delivered to the next one without a count. With NATS, a
/// message that was on its way counts, and comes later: so a few rounds may have a second delivery.
pub async fn interrupted_hosts(server: TestServer, connect: Connect) {
    let hosts = [Host::new(connect, &server), Host::new(connect, &server)];
    for host in &hosts {
        host.subscribe("worker", "work.*", None).await;
    }
    let mut uncounted = 0;
    for round in 0..20 {
        let waiting = Host(hosts[0].0.clone());
        let receiving = tokio::spawn(async move { waiting.receive("worker", 8, soon() + PATIENCE).await });
        sleep(Duration::from_millis(10 * (round % 5))).await;
        // The message is on its way to one of the hosts when the first is interrupted.
        let (published, _) = tokio::join!(hosts[1].publish("work.x", "a"), async {
            sleep(Duration::from_millis(round)).await;
            assert!(hosts[0].0.interrupt(&namespace("worker")));
        });
        while !receiving.is_finished() {
            hosts[0].0.interrupt(&namespace("worker"));
            sleep(Duration::from_millis(10)).await;
        }
        for delivery in receiving.await.unwrap().deliveries {
            let released = hosts[0].settle("worker", &delivery, Settlement::Release(Duration::ZERO)).await;
            assert_eq!(released, SettlementOutcome::Done);
        }
        let delivery = hosts[1].receive("worker", 1, soon() + PATIENCE).await.deliveries.remove(0);
        assert_eq!(delivery.id.to_string(), published.0, "no message is lost");
        assert!(delivery.attempt <= 2, "{delivery:?}");
        uncounted += usize::from(delivery.attempt == 1);
        assert_eq!(hosts[1].settle("worker", &delivery, Settlement::Acknowledge).await, SettlementOutcome::Done);
    }
    assert!(uncounted >= 15, "{uncounted} of 20 deliveries did not count");
}

/// A message that one of its consumers has no room for reaches none of them, also if several publishers fill the last place.
pub async fn full_queues(server: TestServer, connect: Connect) {
    const PLACES: u64 = 5;
    let host = Host::new(connect, &server);
    host.subscribe("roomy", "full.*", None).await;
    let (patterns, name) = (vec![Pattern::new("full.*").unwrap()], namespace("small"));
    let quota = Backlog { messages: PLACES, bytes: 1 << 20 };
    let small = Subscription::new(patterns, 5, None, quota).unwrap();
    host.0.subscribe(&name, small, soon()).await.unwrap();
    let publishing: Vec<_> = (0..32)
        .map(|_| {
            let queue = Host::new(connect, &server).0;
            tokio::spawn(async move { queue.publish(message("full.x", "a"), soon()).await })
        })
        .collect();
    let mut stored = 0;
    for publishing in publishing {
        match publishing.await.unwrap() {
            Ok(published) => {
                assert_eq!(published.consumers, 2);
                stored += 1;
            }
            Err(error) => assert!(matches!(error, Error::QuotaExceeded { limit: PLACES, .. }), "{error}"),
        }
    }
    // A message that was removed again may have taken the last place for a moment.
    assert!((1..=PLACES).contains(&stored), "{stored}");
    for consumer in ["roomy", "small"] {
        let status = host.0.status(&namespace(consumer), soon()).await.unwrap();
        assert_eq!(status.backlog.messages, stored, "{consumer}");
    }
    while host.0.publish(message("full.x", "a"), soon()).await.is_ok() {}
    let lease = Lease::new(Duration::from_secs(60)).unwrap();
    let received = host.0.receive(&namespace("roomy"), 64, lease, Instant::now()).await.unwrap();
    assert_eq!(received.deliveries.len() as u64, PLACES);
    let waiting = tokio::spawn({
        let queue = host.0.clone();
        async move { queue.receive(&namespace("roomy"), 64, lease, Instant::now() + Duration::from_secs(2)).await }
    });
    while !waiting.is_finished() {
        host.0.publish(message("full.x", "refused"), soon()).await.unwrap_err();
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(waiting.await.unwrap(), Ok(Received::default()), "a message that was refused");
}
