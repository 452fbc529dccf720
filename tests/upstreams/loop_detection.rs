//! Promise: requests that come back to this host over the network end when they form a loop, and only then.

use std::fs;

use http::Method;

use crate::calls::outgoing::SENDERS;
use crate::harness::{Connection, Response, TestHost, eventually, host, sum, until, until_metric, within};

/// Writes the manifest of a service whose only replica is this host.
async fn lead(from: &TestHost, name: &str, to: &TestHost, more: &str) {
    let text = format!("{more}\n[upstream]\nreplicas = ['http://{}']", to.address);
    fs::write(from.directory().join(format!("{name}.toml")), text).unwrap();
    until("it is served", || from.current.snapshot().target(name).is_some()).await;
}

fn in_flight(host: &TestHost, name: &str) -> usize {
    host.current.snapshot().target(name).unwrap().admission.in_flight()
}

/// The problem response comes from the innermost request, and so does its id.
fn refused(response: &Response) -> bool {
    response.status == 508 && response.text().contains("urn:lodge:problem:call-depth")
}

/// Sends a request that leads back to itself, and checks that it ends after so many times, and not for lack of slots.
async fn ends(at: &TestHost, times: f64) {
    for mut client in [Connection::http1(at.address).await, Connection::http2(at.address).await] {
        let response = within(client.get("/far")).await;
        assert!(refused(&response), "{response:?}");
    }
    until("every slot is free", || in_flight(at, "far") == 0).await;
    // Of two circles.
    until_metric(at.admin, "lodge_refusals_total{service=\"far\",reason=\"call-depth\"}", 2).await;
    let requests = async || sum(at.admin, "lodge_requests_total{service=\"far\"").await;
    eventually("all requests are counted", async || requests().await >= 2.0 * times).await;
    assert_eq!(requests().await, 2.0 * times);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_its_own_replica_ends() {
    let host = host(&[]).start().await;
    lead(&host, "far", &host, "limits = { call_depth = 3, in_flight = 20 }").await;
    // Admitted, forwarded, and back three times; the fifth time it is refused.
    ends(&host, 5.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_that_point_at_each_other_end() {
    let (one, other) = (host(&[]).start().await, host(&[]).start().await);
    lead(&other, "far", &one, "limits.in_flight = 20").await;
    lead(&one, "far", &other, "limits = { call_depth = 3, in_flight = 20 }").await;
    ends(&one, 5.0).await;
}

/// Passing a host twice is not a loop, and `Via` entries of others are forwarded.
#[tokio::test(flavor = "multi_thread")]
async fn a_detour_is_not_a_loop() {
    let host = host(&["hello", "header"]).start().await;
    let route = |path: &str, depth| {
        format!("routes = [{{ path = '{path}', strip_prefix = true }}]\nlimits.call_depth = {depth}")
    };
    lead(&host, "front", &host, &route("/front", 0)).await;
    lead(&host, "back", &host, &route("/back", 1)).await;
    assert_eq!(within(host.get("/front/hello")).await.text(), "Hello, World!");
    assert_eq!(within(host.get("/front/back/hello")).await.text(), "Hello, World!");
    let response = within(host.get("/back/front/hello")).await;
    assert!(refused(&response), "{response:?}");
    let said = [("via", "1.0 fred, 1.1 lodge-0")];
    // This service sends back the headers that it receives.
    let response = within(host.connect().await.ask(Method::GET, "/front/header", &said, "")).await;
    let via: Vec<_> = response.headers.get_all("via").iter().map(|line| line.to_str().unwrap()).collect();
    assert!(via.len() == 2 && via[0] == said[0].1, "{via:?}");
    let name = via[1].strip_prefix("1.1 lodge-").unwrap();
    assert!(name.len() == 8 && name.bytes().all(|byte| byte.is_ascii_hexdigit()), "{via:?}");
}

/// A guest that sends requests to its own host over the network gets as deep as one that calls itself, and so does a
/// call to a replica that is this host.
#[tokio::test(flavor = "multi_thread")]
async fn a_loop_over_the_network_ends() {
    let host = host(&SENDERS)
        .manifest("caller", "http = ['http://127.0.0.1:*']\ncalls = '*'\nlimits = { call_depth = 3, in_flight = 20 }")
        .manifest("caller3", "http = ['http://127.0.0.1:*']\ncalls = '*'\nlimits = { call_depth = 3, in_flight = 20 }")
        .start()
        .await;
    lead(&host, "back", &host, "limits.call_depth = 20").await;
    for sender in SENDERS {
        let path = format!("/{sender}");
        lead(&host, "back", &host, &format!("routes = ['{path}/back']\nlimits.call_depth = 20")).await;
        let called = format!("http://back.internal{path}");
        for to in [format!("http://{}{path}", host.address), called] {
            let headers = [("x-to", &*to), ("x-again", "1")];
            let response = within(host.connect().await.ask(Method::GET, &path, &headers, "")).await;
            assert!(refused(&response), "{sender} to {to}: {response:?}");
            until("every slot is free", || in_flight(&host, sender) == 0).await;
        }
    }
}
