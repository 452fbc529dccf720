//! Messages that NATS passes on without storing them: each is delivered once at most, to one of the hosts.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lodge_conformance::soon;
use lodge_remote::testing::TestServer;
use lodge_state::messages::{Backlog, Fault, Received, Settlement, SettlementOutcome};
use lodge_state::{Backend, Error, Lease, MessageQueue, Namespace, Pattern, Subscription};
use tokio::time::Instant;

use crate::server;

async fn host(server: &TestServer) -> Arc<dyn MessageQueue> {
    let backend = server::connect(server);
    let queue = backend.unstored_messages().unwrap();
    // Its connections end with it.
    std::mem::forget(backend);
    queue
}

async fn client(server: &TestServer) -> async_nats::Client {
    async_nats::connect(format!("127.0.0.1:{}", server.port())).await.unwrap()
}

/// Waits until the server has all that `client` has sent. It works through that in order, and a flush ends before it has read it.
async fn sent(client: &async_nats::Client) {
    let inbox = client.new_inbox();
    let mut echo = client.subscribe(inbox.clone()).await.unwrap();
    client.publish(inbox, "".into()).await.unwrap();
    echo.next().await.unwrap();
}

async fn subscribe(queue: &dyn MessageQueue, name: &str, patterns: &[&str], messages: u64) -> Namespace {
    let consumer = Namespace::new(name).unwrap();
    let patterns = patterns.iter().map(|pattern| Pattern::new(pattern).unwrap()).collect();
    let quota = Backlog { messages, bytes: 1 << 20 };
    let subscription = Subscription::new(patterns, 1, None, quota).unwrap();
    queue.subscribe(&consumer, subscription, soon()).await.unwrap();
    consumer
}

async fn receive(queue: &dyn MessageQueue, consumer: &Namespace, wait: u64) -> Received {
    let lease = Lease::new(Duration::from_secs(60)).unwrap();
    queue.receive(consumer, 64, lease, Instant::now() + Duration::from_millis(wait)).await.unwrap()
}

/// Every message reaches one host of each service, once, whatever patterns have its subject, and is gone then: also if it failed.
#[tokio::test(flavor = "multi_thread")]
async fn each_message_is_delivered_once() {
    let Some(server) = server::start("") else { return };
    let (hosts, client) = ([host(&server).await, host(&server).await], client(&server).await);
    let mut work = Vec::new();
    for host in &hosts {
        work.push(subscribe(&**host, "work", &["job.*", "job.>"], 1000).await);
    }
    let other = subscribe(&*hosts[0], "other", &["job.a"], 1000).await;
    for number in 0..200 {
        client.publish("job.a", number.to_string().into()).await.unwrap();
    }
    // They are at the server before the next subscription is.
    sent(&client).await;
    // Subjects of hosts are no messages of services.
    subscribe(&*hosts[0], "all", &[">"], 1000).await;
    for foreign in ["lodge.queue", "_INBOX.x", "$x.y", "jobs"] {
        client.publish(foreign, "x".into()).await.unwrap();
    }
    sent(&client).await;
    let (mut bodies, end) = (Vec::new(), soon());
    while bodies.len() < 200 {
        assert!(Instant::now() < end, "{} came", bodies.len());
        for (host, consumer) in hosts.iter().zip(&work) {
            for delivery in receive(&**host, consumer, 50).await.deliveries {
                let failed = Settlement::Retry(Duration::ZERO, Fault::Status(500));
                let outcome = host.settle(consumer, &delivery.receipt, failed, soon()).await;
                assert_eq!((outcome, delivery.attempt), (Ok(SettlementOutcome::Dead), 1));
                bodies.push(String::from_utf8(delivery.message.body.bytes().to_vec()).unwrap());
            }
        }
    }
    let mut all = 0;
    while all < 200 {
        assert!(Instant::now() < end, "{all} came");
        all += receive(&*hosts[0], &other, 50).await.deliveries.len();
    }
    bodies.sort();
    bodies.dedup();
    assert_eq!((bodies.len(), all), (200, 200));
    for (host, consumer) in hosts.iter().zip(&work) {
        assert_eq!(receive(&**host, consumer, 200).await, Received::default(), "nothing comes again");
        assert!(host.dead(consumer, None, 10, soon()).await.unwrap().is_empty());
    }
    let name = Namespace::new("all").unwrap();
    let mut found = Vec::new();
    while found.is_empty() {
        assert!(Instant::now() < end);
        found = receive(&*hosts[0], &name, 50).await.deliveries;
    }
    assert_eq!(found.iter().map(|one| one.message.subject.as_str()).collect::<Vec<_>>(), ["jobs"]);
}

