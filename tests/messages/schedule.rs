//! Promise: a service with `[schedule]` is called when it is due: once, one call at a time, and missed calls are counted.

use std::net::SocketAddr;
use std::time::Duration;

use crate::harness::{Process, Worker, eventually, get, host, metric, until};

fn every_second(worker: &Worker) -> String {
    format!("[schedule]\ncron = '* * * * * *'\npath = '/tick?x'\n{}", worker.upstream())
}

/// The number of calls with this outcome.
async fn calls(admin: SocketAddr, outcome: &str) -> f64 {
    metric(admin, &format!("lodge_schedule_calls_total{{service=\"worker\",outcome=\"{outcome}\"}}")).await
}

async fn counted(admin: SocketAddr, outcome: &str) {
    eventually(&format!("a call is {outcome}"), async || calls(admin, outcome).await >= 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_called_when_it_is_due() {
    let worker = Worker::with(200).await;
    let host = host(&[]).manifest("worker", &every_second(&worker)).start().await;
    until("it is called", || worker.delivered().len() >= 3).await;
    let times: Vec<_> = worker
        .delivered()
        .iter()
        .map(|call| {
            assert!(call.head.starts_with("POST /tick?x HTTP/1.1"), "{}", call.head);
            call.header("schedule-time").unwrap().to_owned()
        })
        .collect();
    assert!(times.is_sorted_by(|one, next| one < next), "each time once: {times:?}");
    assert!(times[0].ends_with('Z'), "{times:?}");
    counted(host.admin, "ok").await;
    // While it is disabled, nothing is called, and nothing is wrong.
    let service = host.current.snapshot().target("worker").unwrap().deployment().service.clone();
    service.set_disabled(true);
    let outcomes = async || {
        let mut all = Vec::new();
        for outcome in ["failed", "missed", "overlapped"] {
            all.push(calls(host.admin, outcome).await);
        }
        all
    };
    let (before, counted) = (worker.delivered().len(), outcomes().await);
    tokio::time::sleep(Duration::from_millis(2200)).await;
    assert!(worker.delivered().len() <= before + 1, "one may have begun");
    assert_eq!(outcomes().await, counted);
    service.set_disabled(false);
    until("it is called again", || worker.delivered().len() >= before + 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_do_not_overlap_and_failures_are_counted() {
    let worker = Worker::start(|_| (500, Duration::from_millis(2500))).await;
    let host = host(&[]).manifest("worker", &every_second(&worker)).start().await;
    counted(host.admin, "overlapped").await;
    until("it is called again", || worker.delivered().len() >= 2).await;
    assert!(worker.delivered().iter().all(|call| call.concurrent == 1));
    counted(host.admin, "failed").await;
    let details = get(host.admin, "/v1/services/worker").await.body;
    let details: serde_json::Value = serde_json::from_slice(&details).unwrap();
    let schedule = &details["schedules"][0];
    assert_eq!(
        (&schedule["path"], schedule["failed"].as_u64().map(|count| count > 0)),
        (&"/tick?x".into(), Some(true))
    );
    assert!(schedule["next"].is_string() && schedule["last"]["at"].is_string(), "{schedule}");
    let last = (schedule["last"]["outcome"].as_str().unwrap(), schedule["last"]["status"].as_u64());
    assert!([("failed", Some(500)), ("overlapped", None)].contains(&last), "{schedule}");
}

/// A call that runs while its schedule is edited counts for the new text, whether that has another time or another path.
#[tokio::test(flavor = "multi_thread")]
async fn an_edited_schedule_does_not_overlap_itself() {
    let worker = Worker::start(|_| (200, Duration::from_millis(2500))).await;
    let host = host(&[]).manifest("worker", &every_second(&worker)).start().await;
    let edits = [("* * * * * *", "/tock"), ("*/2 * * * * *", "/tock"), ("* * * * * *", "/tick?y")];
    for (round, (cron, path)) in edits.into_iter().enumerate() {
        until("it is called", || worker.delivered().len() > round).await;
        let before = calls(host.admin, "overlapped").await;
        host.edit("worker", &format!("[schedule]\ncron = '{cron}'\npath = '{path}'\n{}", worker.upstream())).await;
        eventually("a call overlaps", async || calls(host.admin, "overlapped").await > before).await;
        let head = format!("POST {path} ");
        let is_called = || worker.delivered().iter().skip(round + 1).any(|call| call.head.starts_with(&head));
        until("the new one is called", is_called).await;
    }
    assert!(worker.delivered().iter().all(|call| call.concurrent == 1));
}

/// A schedule whose call takes long keeps another one of the same service from nothing.
#[tokio::test(flavor = "multi_thread")]
async fn schedules_of_a_service_do_not_wait_for_each_other() {
    let worker = Worker::start(|call| {
        let slow = call.head.starts_with("POST /slow ");
        (200, if slow { Duration::from_secs(20) } else { Duration::ZERO })
    })
    .await;
    let schedule = |path: &str| format!("[[schedule]]\ncron = '* * * * * *'\npath = '{path}'\n");
    let manifest = schedule("/slow") + &schedule("/tick?x") + &schedule("/tick") + &worker.upstream();
    let host = host(&[]).manifest("worker", &manifest).start().await;
    let times = |path: &str| {
        let calls = worker.delivered();
        let of_path = calls.iter().filter(|call| call.head.starts_with(&format!("POST {path} ")));
        of_path.map(|call| call.header("schedule-time").unwrap().to_owned()).collect::<Vec<_>>()
    };
    counted(host.admin, "overlapped").await;
    until("both are called", || times("/tick?x").len() >= 3 && times("/tick").len() >= 3).await;
    assert_eq!(times("/slow").len(), 1);
    for path in ["/tick?x", "/tick"] {
        assert!(times(path).is_sorted_by(|one, next| one < next), "each time once: {:?}", times(path));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missed_calls_are_told() {
    let worker = Worker::with(200).await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("worker.toml"), every_second(&worker)).unwrap();
    let process = Process::serve(directory.path(), &[]).await;
    until("it is called", || !worker.delivered().is_empty()).await;
    drop(process);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let process = Process::serve(directory.path(), &[]).await;
    until("they are counted", || process.log().contains(" missed: no host ran this schedule then")).await;
    counted(process.admin, "missed").await;
}

#[cfg(feature = "redis")]
#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_make_each_call_once() {
    let Some(redis) = crate::state::servers::with_redis::Redis::start() else { return };
    let worker = Worker::with(200).await;
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let url = redis.url();
    let mut processes = Vec::new();
    for directory in &directories {
        std::fs::write(directory.path().join("worker.toml"), every_second(&worker)).unwrap();
        processes.push(Process::serve(directory.path(), &["--state-url", &url]).await);
    }
    let before = worker.delivered().len();
    until("it is called", || worker.delivered().len() >= before + 5).await;
    let times: Vec<_> =
        worker.delivered().iter().map(|call| call.header("schedule-time").unwrap().to_owned()).collect();
    let mut unique = times.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), times.len(), "{times:?}");
}
