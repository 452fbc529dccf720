//! Promise: what a guest does on the state of its service, and each message that it sends, is a span below its own, which contains
//! none of its data.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;

use super::traces::{Collector, TRACE, traceparent};
use crate::harness::{Connection, PATIENCE, Response, Setup, TestHost, host, until};

/// A host that exports every span soon.
pub(crate) async fn traced(setup: Setup, collector: &Collector) -> TestHost {
    let endpoint = format!("http://{}", collector.address);
    let setup = setup.set("traces.exporter", "zipkin").set("traces.endpoint", &endpoint);
    setup.set("traces.delay", "20ms").start().await
}

/// Sends a request that is part of the trace.
pub(crate) async fn ask(host: &TestHost, path: &str) -> Response {
    let sent = traceparent("01");
    let headers = [("traceparent", sent.as_str()), ("host", "localhost")];
    Connection::http1(host.address).await.ask(Method::GET, path, &headers, "").await
}

/// The spans of operations, by the beginning of their names, when `count` of them and as many guests' spans have arrived.
async fn operations(collector: &Collector, beginning: &str, count: usize) -> Vec<Value> {
    let of_operations = || {
        let spans = collector.spans().into_iter();
        spans.filter(|span| span["name"].as_str().unwrap().starts_with(beginning)).collect::<Vec<_>>()
    };
    until("the operations have arrived", || of_operations().len() >= count).await;
    let guests = || collector.spans().into_iter().filter(|span| span["name"] == "guest").collect::<Vec<_>>();
    let of_guest = |span: &Value| guests().iter().any(|guest| guest["id"] == span["parentId"]);
    until("their guests have arrived", || of_operations().iter().all(of_guest)).await;
    let mut all = of_operations();
    assert!(all.iter().all(|span| span["traceId"] == TRACE), "{all:#?}");
    all.sort_by_key(|span| span["timestamp"].as_u64());
    all
}

fn errors(spans: &[Value]) -> Vec<Option<&str>> {
    spans.iter().map(|span| span["tags"]["error.type"].as_str()).collect()
}

/// With the bucket, and without key and value.
#[tokio::test(flavor = "multi_thread")]
async fn of_stores() {
    let collector = Collector::start().await;
    let host = traced(host(&["keyvalue"]).manifest("keyvalue", "keyvalue.keys = 1"), &collector).await;
    for key in ["canary-key", "canary-other"] {
        ask(&host, &format!("/keyvalue/draft2/set/sessions/{key}?canary-value")).await;
    }
    let spans = operations(&collector, "state.", 2).await;
    assert_eq!(errors(&spans), [None, Some("quota")]);
    for span in &spans {
        assert_eq!((&span["name"], &span["kind"]), (&"state.set".into(), &"CLIENT".into()));
        assert_eq!(span["tags"]["db.collection.name"], "sessions");
        assert_eq!(span["tags"]["lodge.service"], "keyvalue");
        assert!(!span.to_string().contains("canary-"), "{span}");
    }
}

/// With the container, and without the names of objects.
#[tokio::test(flavor = "multi_thread")]
async fn of_objects() {
    let collector = Collector::start().await;
    let setup = host(&["blobs", "blobs3"]).manifest("blobs", "blobstore = true").manifest("blobs3", "blobstore = true");
    let host = traced(setup, &collector).await;
    for (number, service) in ["blobs", "blobs3"].into_iter().enumerate() {
        for at in ["create/photos", "put/photos/canary-name", "get/photos/canary-name", "get/photos/canary-other"] {
            ask(&host, &format!("/{service}/{at}")).await;
        }
        let spans = operations(&collector, "blob.", 7 * (number + 1)).await;
        let spans: Vec<_> = spans.into_iter().filter(|span| span["tags"]["lodge.service"] == service).collect();
        let names: Vec<_> = spans.iter().map(|span| span["name"].as_str().unwrap()).collect();
        let container = "blob.container";
        let reads = [container, "blob.read", container, "blob.read"];
        assert_eq!(names, [&["blob.create_container", container, "blob.write"][..], &reads].concat());
        assert_eq!(errors(&spans)[5..], [None, Some("absent")]);
        for span in &spans {
            assert_eq!((&span["kind"], &span["tags"]["db.collection.name"]), (&"CLIENT".into(), &"photos".into()));
            assert!(!span.to_string().contains("canary-"), "{span}");
        }
    }
}

