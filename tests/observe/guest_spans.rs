//! Promise: spans that a guest makes by `wasi:otel` join the trace of its request and no other, within bounds; its log records are
//! log lines, and its metrics are counted and dropped.

use serde_json::Value;

use super::operations::{ask, traced};
use super::traces::{Collector, TRACE};
use crate::harness::{Process, TestHost, eventually, get, host, metric, until, until_metric, wasm};

async fn spans_of_guest() -> (Collector, TestHost) {
    let collector = Collector::start().await;
    let host = traced(host(&["spans"]), &collector).await;
    (collector, host)
}

/// The spans of the guest with this name, when `count` of them have arrived.
async fn named(collector: &Collector, name: &str, count: usize) -> Vec<Value> {
    let all = || collector.spans().into_iter().filter(|span| span["name"] == name).collect::<Vec<_>>();
    until(name, || all().len() >= count).await;
    all()
}

fn counted(outcome: &str) -> String {
    format!("lodge_guest_spans_total{{service=\"spans\",outcome=\"{outcome}\"}}")
}

/// Waits until so many spans have had this outcome.
async fn until_counted(host: &TestHost, outcome: &str, spans: u32) {
    until_metric(host.admin, &counted(outcome), spans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_below_the_span_of_their_guest() {
    let (collector, host) = spans_of_guest().await;
    let outer = ask(&host, "/spans/tree").await.text();
    let (parent, child) =
        (named(&collector, "checkout", 1).await.remove(0), named(&collector, "price", 1).await.remove(0));
    let guest = named(&collector, "guest", 1).await.remove(0);
    assert_eq!(outer, format!("{TRACE} {} true ", guest["id"].as_str().unwrap()));
    assert_eq!((&parent["traceId"], &child["traceId"]), (&TRACE.into(), &TRACE.into()));
    assert_eq!((&parent["parentId"], &child["parentId"]), (&guest["id"], &parent["id"]));
    assert_eq!((&parent["kind"], &child["kind"]), (&Value::Null, &"CLIENT".into()));
    assert_eq!((&parent["timestamp"], &parent["duration"]), (&1_700_000_000_000_000_u64.into(), &1_000_000.into()));
    assert_eq!(
        (&parent["localEndpoint"]["serviceName"], &guest["localEndpoint"]["serviceName"]),
        (&"spans".into(), &"lodge".into())
    );
    let tags = &child["tags"];
    assert_eq!((&tags["text"], &tags["count"], &tags["share"]), (&"tea".into(), &"3".into(), &"0.5".into()));
    assert_eq!((&tags["list"], &tags["error"]), (&"[1, 2]".into(), &"too dear".into()));
    // A guest cannot say that it is another service.
    assert_eq!((&tags["lodge.service"], &tags["lodge.version"]), (&"spans".into(), &Value::Null));
    assert_eq!((&child["annotations"][0]["value"], parent["tags"]["error"].is_null()), (&"asked".into(), true));
    until_counted(&host, "ok", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn they_forge_no_other_span() {
    let (collector, host) = spans_of_guest().await;
    for what in ["foreign", "outer", "ids", "twice", "unsampled", "stranger"] {
        assert_eq!(ask(&host, &format!("/spans/{what}")).await.status, 200, "{what}");
    }
    let stranger = named(&collector, "stranger", 1).await.remove(0);
    until("all guests have arrived", || collector.spans().iter().filter(|span| span["name"] == "guest").count() >= 6)
        .await;
    let spans = collector.spans();
    let own: Vec<_> = spans.iter().filter(|span| span["localEndpoint"]["serviceName"] == "spans").collect();
    let names: Vec<_> = own.iter().map(|span| span["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["twice", "stranger"]);
    // A parent that is not of this request is replaced.
    assert!(spans.iter().any(|span| span["name"] == "guest" && span["id"] == stranger["parentId"]), "{stranger}");
    for (outcome, spans) in [("foreign", 1), ("invalid", 6), ("ok", 2)] {
        until_counted(&host, outcome, spans).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn their_number_and_their_sizes_are_bounded() {
    let (collector, host) = spans_of_guest().await;
    assert_eq!(ask(&host, "/spans/many?200").await.status, 200);
    assert_eq!(named(&collector, "many", 128).await.len(), 128);
    until_counted(&host, "ok", 128).await;
    until_counted(&host, "limit", 72).await;
    assert_eq!(ask(&host, "/spans/large?20").await.status, 200);
    let large = named(&collector, "large", 5).await;
    let size = |span: &Value| {
        span["tags"].as_object().unwrap().iter().map(|(key, value)| key.len() + value.to_string().len()).sum::<usize>()
    };
    assert!(
        large.iter().all(|span| size(span) < 16 << 10 && span["tags"].as_object().unwrap().len() <= 65),
        "{large:#?}"
    );
    assert!(large.iter().map(size).sum::<usize>() < 96 << 10);
    assert!(large[0]["annotations"].as_array().unwrap().len() <= 32);
    // 20 spans of this size are more than 64 KiB.
    let limited = async || metric(host.admin, &counted("limit")).await;
    eventually("some are over the limit", async || limited().await > 72.0).await;
}

/// Without a trace there are no spans, and the context is one that OpenTelemetry considers invalid.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_trace_nothing_is_recorded() {
    let plain = host(&["spans"]).start().await;
    let outer = plain.get("/spans/tree").await.text();
    assert_eq!(outer, format!("{} {} false ", "0".repeat(32), "0".repeat(16)));
    let metrics = get(plain.admin, "/metrics").await.text();
    assert!(!metrics.contains("lodge_guest_spans_total{service=\"spans\""), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_records_are_lines_and_metrics_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(wasm("spans"), directory.path().join("spans.wasm")).unwrap();
    let process = Process::serve(directory.path(), &[]).await;
    for number in [9, 17] {
        assert_eq!(get(process.address, &format!("/spans/log?{number}")).await.status, 200);
    }
    assert_eq!(get(process.address, "/spans/metrics?3").await.status, 200);
    until("the lines are there", || process.log().contains("denied metrics of the guest")).await;
    let log = process.log();
    let levels: Vec<_> = log
        .lines()
        .filter(|line| line.contains("a body user=7"))
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    assert_eq!((levels, log.matches("denied metrics").count()), (vec!["INFO", "ERROR"], 1), "{log}");
    until_metric(process.admin, "lodge_guest_metrics_dropped_total{service=\"spans\"}", 3).await;
}
