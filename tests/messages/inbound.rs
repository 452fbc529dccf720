//! Promise: a component of Spin that exports `inbound-redis`, in either version, consumes messages as any other service does: its result
//! acknowledges them, and its failures are delivered again. It needs no HTTP and no Redis.

use super::consume::publish;
use crate::harness::{Worker, host, until, until_metric};

const MANIFEST: &str = "publish = 'seen.*'\n[consume]\nsubject = 'work.*'\npause = '10ms'\nmax_deliver = 3\n";

async fn its_result_settles_the_message(component: &str) {
    let worker = Worker::with(204).await;
    let seen = format!("[consume]\nsubject = 'seen.*'\n{}", worker.upstream());
    let setup = host(&["publisher", component]).manifest("publisher", "publish = '>'");
    let host = setup.manifest(component, MANIFEST).manifest("worker", &seen).start().await;
    assert_eq!(host.refusals(), Vec::<String>::new());
    publish(&host, "seen.first", "x").await;
    publish(&host, "work.any", "content").await;
    until("it is seen", || worker.bodies().len() >= 2).await;
    assert_eq!(worker.bodies(), ["x", "got content"]);
    publish(&host, "work.any", "fails").await;
    publish(&host, "work.any", "traps").await;
    let until_delivered = async |outcome: &str, deliveries| {
        let name = format!("lodge_messages_delivered_total{{service=\"{component}\",outcome=\"{outcome}\"}}");
        until_metric(host.admin, &name, deliveries).await;
    };
    for (outcome, deliveries) in [("acknowledged", 1), ("retried", 4), ("dead", 2)] {
        until_delivered(outcome, deliveries).await;
    }
    until("all are seen", || worker.bodies().len() >= 8).await;
    let mut rest = worker.bodies().split_off(2);
    rest.sort();
    assert_eq!(rest, ["got fails", "got fails", "got fails", "got traps", "got traps", "got traps"]);
    let trapped = format!("lodge_guest_failures_total{{service=\"{component}\",reason=\"trapped\"}}");
    until_metric(host.admin, &trapped, 3).await;
    let response = host.get(&format!("/{component}")).await;
    assert_eq!((response.status, response.text().as_str()), (404, "this service handles messages only"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_version() {
    its_result_settles_the_message("inbound").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn version_3() {
    its_result_settles_the_message("inbound3").await;
}
