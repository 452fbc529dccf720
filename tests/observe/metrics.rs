//! Promise: metrics count the results of requests, and every scraper can read them.

use crate::harness::{Connection, get, host, metric, scrape, series, until, until_metric, wasm, within};

/// A scraper that reads only the older text format gets that, with the same series.
#[tokio::test(flavor = "multi_thread")]
async fn the_older_text_format() {
    let host = host(&["hello"]).start().await;
    let mut scraper = Connection::http1(host.admin).await;
    let old = scraper.ask(http::Method::GET, "/metrics", &[("accept", "text/plain;version=0.0.4")], "").await;
    assert_eq!(old.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = old.text();
    let types: std::collections::BTreeSet<_> =
        text.lines().filter(|line| line.starts_with("# TYPE ")).filter_map(|line| line.rsplit(' ').next()).collect();
    assert_eq!(types.into_iter().collect::<Vec<_>>(), ["counter", "gauge", "histogram"], "{text}");
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
    let new = get(host.admin, "/metrics").await;
    assert_eq!(new.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(new.text().ends_with("# EOF\n"));
    let names = |text: &str| series(text).into_keys().collect::<Vec<_>>();
    assert_eq!(names(&text), names(&new.text()));
}

/// 4 clients on HTTP/1.1 and HTTP/2 send requests while the service is replaced again and again; every response is
/// counted once.
#[tokio::test(flavor = "multi_thread")]
async fn counts_agree_with_the_clients_across_reloads() {
    let host = host(&["hello"]).named("version", "changes").start().await;
    let (file, other) = (host.directory().join("changes.wasm"), host.directory().join(".new"));
    let clients = (0..4).map(|n| {
        let address = host.address;
        tokio::spawn(async move {
            let mut client =
                if n % 2 == 0 { Connection::http1(address).await } else { Connection::http2(address).await };
            for _ in 0..500 {
                client.get("/changes").await;
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    for guest in ["hello", "version", "deaf", "version"] {
        std::fs::copy(wasm(guest), &other).unwrap();
        std::fs::rename(&other, &file).unwrap();
        let digest = lodge_manifest::digest::Digest::of(&std::fs::read(&file).unwrap());
        let serves = || {
            let snapshot = host.current.snapshot();
            snapshot.targets.iter().any(|it| &*it.deployment().name == "changes" && it.deployment().digest() == digest)
        };
        until("the version is served", serves).await;
    }
    for client in clients {
        within(client).await.unwrap();
    }
    for (series, value) in [
        (r#"lodge_requests_total{service="changes",code="2xx"}"#, 2000),
        (r#"http_server_request_duration_seconds_count{service="changes"}"#, 2000),
        // Quantiles need this bucket.
        (r#"http_server_request_duration_seconds_bucket{le="+Inf",service="changes"}"#, 2000),
        (r#"http_server_active_requests{service="changes"}"#, 0),
        (r#"lodge_requests_total{service="hello",code="2xx"}"#, 0),
    ] {
        until_metric(host.admin, series, value).await;
    }
    let all = scrape(host.admin).await;
    assert!(all[r#"lodge_instantiation_seconds_count{service="changes"}"#] >= 2000.0);
    assert!(all[r#"lodge_guest_memory_max_bytes{service="changes"}"#] >= 65536.0);
}

/// Each kind of failure is counted by its reason, with its service if it has one.
#[tokio::test(flavor = "multi_thread")]
async fn failures_are_counted_by_reason() {
    let host = host(&["trap", "spin", "echo", "drip"])
        .manifest("spin", "limits.cpu = '50ms'")
        .manifest("echo", "limits.request_body = 10\nroutes = [{ path = '/echo', methods = ['POST'] }]")
        .manifest("drip", "limits = { wall = '300ms', cpu = '100ms' }")
        .start()
        .await;
    for path in ["/trap", "/trap", "/spin", "/nobody", "/echo", "/drip/10"] {
        host.get(path).await;
    }
    let mut client = host.connect().await;
    client.ask(http::Method::POST, "/echo", &[], "more than ten bytes").await;
    for (series, value) in [
        (r#"lodge_transfers_aborted_total{service="drip",reason="wall-time"}"#, 1),
        (r#"lodge_guest_failures_total{service="trap",reason="trapped"}"#, 2),
        (r#"lodge_requests_total{service="trap",code="5xx"}"#, 2),
        (r#"lodge_guest_failures_total{service="spin",reason="cpu-time"}"#, 1),
        (r#"lodge_refusals_total{service="",reason="no-route"}"#, 1),
        (r#"lodge_refusals_total{service="",reason="method-not-allowed"}"#, 1),
        (r#"lodge_requests_total{service="",code="4xx"}"#, 2),
        (r#"lodge_refusals_total{service="echo",reason="body-too-large"}"#, 1),
        (r#"lodge_requests_total{service="drip",code="2xx"}"#, 1),
    ] {
        until_metric(host.admin, series, value).await;
    }
    let all = scrape(host.admin).await;
    assert!(all[r#"lodge_guest_cpu_seconds_total{service="spin"}"#] >= 0.05);
    assert!(!all.keys().any(|series| series.contains("nobody")), "a client has created a series");
}

/// A client that leaves during a response is counted neither as a complete response nor as a failure of the service.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_are_counted_separately() {
    let host = host(&["sleeper"]).start().await;
    let asking = tokio::spawn(get(host.address, "/sleeper"));
    until_metric(host.admin, r#"http_server_active_requests{service="sleeper"}"#, 1).await;
    asking.abort();
    until_metric(host.admin, r#"lodge_transfers_aborted_total{service="sleeper",reason="client-gone"}"#, 1).await;
    assert_eq!(metric(host.admin, r#"lodge_requests_total{service="sleeper",code="2xx"}"#).await, 0.0);
}
