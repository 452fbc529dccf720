//! Promise: a component that exports `wasmcloud:messaging/handler` consumes messages as any other service does: it acknowledges them
//! by its result, its failures are delivered again, and it replies to requests. It needs no HTTP.

use super::consume::publish;
use crate::harness::{Setup, TestHost, Worker, host, until, until_metric};

const MANIFEST: &str = "publish = 'seen.*'\n[consume]\nsubject = 'work.*'\npause = '10ms'\nmax_deliver = 3\n";

/// A host with a publisher, the component as the service `handles`, and `worker`, which receives what that has seen.
fn handled(worker: &Worker) -> Setup {
    let seen = format!("[consume]\nsubject = 'seen.*'\n{}", worker.upstream());
    host(&["publisher", "handles"])
        .manifest("publisher", "publish = '>'")
        .manifest("handles", MANIFEST)
        .manifest("worker", &seen)
}

/// Waits until so many deliveries have ended in this way.
async fn until_delivered(host: &TestHost, outcome: &str, deliveries: u32) {
    let name = format!("lodge_messages_delivered_total{{service=\"handles\",outcome=\"{outcome}\"}}");
    until_metric(host.admin, &name, deliveries).await;
}

async fn bodies(worker: &Worker, count: usize) -> Vec<String> {
    until("they are seen", || worker.bodies().len() >= count).await;
    worker.bodies()
}

#[tokio::test(flavor = "multi_thread")]
async fn its_result_settles_the_message() {
    let worker = Worker::with(204).await;
    let host = handled(&worker).start().await;
    publish(&host, "seen.first", "x").await;
    publish(&host, "work.done", "content").await;
    assert_eq!(bodies(&worker, 2).await, ["x", "work.done content"]);
    publish(&host, "work.fails", "a").await;
    publish(&host, "work.traps", "b").await;
    // Three deliveries of each.
    let mut seen = bodies(&worker, 8).await.split_off(2);
    seen.sort();
    assert_eq!(seen, ["work.fails a", "work.fails a", "work.fails a", "work.traps b", "work.traps b", "work.traps b"]);
    for (outcome, deliveries) in [("dead", 2), ("acknowledged", 1), ("retried", 4)] {
        until_delivered(&host, outcome, deliveries).await;
    }
    assert_eq!(worker.bodies().len(), 8, "an acknowledged message is gone");
    // Messages are requests in metrics, too; clients have none to it.
    until_metric(host.admin, "lodge_guest_failures_total{service=\"handles\",reason=\"trapped\"}", 3).await;
    let response = host.get("/handles").await;
    assert_eq!((response.status, response.text().as_str()), (404, "this service handles messages only"));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_replies_to_requests() {
    let worker = Worker::with(204).await;
    let host = handled(&worker).start().await;
    let response = host.get("/publisher/request/work.ask?content").await;
    assert_eq!((response.status, response.text().as_str()), (200, "reply: content"));
}

/// Limits of requests hold for messages.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_dead() {
    let worker = Worker::with(204).await;
    let host = handled(&worker).manifest("handles", &format!("{MANIFEST}[limits]\nrequest_body = 3\n")).start().await;
    publish(&host, "seen.first", "x").await;
    publish(&host, "work.done", "longer").await;
    publish(&host, "work.done", "two").await;
    assert_eq!(bodies(&worker, 2).await, ["x", "work.done two"]);
    until_delivered(&host, "dead", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_subject_it_is_refused() {
    let host = host(&["handles"]).start().await;
    let refusals = host.refusals();
    assert!(
        refusals[0].contains("handles messages and no requests") && refusals[0].contains("`consume.subject ="),
        "{refusals:?}"
    );
}
