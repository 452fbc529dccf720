//! Promise: a request is one connected trace from its caller to the guest, and a collector that is down delays no
//! request.

use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::calls::outgoing::World;
use crate::harness::far::before;
use crate::harness::{Connection, Habit, Replica, free_port, host, until, until_metric, within};

pub(crate) const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A collector that accepts whatever is posted.
pub(crate) struct Collector {
    pub(crate) address: std::net::SocketAddr,
    posted: Arc<Mutex<Vec<(String, Bytes)>>>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, posted) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<_>>>::default());
        let taken = Arc::clone(&posted);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let taken = Arc::clone(&taken);
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let taken = Arc::clone(&taken);
                    async move {
                        let path = request.uri().path().to_owned();
                        let body = request.into_body().collect().await?.to_bytes();
                        taken.lock().unwrap().push((path, body));
                        Ok::<_, hyper::Error>(Response::new(Full::<Bytes>::default()))
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, posted }
    }

    /// All Zipkin spans that have arrived.
    pub(crate) fn spans(&self) -> Vec<Value> {
        let posted = self.posted.lock().unwrap();
        posted.iter().flat_map(|(_, body)| serde_json::from_slice::<Vec<Value>>(body).unwrap()).collect()
    }
}

pub(crate) fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

#[tokio::test(flavor = "multi_thread")]
async fn caller_host_and_guest_are_one_trace() {
    let collector = Collector::start().await;
    let endpoint = format!("http://{}", collector.address);
    // The guest `header` sends back the headers that it received.
    let host = host(&["header", "trap"])
        .set("traces.exporter", "zipkin")
        .set("traces.endpoint", &endpoint)
        .set("traces.delay", "20ms")
        .start()
        .await;
    let mut client = Connection::http1(host.address).await;
    let sent = traceparent("01");
    let headers = [("traceparent", sent.as_str()), ("tracestate", "vendor=1"), ("host", "localhost")];
    let response = client.ask(Method::GET, "/header/below?q=secret", &headers, "").await;
    let seen = response.header("traceparent");
    let (trace, guest) = (&seen[3..35], &seen[36..52]);
    assert_eq!((trace, response.header("tracestate").as_str(), &seen[52..]), (TRACE, "vendor=1", "-01"));
    until("all spans have arrived", || collector.spans().len() >= 6).await;
    let spans = collector.spans();
    let named =
        |name: &str| spans.iter().find(|span| span["name"] == name).unwrap_or_else(|| panic!("{name}: {spans:#?}"));
    let server = spans.iter().find(|span| span["kind"] == "SERVER").unwrap();
    assert_eq!((&server["traceId"], &server["parentId"]), (&TRACE.into(), &CALLER.into()));
    assert_eq!(server["tags"]["http.route"], "/header");
    assert_eq!(
        (&server["tags"]["lodge.service"], &server["tags"]["url.path"]),
        (&"header".into(), &"/header/below".into())
    );
    assert_eq!(server["tags"]["lodge.request_id"], response.header("x-request-id"));
    assert!(!server.to_string().contains("secret"));
    for phase in ["route", "queue", "instantiate", "guest", "body"] {
        assert_eq!(named(phase)["parentId"], server["id"], "{phase}");
    }
    assert_eq!(named("guest")["id"], guest, "outgoing requests are children of the guest's span");
    let failed = client.get("/trap").await;
    until("the failure has arrived", || collector.spans().iter().any(|span| span["tags"]["lodge.service"] == "trap"))
        .await;
    let spans = collector.spans();
    let failed_span = spans.iter().find(|span| span["tags"]["lodge.service"] == "trap").unwrap();
    assert_eq!((failed.status, &failed_span["tags"]["error.type"]), (502, &"trapped".into()));
}

/// OTLP goes to the standard's path, including the last span when the host stops.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_exports_all_spans() {
    let collector = Collector::start().await;
    let host = host(&["hello"])
        .set("traces.exporter", "otlp")
        .set("traces.endpoint", &format!("http://{}", collector.address))
        .set("traces.delay", "10m")
        .start()
        .await;
    let mut client = Connection::http1(host.address).await;
    for _ in 0..10 {
        client.ask(Method::GET, "/hello", &[("traceparent", &traceparent("01")), ("host", "localhost")], "").await;
    }
    drop(client);
    host.ended().await;
    let posted = collector.posted.lock().unwrap();
    assert!(posted.iter().all(|(path, _)| path == "/v1/traces"));
    let id: Vec<u8> = (0..16).map(|n| u8::from_str_radix(&TRACE[2 * n..2 * n + 2], 16).unwrap()).collect();
    let spans: usize = posted.iter().map(|(_, body)| body.windows(16).filter(|bytes| *bytes == id).count()).sum();
    assert_eq!(spans, 60, "ten requests, each with a span and five phases");
}

