//! Promise: requests for a response that is being fetched wait for that fetch if the response may be stored, and
//! otherwise go to the service.

use crate::caching::reuse::{KEPT, SANDBOXES, cacheable, get_owned, how, outcomes};
use crate::harness::{Process, TestHost, eventually, metric, until, until_metric, wasm, within};

fn in_flight(host: &TestHost) -> usize {
    host.current.snapshot().target("cacheable").unwrap().admission.in_flight()
}

/// A hundred concurrent clients cause one request, whether its response arrives at once or in parts.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_are_collapsed() {
    let host = cacheable().start().await;
    for slow in ["&wait=300", "&size=64&pause=60"] {
        let sandboxes = metric(host.admin, SANDBOXES).await;
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
        assert_eq!(metric(host.admin, SANDBOXES).await, sandboxes + 1.0, "{path}");
    }
    until_metric(host.admin, &outcomes("miss"), 2).await;
    eventually("some have waited", async || metric(host.admin, &outcomes("collapsed")).await > 0.0).await;
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
    let path = "/cacheable?cache-control=no-store&wait=1500";
    let asking: Vec<_> = (0..20).map(|_| tokio::spawn(get_owned(host.address, path.to_owned()))).collect();
    // After the first response all others are at the service at once. In sequence it would be one at a time.
    let mut most = 0;
    until("all have their responses", || {
        most = most.max(in_flight(&host));
        asking.iter().all(tokio::task::JoinHandle::is_finished)
    })
    .await;
    assert!(most > 1, "one at a time");
    for asked in asking {
        within(asked).await.unwrap();
    }
}

const ACCEPTED: &str = "lodge_connections_accepted_total";

/// When the client that causes the fetch leaves, the other clients still get a response.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_client_can_leave() {
    let host = cacheable().start().await;
    let path = format!("{KEPT}&wait=1500");
    let first = tokio::spawn(get_owned(host.address, path.clone()));
    until("the first request runs", || in_flight(&host) == 1).await;
    let connections = metric(host.admin, ACCEPTED).await;
    let second = tokio::spawn(get_owned(host.address, path.clone()));
    // If the second comes later than the end of the first, it fetches the response itself.
    eventually("the second has come", async || metric(host.admin, ACCEPTED).await > connections).await;
    first.abort();
    let response = within(second).await.unwrap();
    assert_eq!(
        (response.status, how(&response).as_str()),
        (200, "lodge; fwd=miss; stored"),
        "it went in the first's place"
    );
    assert_eq!(host.get(&path).await.text(), response.text());
}