/// What a quota has no room for is lost, and counted. A message that was not worked on comes again.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_room_is_counted() {
    let Some(server) = server::start("") else { return };
    let (host, client) = (host(&server).await, client(&server).await);
    let consumer = subscribe(&*host, "work", &["job"], 3).await;
    for _ in 0..10 {
        client.publish("job", "x".into()).await.unwrap();
    }
    client.publish("job", "y".repeat(2 << 20).into()).await.unwrap_or_default();
    sent(&client).await;
    let (mut dropped, mut deliveries, end) = (0, Vec::new(), soon());
    while dropped + (deliveries.len() as u64) < 10 {
        assert!(Instant::now() < end, "{dropped} {}", deliveries.len());
        let received = receive(&*host, &consumer, 50).await;
        dropped += received.dropped;
        deliveries.extend(received.deliveries);
    }
    assert!(!deliveries.is_empty() && dropped > 0, "{dropped}");
    let released = Settlement::Release(Duration::ZERO);
    let outcome = host.settle(&consumer, &deliveries[0].receipt, released, soon()).await;
    assert_eq!(outcome, Ok(SettlementOutcome::Done));
    let again = receive(&*host, &consumer, 1000).await.deliveries;
    assert_eq!((again.len(), again[0].attempt), (1, 1));
}

/// While the server is away, receivers get an error, and subscribe again when it is back. The end of a subscription leaves messages
/// to other hosts.
#[tokio::test(flavor = "multi_thread")]
async fn outages_and_ends() {
    let Some(mut server) = server::start("") else { return };
    let hosts = [host(&server).await, host(&server).await];
    let consumer = subscribe(&*hosts[0], "work", &["job"], 100).await;
    server.kill();
    let lease = Lease::new(Duration::from_secs(60)).unwrap();
    let lost = hosts[0].receive(&consumer, 1, lease, soon()).await;
    assert!(matches!(lost, Err(Error::Unavailable { .. })), "{lost:?}");
    server.restart();
    let end = soon();
    for host in &hosts {
        loop {
            let (patterns, quota) = (vec![Pattern::new("job").unwrap()], Backlog { messages: 100, bytes: 1 << 20 });
            let subscription = Subscription::new(patterns, 1, None, quota).unwrap();
            if host.subscribe(&consumer, subscription, Instant::now() + Duration::from_secs(5)).await.is_ok() {
                break;
            }
            assert!(Instant::now() < end);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert_eq!(hosts[0].unsubscribe(&consumer, soon()).await, Ok(true));
    assert_eq!(hosts[0].unsubscribe(&consumer, soon()).await, Ok(false));
    let client = client(&server).await;
    let mut received = 0;
    // The server learns of the end a moment later.
    while received < 20 {
        assert!(Instant::now() < end);
        client.publish("job", "x".into()).await.unwrap();
        sent(&client).await;
        received += receive(&*hosts[1], &consumer, 200).await.deliveries.len();
    }
    let ended = hosts[0].receive(&consumer, 1, lease, soon()).await;
    assert!(matches!(ended, Err(Error::Unavailable { .. })), "{ended:?}");
}
