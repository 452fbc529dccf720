//! Promise: a guest publishes to the subjects that its manifest lists, to no others, and gets the replies to its requests.

use crate::harness::{TestHost, host, until_metric};

async fn run(host: &TestHost, path: &str) -> (u16, String) {
    let answer = host.get(&format!("/publisher/{path}")).await;
    (answer.status, answer.text())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_granted() {
    let manifest = "publish = ['orders.*']";
    let host = host(&["publisher"]).manifest("publisher", manifest).named("publisher", "other").start().await;
    // Nobody consumes it, so it would be lost.
    let (status, text) = run(&host, "publish/orders.created?x").await;
    assert_eq!((status, text.contains("no service consumes orders.created")), (500, true), "{text}");
    for subject in ["payments.created", "orders.a.b", "orders"] {
        let (status, text) = run(&host, &format!("publish/{subject}?x")).await;
        let grant = format!("add `publish = [\"{subject}\"]` to publisher.toml");
        assert!(status == 500 && text.contains(&grant), "{text}");
        let (status, text) = run(&host, &format!("request/{subject}?x")).await;
        assert!(status == 500 && text.contains(&grant), "{text}");
    }
    for subject in ["", "orders.*", "a%20b", "orders..x"] {
        let (status, text) = run(&host, &format!("publish/{subject}?x")).await;
        assert!(status == 500 && text.contains("the subject is not"), "{subject}: {text}");
    }
    let answer = host.get("/other/publish/orders.created?x").await;
    assert!(answer.status == 500 && answer.text().contains("add `publish = [\"orders.created\"]` to other.toml"));
    let lost = "lodge_messages_published_total{service=\"publisher\",outcome=\"no-consumer\"}";
    until_metric(host.admin, lost, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_get_replies() {
    let answers = "publish = 'ask.*'\n[consume]\nsubject = 'ask.*'\n[limits]\ncall_depth = 3";
    let host = host(&["publisher"])
        .manifest("publisher", "publish = ['ask.*', 'nobody']")
        .named("publisher", "answers")
        .manifest("answers", answers)
        .start()
        .await;
    assert_eq!(run(&host, "request/ask.this?x").await, (200, "response: x".into()));
    assert_eq!(run(&host, "request/ask.inbox?x").await, (200, "inbox: x".into()));
    let error = async |path: &str, expected: &str| {
        let (status, text) = run(&host, path).await;
        assert!(status == 500 && text.contains(expected), "{path}: {text}");
    };
    error("request/ask.nobody?x", "without a reply").await;
    error("request/nobody?x", "no service consumes nobody").await;
    error("request/ask.late?x", "no reply in time").await;
    // A request of the consumer to itself neither waits for itself nor goes on for ever.
    error("request/ask.self?x", "answers responded with 500").await;
    // An inbox that nobody waits at.
    error("publish/_INBOX.00?x", "has ended").await;
}