/// Without the name of the lock, which may be that of a user. A lock that another request has is no error.
#[tokio::test(flavor = "multi_thread")]
async fn of_locks() {
    let collector = Collector::start().await;
    let host = traced(host(&["locker"]).manifest("locker", "keyvalue = true\nlock = true"), &collector).await;
    assert_eq!(ask(&host, "/locker/exclusive/canary-name?1000,0").await.status, 200);
    let spans = operations(&collector, "lock.", 2).await;
    let names: Vec<_> = spans.iter().map(|span| span["name"].as_str().unwrap()).collect();
    assert_eq!((names, errors(&spans)), (vec!["lock.acquire", "lock.release"], vec![None, None]));
    assert!(spans.iter().all(|span| span["kind"] == "CLIENT" && span["tags"]["lodge.service"] == "locker"));
    // Longer than any name may be.
    assert_eq!(ask(&host, "/locker/long/x?10000,0").await.status, 500);
    let spans = operations(&collector, "lock.", 3).await;
    assert_eq!(errors(&spans), [None, None, Some("too-large")]);
    assert!(!spans.iter().any(|span| span.to_string().contains("canary-name")));
}

/// With the database, and without statement and values.
#[tokio::test(flavor = "multi_thread")]
async fn of_databases() {
    let collector = Collector::start().await;
    let host = traced(host(&["sqlite"]).manifest("sqlite", "sqlite = true"), &collector).await;
    assert_eq!(ask(&host, "/sqlite/v3/default?SELECT%20%27canary-value%27").await.status, 200);
    assert_eq!(ask(&host, "/sqlite/v3/default?SELECT%20canary-column").await.status, 500);
    let spans = operations(&collector, "sql.", 2).await;
    assert_eq!(errors(&spans), [None, Some("failed")]);
    for span in &spans {
        assert_eq!((&span["name"], &span["kind"]), (&"sql.execute".into(), &"CLIENT".into()));
        assert_eq!(
            (&span["tags"]["db.system.name"], &span["tags"]["db.namespace"]),
            (&"sqlite".into(), &"default".into())
        );
        assert!(!span.to_string().contains("canary-"), "{span}");
    }
}

/// With the subject, and without the body. The consumer's request is a child of the span of its message.
#[tokio::test(flavor = "multi_thread")]
async fn of_messages() {
    let collector = Collector::start().await;
    let setup =
        host(&["publisher"]).manifest("publisher", "publish = ['ask.*', 'nobody']").named("publisher", "answers");
    let setup = setup.manifest("answers", "publish = 'ask.*'\n[consume]\nsubject = 'ask.*'");
    let host = traced(setup, &collector).await;
    // Until its consumer has subscribed, a message is refused. This request is in no trace that is recorded.
    let start = Instant::now();
    let unsampled = [("traceparent", traceparent("00")), ("host", "localhost".into())];
    let unsampled = unsampled.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut client = Connection::http1(host.address).await;
    while client.ask(Method::GET, "/publisher/publish/ask.first?x", &unsampled, "").await.status != 200 {
        assert!(start.elapsed() < PATIENCE, "nobody consumes");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(ask(&host, "/publisher/publish/ask.this?canary-body").await.status, 200);
    assert_eq!(ask(&host, "/publisher/publish/nobody?canary-body").await.status, 500);
    assert_eq!(ask(&host, "/publisher/request/ask.that?canary-body").await.status, 200);
    assert_eq!(ask(&host, "/publisher/request/ask.late?canary-body").await.status, 500);
    let spans = operations(&collector, "message.", 4).await;
    let names: Vec<_> = spans.iter().map(|span| span["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["message.publish", "message.publish", "message.request", "message.request"]);
    assert_eq!(errors(&spans), [None, Some("no-consumer"), None, Some("timeout")]);
    for (span, subject) in spans.iter().zip(["ask.this", "nobody", "ask.that", "ask.late"]) {
        let kind = if span["name"] == "message.publish" { "PRODUCER" } else { "CLIENT" };
        assert_eq!((&span["kind"], &span["tags"]["messaging.destination.name"]), (&kind.into(), &subject.into()));
        assert!(!span["tags"].to_string().contains("canary-"), "{span}");
    }
    for (span, subject) in [(&spans[0], "ask.this"), (&spans[2], "ask.that")] {
        let received = || {
            let path = format!("/messages/{subject}");
            let servers = collector.spans().into_iter().filter(|span| span["kind"] == "SERVER");
            servers.filter(|server| server["tags"]["url.path"] == path).collect::<Vec<_>>()
        };
        until("the message was received", || !received().is_empty()).await;
        assert_eq!((&received()[0]["parentId"], &received()[0]["traceId"]), (&span["id"], &TRACE.into()));
    }
}
