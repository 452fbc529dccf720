//! Promise: a call between services ends with its caller, within its caller's deadline and depth, and its CPU time is
//! counted for the callee.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request};
use lodge::request::handler::{Call, Handler};
use lodge_traffic::proxy::headers::Peer;

use crate::calls::local::{ALL, CALLERS, ask, until_idle};
use crate::harness::{Connection, eventually, host, metric, until, until_metric};

/// Two chains of calls that never end by themselves, and one of exactly the allowed depth.
#[tokio::test(flavor = "multi_thread")]
async fn a_loop_of_calls_ends() {
    let limits = "calls = '*'\nlimits.call_depth = 4";
    let host =
        host(&["caller", "caller3", "hello"]).manifest("caller", limits).manifest("caller3", limits).start().await;
    let again = [("x-again", "yes")];
    for caller in CALLERS {
        let itself = ask(&host, caller, &format!("http://{caller}.internal/"), &again).await;
        assert_eq!((itself.status, itself.problem().as_str()), (508, "call-depth"));
    }
    until_metric(host.admin, "lodge_refusals_total{service=\"caller\",reason=\"call-depth\"}", 1).await;
    // Both callers in turn, three calls deep, and then another service.
    let chain = "http://caller3.internal/ http://caller.internal/ http://caller3.internal/ http://hello.internal/hello";
    assert_eq!(ask(&host, "caller", chain, &[]).await.text(), "Hello, World!");
    let longer = format!("http://caller.internal/ {chain}");
    assert_eq!(ask(&host, "caller3", &longer, &[]).await.text(), "Hello, World!", "hello has the default limit");
    let deeper = format!("http://caller3.internal/ {longer}");
    assert_eq!(ask(&host, "caller3", &deeper, &[]).await.problem(), "call-depth");
    until_idle(&host).await;
}

/// A callee ends when the client leaves, and when the caller stops waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_callee_ends_with_its_caller() {
    let host = host(&["caller", "caller3", "sleeper", "sleeper3"])
        .manifest("caller", ALL)
        .manifest("caller3", ALL)
        .start()
        .await;
    let sleeping = |name: &'static str| {
        let current = host.current.clone();
        move || {
            let snapshot = current.snapshot();
            snapshot
                .targets
                .iter()
                .filter(|it| &*it.deployment().name == name)
                .map(|it| it.admission.in_flight())
                .sum::<usize>()
                == 1
        }
    };
    for caller in CALLERS {
        for callee in ["sleeper", "sleeper3"] {
            let address = host.address;
            let asking = tokio::spawn(async move {
                let headers = [("x-to", format!("http://{callee}.internal/"))];
                let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
                Connection::http1(address).await.ask(Method::GET, &format!("/{caller}"), &headers, "").await
            });
            until("the callee runs", sleeping(callee)).await;
            asking.abort();
            until_idle(&host).await;
        }
    }
    let left = ask(&host, "caller", "http://sleeper3.internal/", &[("x-leave", "yes")]).await;
    assert_eq!(left.text(), "left");
    until_idle(&host).await;
    let gone = "lodge_transfers_aborted_total{service=\"sleeper\",reason=\"client-gone\"}";
    eventually("they are counted", async || metric(host.admin, gone).await >= 1.0).await;
}

/// A callee has the remaining time of its caller, not an hour of its own. A timeout of the guest ends a call as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_callee_has_its_callers_deadline() {
    let host = host(&["caller", "caller3", "sleeper", "sleeper3"])
        .manifest("caller", "calls = '*'\nlimits = { wall = '400ms', cpu = '400ms' }")
        .manifest("caller3", "calls = '*'\nlimits = { wall = '400ms', cpu = '400ms' }")
        .named("caller", "patient")
        .manifest("patient", ALL)
        .manifest("sleeper", HOUR)
        .manifest("sleeper3", HOUR)
        .start()
        .await;
    for (caller, callee) in [("caller", "sleeper3"), ("caller3", "sleeper")] {
        let late = ask(&host, caller, &format!("http://{callee}.internal/"), &[]).await;
        // Whichever comes first: the end of the caller, or its response with that of the callee.
        assert!(late.status == 504 && ["wall-time", "caller-deadline"].contains(&&*late.problem()), "{late:?}");
        until_idle(&host).await;
    }
    let first = ask(&host, "patient", "http://sleeper.internal/", &[("x-first", "100")]).await;
    assert!(first.header("x-error").contains("HttpResponseTimeout"), "{first:?}");
    until_idle(&host).await;
}

