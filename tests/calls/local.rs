//! Promise: services call each other inside the process, without a socket; the callee admits, counts and traces a call
//! like any other request.

use bytes::Bytes;
use http::{Method, Request};
use http_body::Frame;
use http_body_util::BodyExt;

use crate::harness::{Connection, Process, Response, TestHost, eventually, fed, host, sum, until, until_metric};
use crate::observe::traces::Collector;

/// The calling guests, 0.2 and 0.3.
pub(crate) const CALLERS: [&str; 2] = ["caller", "caller3"];

pub(crate) const ALL: &str = "calls = '*'";

/// Makes `caller` send a request to `to`.
pub(crate) async fn ask(host: &TestHost, caller: &str, to: &str, more: &[(&str, &str)]) -> Response {
    let headers: Vec<_> = [("x-to", to)].into_iter().chain(more.iter().copied()).collect();
    host.connect().await.ask(Method::GET, &format!("/{caller}"), &headers, "").await
}

/// From both versions to both versions. The callee gets the caller's name and the request, and no forged headers.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_called_by_its_name() {
    let host = host(&["caller", "caller3", "echo", "echo3", "users"])
        .manifest("caller", "calls = ['echo', 'echo3', 'users']")
        .manifest("caller3", "calls = ['ECHO', 'echo3', 'users']")
        .start()
        .await;
    for caller in CALLERS {
        let users = ask(&host, caller, "http://users.internal/users/1", &[]).await;
        assert_eq!((users.status, users.text().as_str()), (200, r#"{"id":1,"name":"Alice"}"#), "{users:?}");
        for (scheme, callee) in [("http", "echo"), ("https", "echo3")] {
            let forged = [("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=6.6.6.6"), ("x-own", "kept")];
            let url = format!("{scheme}://{callee}.internal:81/any/path/head?q=1");
            let response = ask(&host, caller, &url, &forged).await;
            let seen = response.text();
            assert!(seen.starts_with("Method::Get Some(Scheme::Http) "), "{seen}");
            assert!(seen.contains(&format!("{callee}.internal:81 /any/path/head?q=1\n")), "{seen}");
            assert!(seen.contains(&format!("forwarded: for=_{caller};host=\"{callee}.internal:81\"")), "{seen}");
            assert!(seen.contains("x-own: kept\n") && !seen.contains("6.6.6.6"), "{seen}");
            // The log lines of both share one id.
            assert!(seen.contains(&format!("x-request-id: {}\n", response.header("x-request-id"))), "{seen}");
        }
        // An error of the host in place of the callee is what a client would get.
        let missing = ask(&host, caller, "http://users.internal/nothing", &[]).await;
        assert_eq!(missing.status, 404);
    }
    until_metric(host.admin, "lodge_calls_total{service=\"caller\"}", 4).await;
    until_metric(host.admin, "lodge_requests_total{service=\"users\",code=\"2xx\"}", 2).await;
    until_metric(host.admin, "lodge_requests_total{service=\"echo3\",code=\"2xx\"}", 2).await;
    // One for each of the client's, and none for a call.
    until_metric(host.admin, "lodge_connections_accepted_total", 8).await;
}

/// A call that the manifest does not list is denied without a lookup, and logged with the line that would allow it.
#[tokio::test(flavor = "multi_thread")]
async fn only_listed_services_are_called() {
    let setup = host(&["caller", "caller3", "users"]).manifest("caller", "calls = ['echo']");
    let process = Process::serve(setup.directory.path(), &[]).await;
    for caller in CALLERS {
        for to in ["http://users.internal/users", "http://nobody.internal/"] {
            let mut client = Connection::http1(process.address).await;
            let denied = client.ask(Method::GET, &format!("/{caller}"), &[("x-to", to)], "").await;
            assert_eq!((denied.status, denied.text().as_str()), (200, ""));
            assert!(denied.header("x-error").contains("HttpRequestDenied"), "{denied:?}");
        }
        let line = format!("`calls = [\"users\"]` in {caller}.toml, above its first [section], would allow it");
        until("the log says what would allow it", || process.log().contains(&line)).await;
    }
    for _ in 0..30 {
        let mut client = Connection::http1(process.address).await;
        client.ask(Method::GET, "/caller", &[("x-to", "http://users.internal/")], "").await;
    }
    let denied = "lodge_outgoing_requests_total{service=\"caller\",outcome=\"denied\"}";
    until_metric(process.admin, denied, 32).await;
    until_metric(process.admin, "lodge_calls_total{service=\"caller\"}", 0).await;
    let said = || process.log().matches("in caller.toml").count();
    until("both are in the log", || said() >= 2).await;
    assert!(said() <= 10, "a guest must not fill the log: {} lines", said());
}

/// A failed call gets the host's error response, as a client does, and the caller continues.
#[tokio::test(flavor = "multi_thread")]
async fn failures_of_the_callee_are_responses() {
    let host =
        host(&["caller", "caller3", "trap", "hello"]).manifest("caller", ALL).manifest("caller3", ALL).start().await;
    for caller in CALLERS {
        for (callee, status, reason) in [("trap", 502, "trapped"), ("nobody", 404, "no-route")] {
            let response = ask(&host, caller, &format!("http://{callee}.internal/"), &[]).await;
            assert_eq!((response.status, response.problem().as_str()), (status, reason), "{caller} to {callee}");
        }
        assert_eq!(ask(&host, caller, "http://hello.internal/hello", &[]).await.text(), "Hello, World!");
    }
    until_metric(host.admin, "lodge_guest_failures_total{service=\"trap\",reason=\"trapped\"}", 2).await;
    until_metric(host.admin, "lodge_requests_total{service=\"caller\",code=\"5xx\"}", 1).await;
}

/// Waits until no service has a request in flight.
pub(crate) async fn until_idle(host: &TestHost) {
    until("every slot is free", || {
        host.current.snapshot().targets.iter().all(|target| target.admission.in_flight() == 0)
    })
    .await;
}

/// Frame by frame: what the client sends next depends on what it received.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_in_both_directions() {
    let host = host(&["caller3", "echo", "echo3"]).manifest("caller3", ALL).start().await;
    for callee in ["echo", "echo3"] {
        let (sender, body) = fed();
        let to = format!("http://caller3.internal/ http://{callee}.internal/");
        let request = Request::post("/caller3").header("x-to", to).header("trailer", "x-sum").header("te", "trailers");
        let response = host.connect().await.send(request.body(body).unwrap()).await.unwrap();
        let mut response = response.into_body();
        for n in 0..5 {
            let chunk = format!("chunk {n}");
            sender.send(Frame::data(Bytes::from(chunk.clone()))).await.unwrap();
            let mut came = String::new();
            while came.len() < chunk.len() {
                let frame = crate::harness::within(response.frame()).await.unwrap().unwrap();
                came.push_str(str::from_utf8(frame.data_ref().unwrap()).unwrap());
            }
            assert_eq!(came, chunk);
        }
        let trailers = [(http::HeaderName::from_static("x-sum"), http::HeaderValue::from_static("5"))];
        sender.send(Frame::trailers(trailers.into_iter().collect())).await.unwrap();
        drop(sender);
        let last = crate::harness::within(response.frame()).await.unwrap().unwrap();
        assert_eq!(last.trailers_ref().unwrap()["x-sum"], "5", "{callee}");
    }
}

