//! Promise: dead messages that are kept with a service are listed with the reason, read, retried and dropped, by commands and by the API.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use serde_json::Value;

use super::consume::{publish, publish_at};
use crate::harness::{Process, TestHost, Worker, host, lodge, output, until, until_metric, wasm};

fn dead(host: &TestHost, args: &[&str]) -> (Option<i32>, String, String) {
    let admin = host.admin.to_string();
    output(&mut lodge(&[&["data", "dead", "worker", "--admin", &admin], args].concat()))
}

fn done(host: &TestHost, args: &[&str]) -> String {
    let (code, stdout, stderr) = dead(host, args);
    assert_eq!(code, Some(0), "{args:?}: {stdout} {stderr}");
    stdout
}

/// The dead messages, as the API has them.
fn listed(host: &TestHost) -> Vec<Value> {
    let page: Value = serde_json::from_str(&done(host, &["--json"])).unwrap();
    page["messages"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_why_messages_are_dead_and_retry_them() {
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = Arc::clone(&mended);
    let worker = Worker::start(move |delivered| {
        let status = match &*delivered.body {
            _ if is_mended.load(Relaxed) => 204,
            "invalid" => 422,
            _ => 500,
        };
        (status, Duration::ZERO)
    });
    let worker = worker.await;
    let manifest = format!("[consume]\nsubject = 'work.>'\nmax_deliver = 2\npause = '10ms'\n{}", worker.upstream());
    let host = host(&["publisher", "hello"]).manifest("publisher", "publish = '>'").manifest("worker", &manifest);
    let host = host.start().await;
    publish(&host, "work.a", "invalid").await;
    until("it is dead", || listed(&host).len() == 1).await;
    for (subject, body) in [("work.b", "two"), ("work.b", "three"), ("work.c", "four")] {
        publish(&host, subject, body).await;
    }
    until("all are dead", || listed(&host).len() == 4).await;
    let all = listed(&host);
    for (message, (subject, deliveries, error)) in all.iter().zip([
        ("work.a", 1, "status 422"),
        ("work.b", 2, "status 500"),
        ("work.b", 2, "status 500"),
        ("work.c", 2, "status 500"),
    ]) {
        assert_eq!(
            (&message["deliveries"], &message["error"]),
            (&Value::from(deliveries), &Value::from(error)),
            "{all:?}"
        );
        assert!(message["subject"].as_str().unwrap().starts_with("work.") && message["died"].is_string(), "{message}");
        assert!(subject.len() == 6 && message["bytes"].as_u64().unwrap() >= 9, "{message}");
    }
    let table = done(&host, &[]);
    assert!(table.starts_with("ID ") && table.contains("LAST ERROR") && table.contains("status 422"), "{table}");
    let message = all[0]["message_id"].as_str().unwrap();
    assert!(table.contains("MESSAGE ID") && table.contains(message), "{table}");

    // The content of one.
    let id = all[0]["id"].as_str().unwrap();
    assert_eq!(done(&host, &[id]), "invalid\n");
    assert_eq!(done(&host, &[id, "--raw"]), "invalid");
    let known = dead(&host, &[id]).2;
    let expected = [format!("message {message} to work.a; it died "), "after 1 delivery: status 422".into()];
    assert!(expected.iter().all(|part| known.contains(part)), "{known}");
    let content: Value = serde_json::from_str(&done(&host, &[id, "--json"])).unwrap();
    assert_eq!((&content["body"], &content["subject"]), (&Value::from("aW52YWxpZA=="), &Value::from("work.a")));
    for (args, why) in [
        (&["nowhere"][..], "no such dead message"),
        (&["nowhere", "--drop"], "no such dead message"),
        (&["--drop"], "write --all"),
        (&["--all"], "write --retry or --drop"),
    ] {
        let (code, _, stderr) = dead(&host, args);
        assert!(code != Some(0) && stderr.contains(why), "{args:?}: {stderr}");
    }
    let admin = host.admin.to_string();
    let (code, _, stderr) = output(&mut lodge(&["data", "dead", "hello", "--admin", &admin]));
    assert!(code != Some(0) && stderr.contains("its manifest has no [consume]"), "{stderr}");

    // One is dropped, one is retried and dies again, and all are retried when the service is mended.
    assert_eq!(done(&host, &[id, "--drop"]), "worker: dropped 1; 3 are left\n");
    let second = listed(&host)[0]["id"].as_str().unwrap().to_owned();
    let before = worker.delivered().len();
    assert_eq!(done(&host, &[&second, "--retry"]), "worker: retried 1; 2 are left\n");
    until("it is dead again", || listed(&host).len() == 3).await;
    assert_eq!(worker.delivered().len(), before + 2, "it is delivered as often as before");
    mended.store(true, Relaxed);
    assert_eq!(done(&host, &["--retry", "--all"]), "worker: retried 3; 0 are left\n");
    until_metric(host.admin, "lodge_messages_delivered_total{service=\"worker\",outcome=\"acknowledged\"}", 3).await;
    assert_eq!(done(&host, &["--drop", "--all"]), "worker: dropped 0; 0 are left\n");
    let bodies = worker.bodies().split_off(before + 2);
    for body in ["two", "three", "four"] {
        assert!(bodies.iter().any(|delivered| delivered == body), "{bodies:?}");
    }
}

/// The reason of a failure is there where the host knows it, with the id of the request that has more in the log.
#[tokio::test(flavor = "multi_thread")]
async fn the_reason_and_the_ids_are_told() {
    let directory = tempfile::tempdir().unwrap();
    for (name, manifest) in
        [("panic", "[consume]\nsubject = 'work.>'\nmax_deliver = 1\n"), ("publisher", "publish = '>'\n")]
    {
        std::fs::copy(wasm(name), directory.path().join(format!("{name}.wasm"))).unwrap();
        std::fs::write(directory.path().join(format!("{name}.toml")), manifest).unwrap();
    }
    let process = Process::serve(directory.path(), &["--log-format", "json"]).await;
    publish_at(process.address, "work.a", "x").await;
    let died = || {
        let lines = process.log();
        let events = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.into_iter().find(|event| event["message"].as_str().is_some_and(|text| text.contains(" is dead after ")))
    };
    until("the log says so", || died().is_some()).await;
    let (event, admin) = (died().unwrap(), process.admin.to_string());
    let (code, stdout, stderr) = output(&mut lodge(&["data", "dead", "panic", "--admin", &admin, "--json"]));
    assert_eq!(code, Some(0), "{stderr}");
    let entry = serde_json::from_str::<Value>(&stdout).unwrap()["messages"][0].clone();
    assert_eq!(entry["error"], "status 502 (trapped)", "{entry}");
    let id = entry["message_id"].as_str().unwrap();
    let expected = format!(
        "message {id} to work.a is dead after 1 delivery to panic: status 502 (trapped); see `lodge data dead panic`"
    );
    assert_eq!(event["message"], *expected, "{event}");
    let request = event["request_id"].as_str().unwrap().to_owned();
    let failed = |line: &str| line.contains(&request) && line.contains("trapped") && line.contains("panicked at");
    until("its failure has the same id", || process.log().lines().any(failed)).await;
}
