//! A server that fails while hosts publish and receive.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lodge_state::messages::{Settlement, SettlementOutcome};
use lodge_state::{Error, MessageQueue};
use tokio::time::{Instant, sleep};

use super::{Connect, Host, lease, message, namespace, soon, subscribe};
use crate::testing::TestServer;

/// The time of an operation while the server may be away, and how much later it may end on a loaded machine.
const DEADLINE: Duration = Duration::from_millis(500);
const LATE: Duration = Duration::from_secs(2);
/// Times that the server is killed.
const RESTARTS: usize = 3;

/// While the server is away, operations end by their deadline with an error of the interface. When it is back, hosts publish and
/// receive again by themselves: nothing that was confirmed is lost, and nothing is delivered again that was acknowledged.
pub async fn queue_outages(mut server: TestServer, connect: Connect) {
    let host = Host::new(connect, &server);
    host.subscribe("worker", "work.*", None).await;
    let published = Arc::new(Mutex::new(BTreeSet::new()));
    let seen: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
    let acknowledged: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let publishing = tokio::spawn(publish_through_outages(Host(host.0.clone()), published.clone()));
    let receiving = tokio::spawn({
        let (queue, seen, acknowledged) = (host.0.clone(), seen.clone(), acknowledged.clone());
        async move { receive_through_outages(queue, seen, acknowledged).await }
    });
    let progress = async || {
        let (before, end) = (published.lock().unwrap().len(), soon());
        let reached = seen.lock().unwrap().len();
        while published.lock().unwrap().len() < before + 30 || seen.lock().unwrap().len() < reached + 30 {
            assert!(Instant::now() < end, "no progress: {before} were published, and {reached} received");
            assert!(!publishing.is_finished() && !receiving.is_finished(), "a task has failed");
            sleep(Duration::from_millis(5)).await;
        }
    };
    progress().await;
    for round in 0..RESTARTS {
        server.kill();
        sleep(Duration::from_millis(300)).await;
        let refused = timely(host.0.publish(message("work.x", "away"), Instant::now() + DEADLINE)).await;
        refused.expect_err("the server is away");
        server.restart();
        progress().await;
        // Stopped, it responds to nothing.
        if round == 0 {
            server.pause();
            sleep(Duration::from_millis(300)).await;
            let refused = timely(host.0.publish(message("work.x", "away"), Instant::now() + DEADLINE)).await;
            refused.expect_err("the server does not respond");
            server.resume();
            progress().await;
        }
    }
    publishing.abort();
    let _ = publishing.await;
    let published = published.lock().unwrap().clone();
    let end = soon();
    while !published.iter().all(|id| seen.lock().unwrap().contains_key(id)) {
        assert!(Instant::now() < end && !receiving.is_finished(), "messages are lost");
        sleep(Duration::from_millis(50)).await;
    }
    receiving.abort();
}

async fn publish_through_outages(host: Host, published: Arc<Mutex<BTreeSet<String>>>) {
    for number in 0.. {
        let publish = host.0.publish(message("work.x", &format!("{number}")), Instant::now() + DEADLINE);
        match timely(publish).await {
            Ok(done) => _ = published.lock().unwrap().insert(done.id.to_string()),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// Receives as a host does: after an error it subscribes again.
async fn receive_through_outages(
    queue: Arc<dyn MessageQueue>,
    seen: Arc<Mutex<BTreeMap<String, usize>>>,
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
) {
    let consumer = namespace("worker");
    loop {
        let received = queue.receive(&consumer, 8, lease(5), Instant::now() + Duration::from_secs(2)).await;
        let Ok(received) = received else {
            sleep(Duration::from_millis(100)).await;
            let _ = subscribe(&*queue, "worker", "work.*", None).await;
            continue;
        };
        for delivery in received.deliveries {
            let id = delivery.id.to_string();
            assert!(!acknowledged.lock().unwrap().contains(&id), "{id} was acknowledged, and is delivered again");
            *seen.lock().unwrap().entry(id.clone()).or_default() += 1;
            let deadline = Instant::now() + DEADLINE;
            let settled = timely(queue.settle(&consumer, &delivery.receipt, Settlement::Acknowledge, deadline)).await;
            if settled == Ok(SettlementOutcome::Done) {
                acknowledged.lock().unwrap().insert(id);
            }
        }
    }
}

/// Waits for an operation, and checks that it ends by its deadline, with a result or an error of outages.
async fn timely<T>(operation: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let began = Instant::now();
    let result = operation.await;
    assert!(began.elapsed() < DEADLINE + LATE, "took {:?}", began.elapsed());
    if let Err(error) = &result {
        assert!(matches!(error, Error::Timeout | Error::Unavailable { .. }), "{error}");
        assert!(!error.to_string().contains("127.0.0.1"), "{error}");
    }
    result
}