/// Bodies larger than any buffer pass completely through both callers, and through a guest that reads them.
#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_are_complete() {
    let host =
        host(&["caller", "caller3", "drip", "echo3"]).manifest("caller", ALL).manifest("caller3", ALL).start().await;
    let body = "0123456789abcdef".repeat(1 << 14);
    let headers = [("x-to", "http://echo3.internal/")];
    let through = host.connect().await.ask(Method::POST, "/caller3", &headers, &body).await;
    assert!(through.text() == body && !through.broken);
    let read = [("x-to", "http://echo3.internal/"), ("x-read", "yes")];
    let read = host.connect().await.ask(Method::POST, "/caller3", &read, &body).await;
    assert_eq!(read.text(), body.len().to_string());
    let small = "0123456789abcdef".repeat(1 << 6);
    let through = host.connect().await.ask(Method::POST, "/caller", &headers, &small).await;
    assert!(through.text() == small && !through.broken, "{through:?}");
    // A slow body is forwarded as it arrives.
    let slow = ask(&host, "caller", "http://drip.internal/drip/3", &[]).await;
    assert_eq!((slow.status, slow.broken, slow.body.is_empty()), (200, false, false));
}

/// A response that breaks off is incomplete for the caller, and for its client.
#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_response_stays_incomplete() {
    let host = host(&["caller", "caller3", "cutoff", "cutoff3"])
        .manifest("caller", ALL)
        .manifest("caller3", ALL)
        .start()
        .await;
    for caller in CALLERS {
        for callee in ["cutoff", "cutoff3"] {
            let response = ask(&host, caller, &format!("http://{callee}.internal/"), &[]).await;
            assert!(response.broken || response.status == 502, "{caller} to {callee}: {response:?}");
        }
    }
}

