//! Promise: a process that is killed loses no message whose publication was confirmed, and delivers none again whose
//! acknowledgement was confirmed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lodge_conformance::soon;
use lodge_state::messages::{Backlog, Fault, Headers, MessageBody, Receipt, Settlement, SettlementOutcome};
use lodge_state::{
    Backend, Lease, Message, MessageQueue, Namespace, Pattern, Sqlite, Subject, Subscription, SystemClock, verify,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::crash::{DIRECTORY, kill, say};
use crate::sqlite::options;

const PUBLISHERS: usize = 8;
const CONSUMERS: [&str; 2] = ["one", "other"];
const KILLS: usize = 100;

async fn open(directory: &Path) -> (Sqlite, Arc<dyn MessageQueue>) {
    let sqlite = Sqlite::open(options(directory, Arc::new(SystemClock::new()))).unwrap();
    let queue = sqlite.messages().unwrap();
    for name in CONSUMERS {
        let quota = Backlog { messages: 1 << 20, bytes: 1 << 30 };
        let subscription = Subscription::new(vec![Pattern::new("work.*").unwrap()], 1000, None, quota).unwrap();
        queue.subscribe(&Namespace::new(name).unwrap(), subscription, soon()).await.unwrap();
    }
    (sqlite, queue)
}

async fn publish(queue: Arc<dyn MessageQueue>, task: usize) {
    loop {
        let message = Message {
            subject: Subject::new(&format!("work.{task}")).unwrap(),
            reply_to: None,
            headers: Headers::default(),
            body: MessageBody::new("x".repeat(task * 50)).unwrap(),
        };
        let published = queue.publish(message, soon()).await.unwrap();
        assert_eq!(published.consumers, CONSUMERS.len());
        say(&format!("p all {}\n", published.id));
        // Not faster than the consumers.
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
}

/// Acknowledges most messages, and retries some.
async fn consume(queue: Arc<dyn MessageQueue>, name: &str) {
    let consumer = Namespace::new(name).unwrap();
    let settle = async |receipt: &Receipt, settlement| {
        assert_eq!(queue.settle(&consumer, receipt, settlement, soon()).await, Ok(SettlementOutcome::Done));
    };
    loop {
        let lease = Lease::new(Duration::from_secs(600)).unwrap();
        let received = queue.receive(&consumer, 16, lease, soon()).await.unwrap();
        assert_eq!(received.dead, 0);
        for (number, delivery) in received.deliveries.iter().enumerate() {
            if number % 4 == 3 {
                settle(&delivery.receipt, Settlement::Retry(Duration::from_millis(5), Fault::Status(500))).await;
                continue;
            }
            say(&format!("b {name} {}\n", delivery.id));
            settle(&delivery.receipt, Settlement::Acknowledge).await;
            say(&format!("a {name} {}\n", delivery.id));
        }
    }
}

/// Publishes and consumes until it is killed, and says what was confirmed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started and killed by the test below"]
async fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let (_sqlite, queue) = open(Path::new(&directory)).await;
    let mut tasks = JoinSet::new();
    for task in 0..PUBLISHERS {
        tasks.spawn(publish(queue.clone(), task));
    }
    for name in CONSUMERS {
        tasks.spawn(consume(queue.clone(), name));
    }
    // None of them ends but by a panic.
    tasks.join_next().await.unwrap().unwrap();
}

/// What the children have said.
#[derive(Default)]
struct Said {
    published: BTreeSet<u64>,
    /// By consumer: acknowledgements that were begun, and those that were confirmed.
    begun: BTreeMap<String, BTreeSet<u64>>,
    acknowledged: BTreeMap<String, BTreeSet<u64>>,
}

impl Said {
    fn take(&mut self, text: &str) {
        // The last line may be cut off.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let words: Vec<_> = line.split_whitespace().collect();
            let [kind @ ("p" | "b" | "a"), name, id] = words[..] else { continue };
            let Ok(id) = id.parse() else { continue };
            match kind {
                "p" => self.published.insert(id),
                "b" => self.begun.entry(name.into()).or_default().insert(id),
                _ => self.acknowledged.entry(name.into()).or_default().insert(id),
            };
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_loses_no_message() {
    let directory = tempfile::tempdir().unwrap();
    let mut said = Said::default();
    for round in 0..KILLS {
        let pause = Duration::from_micros((round as u64 * 7919) % 30_000);
        said.take(&kill("crash_messages::child", directory.path(), "p ", pause).await);
        check(directory.path(), &said).await;
    }
    let acknowledged: usize = said.acknowledged.values().map(BTreeSet::len).sum();
    assert!(said.published.len() > KILLS * PUBLISHERS && acknowledged > KILLS, "{acknowledged}");
}

/// Receives all that is stored, and gives it back.
async fn check(directory: &Path, said: &Said) {
    let (sqlite, queue) = open(directory).await;
    for name in CONSUMERS {
        let consumer = Namespace::new(name).unwrap();
        let (mut stored, mut receipts) = (BTreeSet::new(), Vec::new());
        // Also those that are retried after some milliseconds.
        let until = Instant::now() + Duration::from_millis(10);
        loop {
            let lease = Lease::new(Duration::from_secs(600)).unwrap();
            let received = queue.receive(&consumer, 64, lease, until).await.unwrap();
            if received.deliveries.is_empty() {
                break;
            }
            for delivery in received.deliveries {
                assert!(stored.insert(delivery.id.as_str().parse().unwrap()), "{name}: {} twice", delivery.id);
                receipts.push(delivery.receipt);
            }
        }
        let none = BTreeSet::new();
        let (begun, done) = (said.begun.get(name).unwrap_or(&none), said.acknowledged.get(name).unwrap_or(&none));
        let lost: Vec<_> = said.published.iter().filter(|id| !begun.contains(id) && !stored.contains(*id)).collect();
        assert!(lost.is_empty(), "{name} has lost {lost:?}");
        let again: Vec<_> = done.intersection(&stored).collect();
        assert!(again.is_empty(), "{name} would get {again:?} again");
        for receipt in receipts {
            let released = queue.settle(&consumer, &receipt, Settlement::Release(Duration::ZERO), soon()).await;
            assert_eq!(released, Ok(SettlementOutcome::Done));
        }
    }
    sqlite.close().await;
    verify(&directory.join("state.db")).unwrap();
}
