//! Messages that hosts share, and what of them only this backend has.

use std::sync::Arc;
use std::time::Duration;

use lodge_conformance::soon;
use lodge_remote::testing::TestServer;
use lodge_state::messages::{Backlog, Delivery, Fault, Headers, MessageBody, Settlement, SettlementOutcome};
use lodge_state::{Backend, Lease, Message, MessageQueue, Namespace, Pattern, Quota, Subject, Subscription};
use tokio::time::Instant;

use crate::server;

/// With room for many hosts, which have four connections each.
fn start() -> Option<TestServer> {
    server::start(&["max_connections=200"])
}

fn connect(port: u16) -> Arc<dyn Backend> {
    Arc::new(server::connect_at(port))
}

lodge_remote::queues!(queues: start, connect);

fn message(subject: &str) -> Message {
    let (subject, body) = (Subject::new(subject).unwrap(), MessageBody::new("body").unwrap());
    Message { subject, reply_to: None, headers: Headers::default(), body }
}

async fn subscribe(queue: &dyn MessageQueue, consumer: &str, patterns: &[&str]) -> Namespace {
    let consumer = Namespace::new(consumer).unwrap();
    let patterns = patterns.iter().map(|pattern| Pattern::new(pattern).unwrap()).collect();
    let quota = Backlog { messages: 1000, bytes: 1 << 20 };
    let subscription = Subscription::new(patterns, 1, None, quota).unwrap();
    queue.subscribe(&consumer, subscription, soon()).await.unwrap();
    consumer
}

async fn receive(queue: &dyn MessageQueue, consumer: &Namespace) -> Vec<Delivery> {
    let lease = Lease::new(Duration::from_secs(60)).unwrap();
    queue.receive(consumer, 64, lease, Instant::now()).await.unwrap().deliveries
}

/// Receivers do not wait for each other: what one of them is claiming at this moment is left out by the others.
#[tokio::test(flavor = "multi_thread")]
async fn receivers_pass_each_other() {
    let Some(server) = start() else { return };
    let queue = server::connect(&server).messages().unwrap();
    let consumer = subscribe(&*queue, "mail", &["work"]).await;
    for _ in 0..3 {
        queue.publish(message("work"), soon()).await.unwrap();
    }
    let other = server::other(&server).await;
    other.batch_execute("BEGIN; SELECT FROM lodge.message ORDER BY number LIMIT 1 FOR UPDATE").await.unwrap();
    assert_eq!(receive(&*queue, &consumer).await.len(), 2);
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(receive(&*queue, &consumer).await.len(), 1);
}

/// A host that has no room for messages is known to receive for as long as it says so, and hosts that have gone are forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_receive_are_known() {
    let Some(server) = start() else { return };
    let [busy, idle] = [(); 2].map(|()| server::connect(&server).messages().unwrap());
    let consumer = subscribe(&*busy, "mail", &["work"]).await;
    subscribe(&*idle, "mail", &["work"]).await;
    let other = server::other(&server).await;
    // As it is after an hour without receiving.
    other.batch_execute("UPDATE lodge.receiver SET until = 1").await.unwrap();
    busy.renew(&consumer, soon()).await.unwrap();
    let hosts: i64 = other.query_one("SELECT count(*) FROM lodge.receiver", &[]).await.unwrap().get(0);
    assert_eq!(hosts, 1);
    busy.publish(message("work"), soon()).await.unwrap();
    assert_eq!(idle.unsubscribe(&consumer, soon()).await, Ok(false), "another host receives");
    assert_eq!(receive(&*busy, &consumer).await[0].attempt, 1, "saying so receives nothing");
    // Who receives says so too.
    other.batch_execute("UPDATE lodge.receiver SET until = 1").await.unwrap();
    receive(&*busy, &consumer).await;
    assert_eq!(idle.unsubscribe(&consumer, soon()).await, Ok(false), "another host receives");
    assert_eq!(busy.unsubscribe(&consumer, soon()).await, Ok(true));
}

/// A consumer that no host has received for in a day has no subscription any more, but time in which no host runs does not count.
#[tokio::test(flavor = "multi_thread")]
async fn absent_consumers_end() {
    let Some(server) = start() else { return };
    let queue = server::connect(&server).messages().unwrap();
    let consumer = subscribe(&*queue, "mail", &["work"]).await;
    let published = async || queue.publish(message("work"), soon()).await.unwrap().consumers;
    assert_eq!(published().await, 1);
    let other = server::other(&server).await;
    let two_days = "- 2 * 86400000";
    let absent = format!("UPDATE lodge.consumer SET seen = seen {two_days}");
    other.batch_execute(&format!("{absent}; UPDATE lodge.awake SET at = at {two_days}")).await.unwrap();
    assert_eq!(published().await, 1, "no host was there");
    other.batch_execute(&absent).await.unwrap();
    assert_eq!(published().await, 0, "others were there");
    subscribe(&*queue, "other", &["elsewhere"]).await;
    let left: i64 = other.query_one("SELECT count(*) FROM lodge.message", &[]).await.unwrap().get(0);
    assert_eq!(left, 0, "its messages are discarded");
    let unknown = queue.status(&consumer, soon()).await.unwrap();
    assert_eq!(unknown.backlog.messages, 0);
}