/// A call waits in the callee's queue like a request of a client, and is refused like one.
#[tokio::test(flavor = "multi_thread")]
async fn calls_are_admitted() {
    let host = host(&["caller", "drip"])
        .manifest("caller", ALL)
        .manifest("drip", "limits = { in_flight = 2, queue = 1, queue_wait = '3s' }")
        .start()
        .await;
    let many = ask(&host, "caller", "http://drip.internal/drip/10", &[("x-many", "8")]).await.text();
    let (served, refused) = (many.matches("200").count(), many.matches("503").count());
    assert!(served >= 2 && refused >= 1 && served + refused == 8, "{many}");
    // The caller reads responses in its own order, so one that waits for a slot may wait for others that are not read
    // yet.
    let counted = async || sum(host.admin, "lodge_refusals_total{service=\"drip\",reason=\"queue-").await;
    eventually("all are counted", async || counted().await == refused as f64).await;
    until_idle(&host).await;
}

/// A warm caller frees every handle of a call, in both versions.
#[tokio::test(flavor = "multi_thread")]
async fn warm_callers_leak_nothing() {
    let warm = "calls = '*'\nisolation = 'service'\nlimits.resources = 40";
    let host = host(&["caller", "caller3", "hello"]).manifest("caller", warm).manifest("caller3", warm).start().await;
    for caller in CALLERS {
        let mut client = host.connect().await;
        for _ in 0..60 {
            let to = [("x-to", "http://hello.internal/hello"), ("x-first", "60000")];
            let response = client.ask(Method::GET, &format!("/{caller}"), &to, "").await;
            assert_eq!((response.status, response.text().as_str()), (200, "Hello, World!"), "{caller}");
        }
    }
}

/// A disabled service gets no calls. The operator sets the suffix of service names.
#[tokio::test(flavor = "multi_thread")]
async fn operators_control_calls() {
    let host = host(&["caller", "users"]).manifest("caller", ALL).set("calls.suffix", "svc.local").start().await;
    assert_eq!(ask(&host, "caller", "http://users.svc.local/users", &[]).await.status, 200);
    let other = ask(&host, "caller", "http://users.internal/users", &[]).await;
    assert!(other.header("x-error").contains("HttpRequestDenied"), "another domain is the world: {other:?}");
    let snapshot = host.current.snapshot();
    let users = snapshot.targets.iter().find(|target| &*target.deployment().name == "users").unwrap();
    users.deployment().service.set_disabled(true);
    let off = ask(&host, "caller", "http://users.svc.local/users", &[]).await;
    assert_eq!((off.status, off.problem().as_str()), (503, "disabled"));
}

/// Client, caller and callee are one trace: the callee's span is a child of the caller's guest.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_in_its_callers_trace() {
    let collector = Collector::start().await;
    let host = host(&["caller", "caller3", "header"])
        .manifest("caller", ALL)
        .manifest("caller3", ALL)
        .set("traces.exporter", "zipkin")
        .set("traces.endpoint", &format!("http://{}", collector.address))
        .set("traces.delay", "20ms")
        .start()
        .await;
    for caller in CALLERS {
        let before = collector.spans().len();
        let response = ask(&host, caller, "http://header.internal/", &[]).await;
        let seen = response.header("traceparent");
        until("all spans have arrived", || collector.spans().len() >= before + 12).await;
        let spans = collector.spans().split_off(before);
        let find = |what: &str, test: &dyn Fn(&serde_json::Value) -> bool| {
            spans.iter().find(|span| test(span)).unwrap_or_else(|| panic!("{what}: {spans:#?}")).clone()
        };
        let server = |name: &str| find(name, &|span| span["tags"]["lodge.service"] == name);
        let (outer, inner) = (server(caller), server("header"));
        let guest = find("guest", &|span| span["name"] == "guest" && span["parentId"] == outer["id"]);
        assert_eq!((&inner["traceId"], &inner["parentId"]), (&outer["traceId"], &guest["id"]), "{caller}");
        assert_eq!(outer["traceId"], seen[3..35], "the callee gets the same trace");
        assert_eq!(inner["tags"]["lodge.request_id"], outer["tags"]["lodge.request_id"]);
    }
}

/// `allow` and `deny` are about clients. Calls are controlled by the manifest of the caller.
#[tokio::test(flavor = "multi_thread")]
async fn client_networks_do_not_apply_to_calls() {
    let host =
        host(&["caller", "hello"]).manifest("caller", ALL).manifest("hello", "allow = ['192.0.2.1']").start().await;
    assert_eq!(host.get("/hello").await.problem(), "client-denied");
    let called = ask(&host, "caller", "http://hello.internal/", &[]).await;
    assert_eq!((called.status, called.text().as_str()), (200, "Hello, World!"));
}
