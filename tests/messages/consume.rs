//! Promise: a service with `[consume]` gets every message to its subjects, as a request under its policies, until it has
//! acknowledged it or the message is dead.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, Process, Setup, TestHost, Worker, eventually, get, host, metric, until, until_metric};

/// A host with a publisher, and `worker` as the service `worker` with these lines of a manifest.
fn consumed(worker: &Worker, consume: &str) -> Setup {
    let manifest = format!("[consume]\nsubject = 'work.>'\n{consume}\n{}", worker.upstream());
    host(&["publisher"]).manifest("publisher", "publish = '>'").manifest("worker", &manifest)
}

/// Publishes a message, as soon as a service consumes it.
pub(super) async fn publish(host: &TestHost, subject: &str, body: &str) {
    publish_at(host.address, subject, body).await;
}

pub(super) async fn publish_at(address: SocketAddr, subject: &str, body: &str) {
    let start = Instant::now();
    loop {
        let answer = get(address, &format!("/publisher/publish/{subject}?{body}")).await;
        let text = answer.text();
        if answer.status == 200 {
            return;
        }
        assert!(text.contains("no service consumes") && start.elapsed() < PATIENCE, "{text}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until at least so many deliveries have ended in this way.
async fn counted(host: &TestHost, outcome: &str, deliveries: u32) {
    let name = format!("lodge_messages_delivered_total{{service=\"worker\",outcome=\"{outcome}\"}}");
    let what = format!("{deliveries} deliveries are {outcome}");
    eventually(&what, async || metric(host.admin, &name).await >= f64::from(deliveries)).await;
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
    until_metric(host.admin, "lodge_messages_published_total{service=\"publisher\",outcome=\"ok\"}", 1).await;
    until_metric(host.admin, "lodge_requests_total{service=\"worker\",code=\"2xx\"}", 1).await;
    assert_eq!(worker.delivered().len(), 1, "an acknowledged message is gone");
}

/// Messages that wait outlive an edit by which the section is gone for a moment.
#[tokio::test(flavor = "multi_thread")]
async fn messages_outlive_a_lost_section() {
    let worker = Worker::start(|delivered| (if delivered.attempt() > 1 { 204 } else { 503 }, Duration::ZERO)).await;
    let host = consumed(&worker, "pause = '1s'").start().await;
    for number in 0..5 {
        publish(&host, "work.made", &number.to_string()).await;
    }
    until("each is delivered once", || worker.delivered().len() >= 5).await;
    host.edit("worker", &worker.upstream()).await;
    // Longer than the host takes to see what is served.
    tokio::time::sleep(Duration::from_millis(500)).await;
    host.edit("worker", &format!("[consume]\nsubject = 'work.>'\npause = '1s'\n{}", worker.upstream())).await;
    counted(&host, "acknowledged", 5).await;
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
    until_metric(host.admin, "lodge_messages_delivered_total{service=\"worker\",outcome=\"retried\"}", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_service_is_not_flooded_and_recovers() {
    let broken = Arc::new(AtomicBool::new(true));
    let worker = Worker::start({
        let broken = broken.clone();
        move |_| (if broken.load(Relaxed) { 500 } else { 200 }, Duration::ZERO)
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
    broken.store(false, Relaxed);
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

/// An edit makes another consumer. What the former one has sent still counts, and what it has received is not overtaken.
#[tokio::test(flavor = "multi_thread")]
async fn concurrency_and_order_hold_over_edits() {
    let worker = Worker::start(|_| (200, Duration::from_millis(200))).await;
    let host = consumed(&worker, "concurrency = 1").start().await;
    for number in 0..20 {
        publish(&host, "work.x", &number.to_string()).await;
    }
    for pause in 2..=5 {
        let manifest =
            format!("[consume]\nsubject = 'work.>'\nconcurrency = 1\npause = '{pause}s'\n{}", worker.upstream());
        host.edit("worker", &manifest).await;
        let delivered = worker.delivered().len();
        until("another is delivered", || worker.delivered().len() > delivered || delivered == 20).await;
    }
    until("all are delivered", || worker.delivered().len() == 20).await;
    assert_eq!(worker.delivered().iter().map(|one| one.concurrent).max(), Some(1));
    assert_eq!(worker.bodies(), (0..20).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_host_finishes_its_messages_and_keeps_the_others() {
    // Slow, until the host stops: it has not processed all messages then.
    let pause = Arc::new(AtomicU64::new(3_000));
    let worker = Worker::start({
        let pause = Arc::clone(&pause);
        move |_| (200, Duration::from_millis(pause.load(Relaxed)))
    })
    .await;
    let directory = consumed(&worker, "concurrency = 2").directory;
    let mut process = Process::serve(directory.path(), &[]).await;
    for number in 0..6 {
        publish_at(process.address, "work.x", &number.to_string()).await;
    }
    until("some are processed", || worker.delivered().len() >= 2).await;
    process.signal(rustix::process::Signal::TERM);
    pause.store(100, Relaxed);
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
async fn guests_consume() {
    let host = host(&["publisher"])
        .manifest("publisher", "publish = 'work.*'")
        .named("publisher", "worker")
        .manifest("worker", "[consume]\nsubject = 'work.*'")
        .start()
        .await;
    publish(&host, "work.a", "x").await;
    counted(&host, "acknowledged", 1).await;
}