/// Unsampled traces are forwarded and not exported; without tracing, headers pass unchanged.
#[tokio::test(flavor = "multi_thread")]
async fn callers_decide_about_sampling() {
    let collector = Collector::start().await;
    let traced = host(&["header"])
        .set("traces.exporter", "zipkin")
        .set("traces.endpoint", &format!("http://{}", collector.address))
        .set("traces.delay", "1ms")
        .start()
        .await;
    let plain = host(&["header"]).start().await;
    let seen = async |host: &crate::harness::TestHost| {
        let headers = [("traceparent", traceparent("00")), ("host", "localhost".into())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        Connection::http1(host.address).await.ask(Method::GET, "/header", &headers, "").await.header("traceparent")
    };
    let unsampled = seen(&traced).await;
    assert_eq!((&unsampled[3..35], &unsampled[52..]), (TRACE, "-00"));
    assert_eq!(seen(&plain).await, traceparent("00"));
    traced.ended().await;
    assert_eq!(collector.spans().len(), 0);
}

/// Spans are dropped and counted; responses are not delayed.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_down_loses_spans_only() {
    let nobody = free_port();
    let host = host(&["hello"])
        .set("traces.exporter", "otlp")
        .set("traces.endpoint", &format!("http://127.0.0.1:{nobody}"))
        .set("traces.delay", "1ms")
        .set("traces.timeout", "50ms")
        .start()
        .await;
    for _ in 0..50 {
        assert_eq!(host.get("/hello").await.status, 200);
    }
    // Six spans of each request.
    until_metric(host.admin, "lodge_spans_dropped_total", 300).await;
}

/// Every attempt is a sibling span, and the replica gets the id of its own.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_spans() {
    let (collector, replicas) = (Collector::start().await, [Replica::start("a").await, Replica::start("b").await]);
    let both: Vec<_> = replicas.iter().collect();
    let host = before(&both, "policy = 'round-robin'\nejection.failures = 0")
        .set("traces.exporter", "zipkin")
        .set("traces.endpoint", &format!("http://{}", collector.address))
        .set("traces.delay", "20ms")
        .start()
        .await;
    replicas[0].set(Habit::Status(503));
    replicas[1].set(Habit::Describe);
    let mut told = String::new();
    // Either replica can be first, so one of two requests begins with the failing one.
    for _ in 0..10 {
        let hits = replicas[0].hits();
        let response = within(host.get("/far?key=secret")).await;
        told = response.text().lines().find_map(|line| line.strip_prefix("traceparent: ")).unwrap().to_owned();
        if replicas[0].hits() > hits {
            break;
        }
    }
    let of = |span: &serde_json::Value| span["traceId"] == told[3..35];
    until("the spans have arrived", || collector.spans().iter().any(|span| of(span) && span["name"] == "body")).await;
    let spans: Vec<_> = collector.spans().into_iter().filter(of).collect();
    let guest = spans.iter().find(|span| span["name"] == "guest").unwrap();
    let tries: Vec<_> = spans.iter().filter(|span| span["kind"] == "CLIENT").collect();
    let [first, second] = &*tries else { panic!("{spans:#?}") };
    assert!(tries.iter().all(|span| span["parentId"] == guest["id"] && span["tags"]["lodge.service"] == "far"));
    assert_eq!((&second["id"], &first["tags"]["error"]), (&told[36..52].into(), &"503".into()));
    assert_eq!(first["tags"]["url.full"], format!("http://{}/far?key=REDACTED", replicas[0].address));
    assert_eq!(second["tags"]["url.full"], format!("http://{}/far?key=REDACTED", replicas[1].address));
    assert_eq!(second["tags"]["http.request.resend_count"], "1");
    assert!(first["tags"]["http.request.resend_count"].is_null() && second["tags"]["error"].is_null());
}

/// A mirrored copy is not in the client's trace, and neither are the requests that it causes.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirrored_copy_is_not_traced() {
    let (collector, world) = (Collector::start().await, World::start().await);
    let allowed = format!("http = ['http://{}']", world.address);
    let host = host(&["caller"])
        .manifest("caller", &allowed)
        .named("caller", "caller@new")
        .manifest("caller@new", &format!("mirror = 100\n{allowed}"))
        .set("traces.exporter", "zipkin")
        .set("traces.endpoint", &format!("http://{}", collector.address))
        .set("traces.delay", "1ms")
        .start()
        .await;
    let response = crate::calls::outgoing::ask(host.address, "caller", &world.url("/"), &[]).await;
    assert_eq!(response.status, 200, "{response:?}");
    let shown = || host.current.snapshot().target("caller@new").unwrap().deployment().service.metrics.requests();
    until("the copy has ended", || shown() == 1).await;
    // It has sent the same requests.
    crate::calls::outgoing::until_outcome(&host, "caller@new", "2xx", 1).await;
    host.ended().await;
    let spans = collector.spans();
    assert_eq!(spans.iter().filter(|span| span["kind"] == "CLIENT").count(), 1, "{spans:#?}");
}
