//! Promise: the API, the commands and the page show the state of a rollout, and which replicas fail.

use serde_json::Value;

use super::api_contract::Contract;
use crate::harness::far::manifest;
use crate::harness::{Habit, Replica, TestHost, eventually, get, host, lodge, output, until, wasm, within};

/// The output of a command against this host.
fn told(host: &TestHost, args: &[&str]) -> String {
    let (code, stdout, stderr) = output(lodge(args).args(["--admin", &host.admin.to_string()]));
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{args:?}: {stdout}");
    stdout
}

/// Returns the details of a service, after a check that they are what the API documents.
async fn details(host: &TestHost, name: &str) -> Value {
    let response = get(host.admin, &format!("/v1/services/{name}")).await;
    Contract::of(host).await.check_response("get", "/v1/services/{name}", &response);
    serde_json::from_slice(&response.body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_is_shown() {
    let hello = std::fs::read(wasm("hello")).unwrap();
    let host = host(&["hello"])
        .manifest("hello", "sticky = 'cookie:sid'")
        .file("hello@2.wasm", &hello)
        .manifest("hello@2", "percent = 10\nmatch = ['header:x-version=2']\nmirror = 5\nrollback.errors = 2")
        .start()
        .await;
    assert_eq!(host.refusals(), Vec::<String>::new());
    let gets =
        "  gets          10 %, header:x-version=2; mirror 5 %; rollback errors +2 %, p99 ×1.5, from 100 requests\n";
    let version = told(&host, &["inspect", "hello@2"]);
    assert!(version.contains(gets) && version.contains("  answers at    2.hello.localhost\n"), "{version}");
    let service = told(&host, &["inspect", "hello"]);
    assert!(service.contains("  versions      hello@2 10 %\n  sticky        cookie:sid\n"), "{service}");
    let list = told(&host, &["ps"]);
    assert!(list.lines().any(|line| line.starts_with("hello@2 ") && line.contains("   serving 10%   ")), "{list}");
    let share = &details(&host, "hello@2").await["share"];
    assert_eq!((&share["percent"], &share["rollback"]["errors"]), (&10.0.into(), &2.0.into()));
    let beside = serde_json::json!([{ "name": "hello@2", "percent": 10.0, "state": "serving" }]);
    assert_eq!(details(&host, "hello").await["versions"], beside);
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_replicas_are_shown() {
    let replicas = [Replica::start("a").await, Replica::start("b").await];
    let [a, b] = &replicas;
    let checked =
        "health = { path = '/', interval = '1s', timeout = '1s', unhealthy = 1 }\nejection = { failures = 2 }";
    let host = host(&[])
        .manifest(
            "far",
            &format!("routes = [{{ path = '/far', strip_prefix = true }}]\n{}", manifest(&[a, b], checked)),
        )
        .manifest("lost", "[upstream]\nreplicas_file = 'lost.list'")
        .start()
        .await;
    a.set(Habit::Describe);
    b.set(Habit::Describe);
    let path = within(host.get("/far/x")).await.text();
    assert!(path.starts_with("GET /x HTTP/1.1"), "{path}");
    let all = told(&host, &["inspect", "far"]);
    assert!(all.contains("  state         serving; 2 of 2 replicas available\n"), "{all}");
    for line in
        ["policy least-in-flight, ", "read 10s", "health: ", "path /, ", "timeout 1s", "ejection: ", "failures 2"]
    {
        assert!(all.contains(line), "{line:?} is not in\n{all}");
    }
    assert!(all.contains("in_flight 256") && !all.contains("warm_uses") && !all.contains("128.0 MiB"), "{all}");
    // One of them refuses connections now.
    a.set(Habit::Refuse);
    until("the replica is shown as down", || crate::harness::far::state(&host, a) == "down").await;
    let one = told(&host, &["inspect", "far"]);
    let line = one
        .lines()
        .find(|line| line.contains(&format!("http://{}  down: ", a.address)))
        .unwrap_or_else(|| panic!("{one}"));
    assert!(line.contains("weight 1, 0 in flight") && line.matches("http://").count() == 1, "{line}");
    let list = told(&host, &["ps"]);
    assert!(list.contains("serving 1/2"), "{list}");
    let seen = &details(&host, "far").await["replicas"][0];
    assert!(seen["why"].as_str().is_some_and(|why| !why.is_empty()) && seen["until"].is_null(), "{seen}");
    // The replicas of the other service are unknown.
    let lost = told(&host, &["inspect", "lost"]);
    assert!(lost.contains("  replicas      none: lost.list: No such file"), "{lost}");
    assert!(!lost.contains("machine code"), "{lost}");
    assert!(list.contains("down 0/0"), "{list}");
    let directory = host.directory().display().to_string();
    let (_, checked, _) = output(&mut lodge(&["check", &directory]));
    assert!(
        checked.contains(&format!("  replicas    http://{}\n", a.address)) && !checked.contains("exports"),
        "{checked}"
    );
    assert!(checked.contains("  replicas    lost.list: No such file"), "{checked}");
}

/// A service whose requests fail is not shown as serving.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_service_is_shown() {
    let host = host(&["trap", "hello"]).start().await;
    for _ in 0..5 {
        assert!(told(&host, &["ps"]).lines().any(|line| line.starts_with("trap ") && line.contains("   serving   ")));
        assert_eq!(host.get("/trap").await.status, 502);
    }
    eventually("all are counted", async || details(&host, "trap").await["errors"] == 5).await;
    let list = told(&host, &["ps"]);
    assert!(list.lines().any(|line| line.starts_with("trap ") && line.contains("   failing   ")), "{list}");
    assert!(list.lines().any(|line| line.starts_with("hello ") && line.contains("   serving   ")), "{list}");
}

/// An ejected replica is shown with the reason and the end of the ejection.
#[tokio::test(flavor = "multi_thread")]
async fn an_ejected_replica_is_shown() {
    let (a, b) = (Replica::start("a").await, Replica::start("b").await);
    let host = crate::harness::far::before(&[&a, &b], "ejection = { failures = 1, base = '1m' }").start().await;
    a.set(Habit::Status(503));
    for _ in 0..100 {
        assert_eq!(within(host.get("/far")).await.status, 200, "the other replica responds");
    }
    let text = told(&host, &["inspect", "far"]);
    let line = text.lines().find(|line| line.contains("ejected until 2")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("it responded with 503"), "{line}");
    let seen = details(&host, "far").await["replicas"][0].clone();
    assert!(seen["until"].as_str().is_some_and(|until| until.ends_with('Z')), "{seen}");
}
