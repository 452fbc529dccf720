//! Promise: requests for a response that is being fetched wait for that fetch if the response may be stored, and are
//! sent on otherwise.

use std::time::Duration;

use crate::caching::reuse::{KEPT, cacheable, get_owned, how, metric, outcomes};
use crate::harness::{Process, until, wasm, within};

/// A hundred clients at once are one request, whether its answer comes at once or in parts.
#[tokio::test(flavor = "multi_thread")]
async fn one_for_all() {
    let host = cacheable().start().await;
    for slow in ["&wait=300", "&size=64&pause=60"] {
        let sandboxes = metric(&host, "lodge_instantiation_seconds_count", "").await;
        let path = format!("{KEPT}{slow}");
        let asking: Vec<_> = (0..100).map(|_| tokio::spawn(get_owned(host.address, path.clone()))).collect();
        let mut answers = Vec::new();
        for asked in asking {
            answers.push(within(asked).await.unwrap());
        }
        assert!(answers.iter().all(|answer| answer.status == 200 && answer.text() == answers[0].text()), "{path}");
        assert_eq!(metric(&host, "lodge_instantiation_seconds_count", "").await, sandboxes + 1, "{path}");
    }
    assert_eq!(outcomes(&host, "miss").await, 2);
    assert!(outcomes(&host, "collapsed").await > 0);
}

/// The line of a request that waited for another's answer says so, and that no guest was at work on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_is_told_as_one() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(wasm("cacheable"), directory.path().join("cacheable.wasm")).unwrap();
    std::fs::write(directory.path().join("cacheable.toml"), "cache = true").unwrap();
    let process = Process::serve(directory.path(), &["--log-format", "json", "--log-requests", "on"]).await;
    let asking: Vec<_> = (0..5).map(|_| tokio::spawn(get_owned(process.address, format!("{KEPT}&wait=500")))).collect();
    for asked in asking {
        assert_eq!(within(asked).await.unwrap().status, 200);
    }
    let requests = || -> Vec<serde_json::Value> {
        let lines = process.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect::<Vec<_>>();
        lines.into_iter().filter(|line: &serde_json::Value| line["target"] == "request").collect()
    };
    until("every line is there", || requests().len() >= 5).await;
    let waited = |line: &serde_json::Value| {
        line["queue_ms"].as_f64().is_some_and(|ms| ms > 100.0) && line["instantiate_ms"].is_null()
    };
    assert!(requests().iter().any(waited), "{:#?}", requests());
}

/// Answers that cannot be kept keep nobody waiting: clients who ask at once are answered at once.
#[tokio::test(flavor = "multi_thread")]
async fn no_queue_for_what_cannot_be_kept() {
    let host = cacheable().start().await;
    for path in
        ["/cacheable?cache-control=no-store&wait=300", "/cacheable?status=500&cache-control=max-age%3D60&wait=300"]
    {
        let start = std::time::Instant::now();
        let asking: Vec<_> = (0..20).map(|_| tokio::spawn(get_owned(host.address, path.to_owned()))).collect();
        for asked in asking {
            within(asked).await.unwrap();
        }
        // One wait for the first, and one together; in a row it would be six seconds.
        assert!(start.elapsed() < Duration::from_secs(3), "{path}: {:?}", start.elapsed());
    }
}

/// A client that asks first and leaves takes nobody with it.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_may_leave() {
    let host = cacheable().start().await;
    let path = format!("{KEPT}&wait=1500");
    let first = tokio::spawn(get_owned(host.address, path.clone()));
    let begun = || host.current.snapshot().target("cacheable").unwrap().admission.in_flight() == 1;
    until("the first is at work", begun).await;
    let second = tokio::spawn(get_owned(host.address, path.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    first.abort();
    let answer = within(second).await.unwrap();
    assert_eq!(
        (answer.status, how(&answer).as_str()),
        (200, "lodge; fwd=miss; stored"),
        "it went in the first's place"
    );
    assert_eq!(host.get(&path).await.text(), answer.text());
}