/// A service with more time than a test.
const HOUR: &str = "limits = { wall = '1h', cpu = '1h' }";

/// The deadline of its caller ends a callee even if the request is not cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_reaches_the_callee() {
    let host = host(&["sleeper", "sleeper3"]).manifest("sleeper", HOUR).manifest("sleeper3", HOUR).start().await;
    let config = lodge_base::config::resolve(&[]).unwrap().config;
    let handler = Handler {
        cluster: None,
        remote: Default::default(),
        explains: false,
        trusted_proxies: Vec::new(),
        proofs: None,
        redirect: None,
        hsts: None,
        audit: None,
        failed_attempts: None,
        service_hosts: lodge_base::config::ServiceHosts::Local,
        responses: None,
        unsent: lodge_base::budget::Budget::new(1 << 20),
        compression: lodge_traffic::proxy::compression::memory::encoder_memory(0),
        validation: lodge_traffic::validation::room::ValidationRoom::new(1 << 20),
        pages: lodge_traffic::error_pages::PageSet::default(),
        via: Arc::default(),
        current: host.current.clone(),
        ids: lodge_base::ids::Ids::new(),
        unmatched: Arc::new(lodge_traffic::service::Service::new(
            "",
            lodge_base::cpu::scheduler::CpuScheduler::new(1).share(),
        )),
        metrics: Arc::default(),
        tracer: lodge_base::telemetry::traces::Tracer::off(),
        logs: lodge_base::telemetry::logs::Logs::detached(&config),
    };
    for callee in ["sleeper", "sleeper3"] {
        let peer = Peer::service("me");
        let deadline = Instant::now() + Duration::from_millis(200);
        let host = format!("{callee}.localhost");
        let call =
            Call { from: Some("caller"), host: &host, elsewhere: None, request_id: Arc::from("1"), deadline, depth: 1 };
        let request = Request::get(format!("http://{callee}.internal/")).body(http_body_util::Empty::new()).unwrap();
        let response = crate::harness::within(handler.respond(&peer, Some(&call), request)).await;
        assert_eq!(response.status(), 504);
    }
}

/// The CPU time of a callee counts for the callee's limit, not for the caller's.
#[tokio::test(flavor = "multi_thread")]
async fn cpu_time_is_charged_to_the_callee() {
    let host = host(&["caller", "caller3", "spin", "spin3"])
        .manifest("caller", "calls = '*'\nlimits.cpu = '100ms'")
        .manifest("caller3", "calls = '*'\nlimits.cpu = '100ms'")
        .manifest("spin", "limits.cpu = '600ms'")
        .manifest("spin3", "limits.cpu = '600ms'")
        .start()
        .await;
    for caller in CALLERS {
        for callee in ["spin", "spin3"] {
            let spun = ask(&host, caller, &format!("http://{callee}.internal/"), &[]).await;
            // The callee reaches its limit, in its own response. If the caller were charged, it would have ended first.
            assert_eq!((spun.status, spun.problem().as_str()), (504, "cpu-time"), "{caller} to {callee}");
        }
        let failed = format!("lodge_guest_failures_total{{service=\"{caller}\",reason=\"cpu-time\"}}");
        assert!(metric(host.admin, &failed).await < 0.5, "{caller} was charged for what it did not compute");
        let used = metric(host.admin, &format!("lodge_guest_cpu_seconds_total{{service=\"{caller}\"}}")).await;
        assert!(used < 0.1, "{caller} used {used} s");
    }
    until_metric(host.admin, "lodge_guest_failures_total{service=\"spin\",reason=\"cpu-time\"}", 2).await;
}