/// Publishing finds the consumers that the patterns say.
#[tokio::test(flavor = "multi_thread")]
async fn publishing_finds_whose_patterns_match() {
    let Some(server) = start() else { return };
    let queue = server::connect(&server).messages().unwrap();
    let of_consumers: [&[&str]; 8] = [
        &["a", "b.c"],
        &["a.b", "a.b.c"],
        &["a.*", "*.b"],
        &["a.>", "a.b.>"],
        &["*", ">"],
        &["*.c", "a.*.c"],
        &["ab.c", "b.*.*"],
        &["a.bc", "*.*.>"],
    ];
    let subjects = ["a", "b", "ab", "a.b", "a.c", "b.b", "b.c", "ab.c", "a.b.c", "a.c.c", "b.b.c", "a.b.c.d", "x.y.z"];
    let found = async |subject: &str| queue.publish(message(subject), soon()).await.unwrap().consumers;
    for (number, patterns) in of_consumers.iter().enumerate() {
        subscribe(&*queue, &format!("c{number}"), patterns).await;
    }
    for subject in subjects {
        let of = Subject::new(subject).unwrap();
        let matches = |patterns: &&&[&str]| patterns.iter().any(|pattern| Pattern::new(pattern).unwrap().matches(&of));
        assert_eq!(found(subject).await, of_consumers.iter().filter(matches).count(), "{subject}");
    }
    // Other patterns hold at once.
    subscribe(&*queue, "c4", &["other"]).await;
    assert_eq!((found("other").await, found("x").await), (1, 0));
}

/// What another program has written in the place of a message dies, and keeps no other message from being delivered or listed.
#[tokio::test(flavor = "multi_thread")]
async fn messages_of_other_programs() {
    let Some(server) = start() else { return };
    let queue = server::connect(&server).messages().unwrap();
    let consumer = subscribe(&*queue, "mail", &["work"]).await;
    for _ in 0..3 {
        queue.publish(message("work"), soon()).await.unwrap();
    }
    let other = server::other(&server).await;
    let damage =
        "UPDATE lodge.message SET subject = 'no subject' WHERE number = (SELECT min(number) FROM lodge.message)";
    other.batch_execute(damage).await.unwrap();
    let lease = Lease::new(Duration::from_secs(60)).unwrap();
    let received = queue.receive(&consumer, 64, lease, Instant::now()).await.unwrap();
    assert_eq!((received.deliveries.len(), received.dead), (2, 1));
    let rejected = Settlement::Reject(Fault::Status(422));
    let settled = queue.settle(&consumer, &received.deliveries[0].receipt, rejected, soon()).await;
    assert_eq!(settled, Ok(SettlementOutcome::Dead));
    assert_eq!(queue.dead(&consumer, None, 10, soon()).await.unwrap().len(), 1);
    let status = queue.status(&consumer, soon()).await.unwrap();
    assert_eq!((status.backlog.messages, status.dead), (1, 2));
}

/// Who may not create the tables of messages can use the rest, and is told what would help. Tables of a later version are refused.
#[tokio::test(flavor = "multi_thread")]
async fn tables_that_cannot_be_used() {
    let Some(server) = start() else { return };
    let backend = server::connect(&server);
    let name = Namespace::new("svc").unwrap();
    backend.open(&name, Quota::default(), soon()).await.unwrap();
    let client = server::other(&server).await;
    let rights = "CREATE USER weak PASSWORD 'word'; GRANT USAGE ON SCHEMA lodge TO weak; \
        GRANT ALL ON ALL TABLES IN SCHEMA lodge TO weak; GRANT ALL ON ALL SEQUENCES IN SCHEMA lodge TO weak";
    client.batch_execute(rights).await.unwrap();
    let weak = server::connect_as(server.port(), "weak:word");
    weak.open(&name, Quota::default(), soon()).await.unwrap();
    let refused = weak.messages().unwrap().publish(message("work"), soon()).await.unwrap_err().to_string();
    assert!(refused.contains("may not use the schema lodge"), "{refused}");
    backend.messages().unwrap().publish(message("work"), soon()).await.unwrap();
    client.batch_execute("UPDATE lodge.messages SET version = 99").await.unwrap();
    let later = server::connect(&server).messages().unwrap().publish(message("work"), soon()).await;
    let later = later.unwrap_err().to_string();
    assert!(later.contains("version 99") && later.contains("the later version of Lodge"), "{later}");
}
