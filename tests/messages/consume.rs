//! Promise: a service with `[consume]` gets every message to its subjects, as a request under its policies, until it has
//! acknowledged it or the message is dead.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::calls::local::metric;
use crate::harness::{PATIENCE, Process, Setup, TestHost, Worker, get, host, until};

/// A host with a publisher, and `worker` as the service `worker` with these lines of a manifest.
fn consumed(worker: &Worker, consume: &str) -> Setup {
    let manifest = format!("[consume]\nsubject = 'work.>'\n{consume}\n{}", worker.upstream());
    host(&["publisher"]).manifest("publisher", "publish = '>'").manifest("worker", &manifest)
}

/// Publishes a message, as soon as a service consumes it.
pub(super) async fn publish(host: &TestHost, subject: &str, body: &str) {
    publish_at(host.address, subject, body).await;
}

async fn publish_at(address: SocketAddr, subject: &str, body: &str) {
    let start = Instant::now();
    loop {
        let answer = get(address, &format!("/publisher/publish/{subject}?{body}")).await;
        let text = answer.text();
        if answer.status == 200 {
            return;
        }
        assert!(text.contains("no service consumes") && start.elapsed() < Duration::from_secs(30), "{text}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn count(host: &TestHost, outcome: &str) -> f64 {
    metric(host, &format!("lodge_messages_delivered_total{{service=\"worker\",outcome=\"{outcome}\"}}")).await
}

/// Waits until at least so many deliveries have ended in this way.
async fn counted(host: &TestHost, outcome: &str, deliveries: u32) {
    let start = Instant::now();
    while count(host, outcome).await < f64::from(deliveries) {
        assert!(start.elapsed() < PATIENCE, "{} of {deliveries} are {outcome}", count(host, outcome).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_a_request() {
    let worker = Worker::with(204).await;
    let host = consumed(&worker, "").start().await;
    publish(&host, "work.made.here", "content").await;
    until("it is delivered", || !worker.delivered().is_empty()).await;
    let delivered = &worker.delivered()[0];
    assert!(delivered.head.starts_with("POST /messages/work.made.here HTTP/1.1"), "{}", delivered.head);
    assert_eq!(delivered.body, "content");
    assert_eq!(delivered.header("message-subject"), Some("work.made.here"));
    assert_eq!(delivered.attempt(), 1);
    assert_eq!(delivered.header("content-type"), Some("application/octet-stream"));
    assert!(delivered.header("message-id").is_some() && delivered.header("x-request-id").is_some());
    counted(&host, "acknowledged", 1).await;
    assert_eq!(metric(&host, "lodge_messages_published_total{service=\"publisher\",outcome=\"ok\"}").await, 1.0);
    assert_eq!(metric(&host, "lodge_requests_total{service=\"worker\",code=\"2xx\"}").await, 1.0);
    assert_eq!(worker.delivered().len(), 1, "an acknowledged message is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_retried_with_growing_pauses_until_the_message_is_dead() {
    let worker = Worker::start(|delivered| match &*delivered.body {
        "invalid" => (422, Duration::ZERO),
        _ => (500, Duration::ZERO),
    })
    .await;
    let grave = Worker::with(200).await;
    let consume = "max_deliver = 4\npause = '50ms'\ndead_letter = 'dead.work'";
    let host = consumed(&worker, consume)
        .manifest("grave", &format!("[consume]\nsubject = 'dead.*'\npath = '/in'\n{}", grave.upstream()))
        .start()
        .await;
    publish(&host, "dead.test", "there").await;
    publish(&host, "work.a", "fails").await;
    until("it is dead", || grave.bodies().iter().any(|body| body == "fails")).await;
    let delivered = worker.delivered();
    assert_eq!(delivered.iter().map(|one| one.attempt()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let pauses: Vec<_> = delivered.windows(2).map(|two| two[1].at - two[0].at).collect();
    for (pause, least) in pauses.iter().zip([50, 100, 200]) {
        assert!(*pause >= Duration::from_millis(least), "{pauses:?}");
    }
    let ids: std::collections::BTreeSet<_> = delivered.iter().map(|one| one.header("message-id")).collect();
    assert_eq!(ids.len(), 1, "the id stays");
    let letter = grave.delivered().into_iter().find(|one| one.body == "fails").unwrap();
    assert!(letter.head.starts_with("POST /in HTTP/1.1"), "{}", letter.head);
    assert_eq!((letter.header("message-origin"), letter.attempt()), (Some("work.a"), 1));
    assert_eq!(Some(letter.header("message-id")), ids.first().copied());
    // A message that is at fault itself is not tried again.
    publish(&host, "work.b", "invalid").await;
    until("it is dead", || grave.bodies().iter().any(|body| body == "invalid")).await;
    assert_eq!(worker.bodies().iter().filter(|body| *body == "invalid").count(), 1);
    counted(&host, "dead", 2).await;
    assert_eq!(count(&host, "retried").await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_service_is_not_flooded_and_recovers() {
    let broken = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let worker = Worker::start({
        let broken = broken.clone();
        move |_| (if broken.load(std::sync::atomic::Ordering::Relaxed) { 500 } else { 200 }, Duration::ZERO)
    })
    .await;
    let host = consumed(&worker, "max_deliver = 1000\npause = '1ms'\nmax_pause = '1ms'\nconcurrency = 2").start().await;
    for number in 0..50 {
        publish(&host, "work.x", &number.to_string()).await;
    }
    // Without a pause of the consumer it would be some thousands.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let failed = worker.delivered().len();
    assert!((1..60).contains(&failed), "{failed} deliveries");
    broken.store(false, std::sync::atomic::Ordering::Relaxed);
    until("all are delivered", || worker.delivered().len() >= failed + 50).await;
    counted(&host, "acknowledged", 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrency_is_bounded() {
    let worker = Worker::start(|_| (200, Duration::from_millis(20))).await;
    let host = consumed(&worker, "concurrency = 3").start().await;
    for number in 0..30 {
        publish(&host, "work.x", &number.to_string()).await;
    }
    until("all are delivered", || worker.delivered().len() == 30).await;
    let most = worker.delivered().iter().map(|one| one.concurrent).max();
    assert_eq!(most, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_host_finishes_its_messages_and_keeps_the_others() {
    let worker = Worker::start(|_| (200, Duration::from_millis(300))).await;
    let directory = consumed(&worker, "concurrency = 2").directory;
    let mut process = Process::serve(directory.path(), &[]).await;
    for number in 0..6 {
        publish_at(process.address, "work.x", &number.to_string()).await;
    }
    until("some are processed", || worker.delivered().len() >= 2).await;
    process.signal(rustix::process::Signal::TERM);
    assert!(process.ended().await.success(), "{}", process.log());
    let finished = worker.bodies();
    assert!(finished.len() < 6, "it takes no more: {finished:?}");
    // The rest is delivered by the next host, and nothing twice.
    let process = Process::serve(directory.path(), &[]).await;
    until("the rest is delivered", || worker.delivered().len() >= 6).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut bodies = worker.bodies();
    bodies.sort();
    assert_eq!(bodies, ["0", "1", "2", "3", "4", "5"], "{}", process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_gets_its_share_of_the_messages() {
    let (worker, canary) = (Worker::with(200).await, Worker::with(200).await);
    let host =
        consumed(&worker, "").manifest("worker@new", &format!("percent = 30\n{}", canary.upstream())).start().await;
    for number in 0..100 {
        publish(&host, "work.x", &number.to_string()).await;
    }
    until("all are delivered", || worker.delivered().len() + canary.delivered().len() == 100).await;
    let share = canary.delivered().len();
    assert!((10..=55).contains(&share), "{share} of 100 messages for 30 %");
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_consume_and_an_ended_subscription_discards() {
    let host = host(&["publisher"])
        .manifest("publisher", "publish = 'work.*'")
        .named("publisher", "worker")
        .manifest("worker", "[consume]\nsubject = 'work.*'")
        .start()
        .await;
    publish(&host, "work.a", "x").await;
    counted(&host, "acknowledged", 1).await;
    std::fs::write(host.directory().join("worker.toml"), "").unwrap();
    let start = Instant::now();
    while host.get("/publisher/publish/work.a?x").await.status == 200 {
        assert!(start.elapsed() < Duration::from_secs(60), "the subscription does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
