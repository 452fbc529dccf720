//! Promise: a component that exports `wasmcloud:messaging/handler@0.3.0` consumes messages as one of `0.2.0` does, and says itself what becomes of
//! a message that it does not handle. It publishes by async functions, with the bounds of others.

use super::consume::publish;
use crate::harness::{TestHost, Worker, host, until, until_metric};

async fn started(worker: &Worker) -> TestHost {
    let manifest = "publish = ['seen.*', 'ask.*']\n[consume]\nsubject = 'work.*'\npause = '10ms'\nmax_deliver = 3\n";
    let seen = format!("[consume]\nsubject = 'seen.*'\n{}", worker.upstream());
    let host = host(&["publisher", "handles3"])
        .named("publisher", "asked")
        .manifest("publisher", "publish = '>'")
        .manifest("asked", "[consume]\nsubject = 'ask.*'")
        .manifest("handles3", manifest)
        .manifest("worker", &seen)
        .start()
        .await;
    assert_eq!(host.refusals(), Vec::<String>::new());
    publish(&host, "seen.first", "x").await;
    publish(&host, "ask.first", "x").await;
    host
}

/// Publishes a message, and returns what the component has published then.
async fn seen(host: &TestHost, worker: &Worker, subject: &str, body: &str) -> String {
    let before = worker.bodies().len();
    publish(host, subject, body).await;
    until("it is seen", || worker.bodies().len() > before).await;
    worker.bodies().remove(before)
}

#[tokio::test(flavor = "multi_thread")]
async fn its_result_settles_the_message() {
    let worker = Worker::with(204).await;
    let host = started(&worker).await;
    until("the first is seen", || worker.bodies().len() == 1).await;
    assert_eq!(seen(&host, &worker, "work.done", "content").await, "work.done content");
    for (subject, deliveries) in [("work.reject", 1), ("work.other", 1), ("work.retry", 3)] {
        let before = worker.bodies().len();
        publish(&host, subject, "a").await;
        until("it is seen", || worker.bodies().len() >= before + deliveries).await;
    }
    for (outcome, deliveries) in [("dead", 3), ("acknowledged", 1), ("retried", 2)] {
        let name = format!("lodge_messages_delivered_total{{service=\"handles3\",outcome=\"{outcome}\"}}");
        until_metric(host.admin, &name, deliveries).await;
    }
    assert_eq!(worker.bodies().len(), 7, "none is delivered more often");
    let response = host.get("/publisher/request/work.any?content").await;
    assert_eq!((response.status, response.text().as_str()), (200, "reply: content"));
    let response = host.get("/handles3").await;
    assert_eq!((response.status, response.text().as_str()), (404, "this service handles messages only"));
}

#[tokio::test(flavor = "multi_thread")]
async fn its_calls_have_bounds_and_errors() {
    let worker = Worker::with(204).await;
    let host = started(&worker).await;
    until("the first is seen", || worker.bodies().len() == 1).await;
    assert_eq!(seen(&host, &worker, "work.ask", "body").await, "response: body");
    assert_eq!(seen(&host, &worker, "work.large", "").await, "Err(Error::MessageTooLarge)");
    assert_eq!(seen(&host, &worker, "work.denied", "x").await, "Err(Error::AccessDenied)");
    assert_eq!(seen(&host, &worker, "work.wrong", "x").await, "Err(Error::SubjectInvalid)");
}

/// Replies that it does not read are in no memory of its sandbox. Without a bound, hundreds of them fill the host, and then the table of
/// streams, which ends the guest.
#[tokio::test(flavor = "multi_thread")]
async fn unread_replies_are_bounded() {
    let worker = Worker::with(204).await;
    let host = started(&worker).await;
    until("the first is seen", || worker.bodies().len() == 1).await;
    assert_eq!(seen(&host, &worker, "work.hoard", "524288").await, "7 Error::QuotaExceeded true");
    assert_eq!(seen(&host, &worker, "work.hoard", "0").await, "259 Error::QuotaExceeded true");
}
