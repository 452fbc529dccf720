//! Messages that hosts share, and what of them only this backend has.

use std::sync::Arc;
use std::time::Duration;

use lodge_conformance::soon;
use lodge_remote::testing::TestServer;
use lodge_state::messages::{Backlog, Delivery, Fault, Headers, MessageBody, Settlement, SettlementOutcome};
use lodge_state::{Backend, Lease, Message, MessageQueue, Namespace, Pattern, Subject, Subscription};
use tokio::time::Instant;

use crate::refusals::other;
use crate::server;

/// The key of the hosts that receive for `mail`.
const PRESENT: &str = "lodge:{9:@messages}:p:mail";

fn start() -> Option<TestServer> {
    server::start(&[])
}

fn connect(port: u16) -> Arc<dyn Backend> {
    Arc::new(server::connect_at(port))
}

lodge_remote::queues!(queues: start, connect);

fn message(size: usize) -> Message {
    let (subject, body) = (Subject::new("work").unwrap(), MessageBody::new(vec![1; size]).unwrap());
    Message { subject, reply_to: None, headers: Headers::default(), body }
}

/// A host that consumes as `mail`.
async fn subscribed(server: &TestServer) -> (Arc<dyn MessageQueue>, Namespace) {
    let (queue, consumer) = (server::connect(server).messages().unwrap(), Namespace::new("mail").unwrap());
    let quota = Backlog { messages: 100_000, bytes: 64 << 20 };
    let subscription = Subscription::new(vec![Pattern::new("work").unwrap()], 1, None, quota).unwrap();
    queue.subscribe(&consumer, subscription, soon()).await.unwrap();
    (queue, consumer)
}

async fn one(queue: &dyn MessageQueue, consumer: &Namespace) -> Delivery {
    let lease = Lease::new(Duration::from_secs(60)).unwrap();
    queue.receive(consumer, 1, lease, Instant::now()).await.unwrap().deliveries.remove(0)
}

/// A server whose memory is full refuses messages, but gives away those that it has, also to a host that starts.
#[tokio::test]
async fn a_full_server_is_drained() {
    let Some(server) = server::start(&[]) else { return };
    let (queue, consumer) = subscribed(&server).await;
    for _ in 0..20 {
        queue.publish(message(100_000), soon()).await.unwrap();
    }
    let _: String = other(&server, &["CONFIG", "SET", "maxmemory", "1mb"]).await;
    let full = queue.publish(message(1), soon()).await.unwrap_err().to_string();
    assert!(full.contains("the memory of Redis is full"), "{full}");
    let (started, _) = subscribed(&server).await;
    for (queue, settlement) in [(&queue, Settlement::Acknowledge), (&started, Settlement::Release(Duration::ZERO))] {
        let delivery = one(&**queue, &consumer).await;
        let settled = queue.settle(&consumer, &delivery.receipt, settlement, soon()).await;
        assert_eq!(settled, Ok(SettlementOutcome::Done));
    }
    let delivery = one(&*started, &consumer).await;
    let settled = started
        .settle(&consumer, &delivery.receipt, Settlement::Retry(Duration::ZERO, Fault::Status(500)), soon())
        .await;
    assert_eq!(settled, Ok(SettlementOutcome::Dead), "that one has a single delivery");
}

/// A host that has no room for messages is known to receive for as long as it says so, and hosts that have gone are forgotten.
#[tokio::test]
async fn hosts_that_receive_are_known() {
    let Some(server) = server::start(&[]) else { return };
    let ((busy, consumer), (idle, _)) = (subscribed(&server).await, subscribed(&server).await);
    for number in 0..20 {
        let _: u64 = other(&server, &["ZADD", PRESENT, "1", &format!("gone{number}")]).await;
    }
    let present: Vec<String> = other(&server, &["ZRANGEBYSCORE", PRESENT, "2", "+inf"]).await;
    for host in &present {
        // As it is after an hour without receiving.
        let _: u64 = other(&server, &["ZADD", PRESENT, "1", host]).await;
    }
    busy.renew(&consumer, soon()).await.unwrap();
    let present: Vec<String> = other(&server, &["ZRANGE", PRESENT, "0", "-1"]).await;
    assert_eq!(present.len(), 1, "{present:?}");
    busy.publish(message(1), soon()).await.unwrap();
    assert_eq!(idle.unsubscribe(&consumer, soon()).await, Ok(false), "another host receives");
    assert_eq!(one(&*busy, &consumer).await.attempt, 1, "saying so receives nothing");
    assert_eq!(busy.unsubscribe(&consumer, soon()).await, Ok(true));
}

