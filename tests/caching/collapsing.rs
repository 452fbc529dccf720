//! Promise: requests for a response that is being fetched wait for that fetch if the response may be stored, and
//! otherwise go to the service.

use std::time::Duration;

use crate::caching::reuse::{KEPT, cacheable, get_owned, how, metric, outcomes};
use crate::harness::{Process, until, wasm, within};

/// A hundred concurrent clients cause one request, whether its response arrives at once or in parts.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_are_collapsed() {
    let host = cacheable().start().await;
    for slow in ["&wait=300", "&size=64&pause=60"] {
        let sandboxes = metric(&host, "lodge_instantiation_seconds_count", "").await;
        let path = format!("{KEPT}{slow}");
        let asking: Vec<_> = (0..100).map(|_| tokio::spawn(get_owned(host.address, path.clone()))).collect();
        let mut responses = Vec::new();
        for asked in asking {
            responses.push(within(asked).await.unwrap());
        }
        assert!(
            responses.iter().all(|response| response.status == 200 && response.text() == responses[0].text()),
            "{path}"
        );
        assert_eq!(metric(&host, "lodge_instantiation_seconds_count", "").await, sandboxes + 1, "{path}");
    }
    assert_eq!(outcomes(&host, "miss").await, 2);
    assert!(outcomes(&host, "collapsed").await > 0);
}

/// The log line of a request that waited for the response to another one says so, and that no guest handled it.
#[tokio::test(flavor = "multi_thread")]
async fn a_collapsed_request_is_logged_as_such() {
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
    until("all lines are logged", || requests().len() >= 5).await;
    let waited = |line: &serde_json::Value| {
        line["queue_ms"].as_f64().is_some_and(|ms| ms > 100.0) && line["instantiate_ms"].is_null()
    };
    assert!(requests().iter().any(waited), "{:#?}", requests());
}

/// Requests for responses that cannot be stored do not wait for one another.
#[tokio::test(flavor = "multi_thread")]
async fn uncacheable_responses_are_not_waited_for() {
    let host = cacheable().start().await;
    for path in
        ["/cacheable?cache-control=no-store&wait=300", "/cacheable?status=500&cache-control=max-age%3D60&wait=300"]
    {
        let start = std::time::Instant::now();
        let asking: Vec<_> = (0..20).map(|_| tokio::spawn(get_owned(host.address, path.to_owned()))).collect();
        for asked in asking {
            within(asked).await.unwrap();
        }
        // One wait for the first response, and one for all others; in sequence it would be six seconds.
        assert!(start.elapsed() < Duration::from_secs(3), "{path}: {:?}", start.elapsed());
    }
}

/// When the client that causes the fetch leaves, the other clients still get a response.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_client_can_leave() {
    let host = cacheable().start().await;
    let path = format!("{KEPT}&wait=1500");
    let first = tokio::spawn(get_owned(host.address, path.clone()));
    let begun = || host.current.snapshot().target("cacheable").unwrap().admission.in_flight() == 1;
    until("the first request runs", begun).await;
    let second = tokio::spawn(get_owned(host.address, path.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    first.abort();
    let response = within(second).await.unwrap();
    assert_eq!(
        (response.status, how(&response).as_str()),
        (200, "lodge; fwd=miss; stored"),
        "it went in the first's place"
    );
    assert_eq!(host.get(&path).await.text(), response.text());
}
