//! Promise: a call between services ends with its caller, within its caller's deadline and depth, and its CPU time is
//! counted for the callee.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request};
use lodge::request::handler::{Call, Handler};
use lodge_traffic::proxy::headers::Peer;

use crate::calls::local::{ALL, CALLERS, ask, metric, until_idle};
use crate::harness::{Connection, host, until};

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
    let refused = metric(&host, "lodge_refusals_total{service=\"caller\",reason=\"call-depth\"}").await;
    assert!((refused - 1.0).abs() < 0.1);
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
    assert!(metric(&host, "lodge_transfers_aborted_total{service=\"sleeper\",reason=\"client-gone\"}").await > 0.5);
}

/// A callee has the remaining time of its caller, not 30 seconds of its own. A timeout of the guest ends a call as
/// well.
#[tokio::test(flavor = "multi_thread")]
async fn a_callee_has_its_callers_deadline() {
    let host = host(&["caller", "caller3", "sleeper", "sleeper3"])
        .manifest("caller", "calls = '*'\nlimits = { wall = '400ms', cpu = '400ms' }")
        .manifest("caller3", "calls = '*'\nlimits = { wall = '400ms', cpu = '400ms' }")
        .named("caller", "patient")
        .manifest("patient", ALL)
        .start()
        .await;
    for (caller, callee) in [("caller", "sleeper3"), ("caller3", "sleeper")] {
        let start = Instant::now();
        let late = ask(&host, caller, &format!("http://{callee}.internal/"), &[]).await;
        assert_eq!((late.status, late.problem().as_str()), (504, "wall-time"));
        assert!(start.elapsed() < Duration::from_secs(10), "the callee has 30 seconds of its own");
        until_idle(&host).await;
    }
    let first = ask(&host, "patient", "http://sleeper.internal/", &[("x-first", "100")]).await;
    assert!(first.header("x-error").contains("HttpResponseTimeout"), "{first:?}");
    until_idle(&host).await;
}

/// The deadline of its caller ends a callee even if the request is not cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_reaches_the_callee() {
    let host = host(&["sleeper", "sleeper3"]).start().await;
    let config = lodge_base::config::resolve(&[]).unwrap().config;
    let handler = Handler {
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
        assert!(deadline.elapsed() < Duration::from_secs(10), "it had 30 seconds of its own");
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
        let failed =
            metric(&host, &format!("lodge_guest_failures_total{{service=\"{caller}\",reason=\"cpu-time\"}}")).await;
        assert!(failed < 0.5, "{caller} was charged for what it did not compute");
        let used = metric(&host, &format!("lodge_guest_cpu_seconds_total{{service=\"{caller}\"}}")).await;
        assert!(used < 0.1, "{caller} used {used} s");
    }
    assert!(metric(&host, "lodge_guest_failures_total{service=\"spin\",reason=\"cpu-time\"}").await > 1.5);
}