/// What another program has written in the place of a message dies, and keeps no other message from being delivered or listed.
#[tokio::test]
async fn messages_of_other_programs() {
    let Some(server) = server::start(&[]) else { return };
    let (queue, consumer) = subscribed(&server).await;
    for _ in 0..4 {
        queue.publish(message(10), soon()).await.unwrap();
    }
    let messages = "lodge:{9:@messages}:m:mail";
    let mut ids: Vec<String> = other(&server, &["HKEYS", messages]).await;
    ids.sort();
    let _: u64 = other(&server, &["HSET", messages, &ids[0], "garbage"]).await;
    let _: u64 = other(&server, &["HDEL", messages, &ids[1]]).await;
    let lease = Lease::new(Duration::from_secs(60)).unwrap();
    let received = queue.receive(&consumer, 64, lease, Instant::now()).await.unwrap();
    assert_eq!((received.deliveries.len(), received.dead), (2, 2));
    let rejected = Settlement::Reject(Fault::Status(422));
    let settled = queue.settle(&consumer, &received.deliveries[0].receipt, rejected, soon()).await;
    assert_eq!(settled, Ok(SettlementOutcome::Dead));
    assert_eq!(queue.dead(&consumer, None, 10, soon()).await.unwrap().len(), 1);
    let status = queue.status(&consumer, soon()).await.unwrap();
    assert_eq!((status.backlog.messages, status.dead), (1, 2));
}

/// Publishing finds the consumers that the patterns say, by an index that other hosts need not know.
#[tokio::test]
async fn publishing_finds_whose_patterns_match() {
    let Some(server) = server::start(&[]) else { return };
    let queue = server::connect(&server).messages().unwrap();
    let quota = Backlog { messages: 1000, bytes: 1 << 20 };
    let patterns = [
        ["a", "b.c"],
        ["a.b", "a.b.c"],
        ["a.*", "*.b"],
        ["a.>", "a.b.>"],
        ["*", ">"],
        ["*.c", "a.*.c"],
        ["ab.c", "b.*.*"],
        ["a.bc", "*.*.>"],
    ];
    let subscribe = async |number: usize, patterns: &[&str]| {
        let patterns = patterns.iter().map(|pattern| Pattern::new(pattern).unwrap()).collect();
        let subscription = Subscription::new(patterns, 1, None, quota).unwrap();
        let consumer = Namespace::new(&format!("c{number}")).unwrap();
        queue.subscribe(&consumer, subscription, soon()).await.unwrap();
    };
    let found = async |subject: &str| {
        let message = Message { subject: Subject::new(subject).unwrap(), ..message(1) };
        queue.publish(message, soon()).await.unwrap().consumers
    };
    let mut subscribed: Vec<Vec<Pattern>> = Vec::new();
    for (number, patterns) in patterns.iter().enumerate() {
        subscribe(number, patterns).await;
        subscribed.push(patterns.iter().map(|pattern| Pattern::new(pattern).unwrap()).collect());
        for subject in
            ["a", "b", "ab", "a.b", "a.c", "b.b", "b.c", "ab.c", "a.b.c", "a.c.c", "b.b.c", "a.b.c.d", "x.y.z"]
        {
            let of = Subject::new(subject).unwrap();
            let matches = |patterns: &&Vec<Pattern>| patterns.iter().any(|pattern| pattern.matches(&of));
            assert_eq!(found(subject).await, subscribed.iter().filter(matches).count(), "{subject}");
        }
    }
    // Other patterns hold at once, and so does the end of a subscription.
    subscribe(0, &["other"]).await;
    let before = found("other").await;
    let consumer = Namespace::new("c0").unwrap();
    assert_eq!(queue.unsubscribe(&consumer, soon()).await, Ok(true));
    assert_eq!(found("other").await, before - 1);
    // A host without the index has subscribed: it is found when the index is compared.
    let key = |name: &str| format!("lodge:{{9:@messages}}:{name}");
    let before = found("late.one").await;
    let _: u64 = other(&server, &["HSET", &key("s"), "c1", "late.*"]).await;
    let _: String = other(&server, &["SET", &key("xv"), "1"]).await;
    assert_eq!(found("late.one").await, before + 1);
}
