use http::{HeaderMap, StatusCode};
use proptest::prelude::*;

use super::*;
use lodge_base::config;
use lodge_base::telemetry::metrics::VersionStats;
use lodge_base::telemetry::metrics::judged::JudgedCounts;
use lodge_manifest::adaptive::Settings as Adaptation;
use lodge_manifest::breaker::Settings as Breaker;
use lodge_manifest::percent::Percent;
use lodge_manifest::policies::PolicySettings;
use lodge_manifest::rate::{By, Scope, Settings as Rate};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

const BREAKER: Breaker = Breaker {
    failures: Percent::whole(50),
    slow: Some(SECOND),
    slow_calls: Percent::whole(50),
    calls: 2,
    window: Duration::from_secs(10),
    open: Duration::from_secs(5),
    probes: 1,
};

fn rate(burst: u32) -> Option<Rate> {
    Some(Rate { count: 1, per: SECOND, burst, by: By::Service, scope: Scope::Host })
}

fn limits() -> Limits {
    config::resolve(&[]).unwrap().config.limits
}

fn shared_limits(slots: usize) -> Arc<SharedLimits> {
    Arc::new(SharedLimits::new(Arc::new(Concurrency::new(slots, 0, SECOND))))
}

fn of(
    terms: &Policies,
    known: Option<(&Admission, bool)>,
    shared_limits: &Arc<SharedLimits>,
    now: Instant,
) -> Admission {
    let admission = Admission::new(&Arc::from("users"), (&limits(), terms), shared_limits, known, now);
    admission.activate();
    admission
}

async fn ask(admission: &Admission, client: &str, route: usize, now: Instant) -> Result<Permit, Refusal> {
    let headers = HeaderMap::new();
    let view = RequestView {
        client: client.parse().unwrap(),
        claimed: None,
        calling: None,
        inside: false,
        headers: &headers,
        route,
        identity: None,
    };
    admission.admit(&view, now).await
}

fn nets(net: &str) -> Vec<ipnet::IpNet> {
    vec![net.parse().unwrap()]
}

/// A check runs only if all earlier checks passed, and the route's check runs before its service's.
#[tokio::test]
async fn the_order_is_fixed() {
    let (now, shared_limits) = (Instant::now(), shared_limits(1));
    let clients = Clients { deny: nets("10.0.0.0/8"), ..Clients::default() };
    let service = PolicySettings {
        clients,
        auth: None,
        rate: rate(6),
        breaker: Some(BREAKER),
        priority: Some(Priority::Low),
        audit: None,
        rules: Vec::new(),
        validation: None,
    };
    let route = PolicySettings { rate: rate(4), ..PolicySettings::default() };
    let terms = Policies {
        service,
        routes: vec![("/".into(), PolicySettings::default()), ("/x".into(), route)],
        adaptive: None,
    };
    let admission = of(&terms, None, &shared_limits, now);
    let left = || admission.policies(now).into_iter().filter_map(|status| status.state).collect::<Vec<_>>();
    assert_eq!(ask(&admission, "10.0.0.1", 1, now).await.unwrap_err(), Refusal::Client);
    assert_eq!(left()[..2], ["4 remaining", "6 remaining"], "a client that is not allowed uses no rate");
    let fails = async || {
        let mut permit = ask(&admission, "192.0.2.1", 1, now).await.unwrap();
        permit.record_failure(Some(Verdict::Failed), || now);
    };
    fails().await;
    fails().await;
    assert!(matches!(ask(&admission, "192.0.2.1", 1, now).await, Err(Refusal::Breaker(_))));
    assert_eq!(left()[..2], ["1 remaining", "3 remaining"]);
    assert!(matches!(ask(&admission, "192.0.2.1", 1, now).await, Err(Refusal::Breaker(_))));
    assert!(matches!(ask(&admission, "192.0.2.1", 1, now).await, Err(Refusal::Rate(_))));
    assert_eq!(left()[..2], ["0 remaining", "2 remaining"], "the route's limit is checked first");
    assert!(matches!(ask(&admission, "192.0.2.1", 0, now).await, Err(Refusal::Breaker(_))));
    let later = now + BREAKER.open;
    let inside = shared_limits.slots.acquire().await.unwrap();
    assert_eq!(ask(&admission, "192.0.2.1", 1, later).await.unwrap_err(), Refusal::Shed);
    drop(inside);
    assert!(ask(&admission, "192.0.2.1", 1, later).await.is_ok(), "the probe that was shed made room for another");
}

/// A response that needs no sandbox holds the slot of its service alone.
#[tokio::test]
async fn a_slot_of_the_host_may_be_returned_early() {
    let (now, shared_limits) = (Instant::now(), shared_limits(1));
    let admission = of(&Policies::default(), None, &shared_limits, now);
    let mut permit = ask(&admission, "192.0.2.1", 0, now).await.unwrap();
    assert!(ask(&admission, "192.0.2.1", 0, now).await.is_err());
    permit.return_sandbox();
    assert_eq!((admission.in_flight(), shared_limits.slots.taken()), (1, 0));
    let other = ask(&admission, "192.0.2.1", 0, now).await.unwrap();
    drop(permit);
    assert_eq!((admission.in_flight(), shared_limits.slots.taken()), (1, 1));
    drop(other);
    assert_eq!((admission.in_flight(), shared_limits.slots.taken()), (0, 0));
}

/// How a request ends.
#[derive(Debug)]
enum End {
    /// The client leaves.
    Left,
    /// A response with this status, after this time, and the part of it in which the guest waited for its client.
    Responded(u16, Duration, Duration),
    /// A response with this status, after the client's body broke off.
    AfterBroken(u16),
    /// No response.
    Failed(Option<Verdict>),
    /// A response that breaks off.
    Broke(Option<Verdict>),
}

/// The verdict on the service for each end of a request.
#[tokio::test]
async fn only_failures_of_the_service_count() {
    let (now, shared_limits) = (Instant::now(), shared_limits(10));
    let breaker = Some(Breaker { calls: 1, ..BREAKER });
    let terms = Policies { service: PolicySettings { breaker, ..PolicySettings::default() }, ..Policies::default() };
    let check = async |end: End, opens: bool| {
        let admission = of(&terms, None, &shared_limits, now);
        let mut permit = ask(&admission, "192.0.2.1", 0, now).await.unwrap();
        let judged = Arc::new(VersionStats::default());
        permit.judge(&judged, now);
        let mut response = |status, took, waited, broken| {
            let status = StatusCode::from_u16(status).unwrap();
            permit.record_response(status, Upload { waited, broken }, || now + took);
        };
        match &end {
            End::Left => {}
            End::Responded(status, took, waited) => response(*status, *took, *waited, false),
            End::AfterBroken(status) => response(*status, MS, Duration::ZERO, true),
            End::Failed(verdict) => permit.record_failure(*verdict, || now),
            End::Broke(verdict) => {
                response(200, MS, Duration::ZERO, false);
                permit.record_failure(*verdict, || now);
            }
        }
        drop(permit);
        assert_eq!(admission.breaker_state(now) == Some(BreakerState::Open), opens, "{end:?}");
        // A version is judged by the same results, except for the breaker's limit for slow calls.
        let (window, slow) = (judged.window(&JudgedCounts::default()), matches!(end, End::Responded(200, ..)));
        assert_eq!(window.errors, u64::from(opens && !slow), "{end:?}");
        let counts = !matches!(&end, End::Left | End::AfterBroken(500) | End::Failed(None));
        assert_eq!(window.requests, u64::from(counts), "{end:?}");
        if let End::Responded(200, took, waited) = end {
            assert!(window.p99.unwrap() <= (took - waited) * 5 / 2, "{end:?}: {window:?}");
        }
    };
    check(End::Left, false).await;
    check(End::Responded(200, SECOND, Duration::ZERO), false).await;
    check(End::Responded(404, MS, Duration::ZERO), false).await;
    check(End::Responded(500, MS, Duration::ZERO), true).await;
    check(End::Responded(200, SECOND + MS, Duration::ZERO), true).await;
    check(End::Responded(200, SECOND + 5 * MS, 6 * MS), false).await;
    check(End::Responded(200, SECOND + 5 * MS, SECOND), false).await;
    check(End::AfterBroken(500), false).await;
    check(End::AfterBroken(400), false).await;
    for (verdict, opens) in
        [(Some(Verdict::Failed), true), (Some(Verdict::Late), true), (Some(Verdict::Good), false), (None, false)]
    {
        check(End::Failed(verdict), opens).await;
    }
    check(End::Broke(Some(Verdict::Failed)), true).await;
    check(End::Broke(None), false).await;
}

/// Which state carries over when a service changes.
#[tokio::test]
async fn state_survives() {
    let (now, shared_limits) = (Instant::now(), shared_limits(10));
    let service = PolicySettings { rate: rate(3), breaker: Some(BREAKER), ..PolicySettings::default() };
    let terms = Policies { service: service.clone(), ..Policies::default() };
    let first = of(&terms, None, &shared_limits, now);
    for _ in 0..2 {
        ask(&first, "192.0.2.1", 0, now).await.unwrap().record_failure(Some(Verdict::Failed), || now);
    }
    let edited = of(&terms, Some((&first, false)), &shared_limits, now);
    assert_eq!(edited.breaker_state(now), Some(BreakerState::Open), "the same component keeps its breaker");
    let replaced = of(&terms, Some((&edited, true)), &shared_limits, now);
    assert_eq!(
        replaced.breaker_state(now),
        Some(BreakerState::Closed),
        "another component starts with a closed breaker"
    );
    let inside = ask(&replaced, "192.0.2.1", 0, now).await.unwrap();
    assert!(matches!(ask(&replaced, "192.0.2.1", 0, now).await, Err(Refusal::Rate(_))), "the rate stays used up");
    // Requests in flight still count under other limits.
    let tight = Limits { in_flight: 1, queue: 0, ..limits() };
    let tight = Admission::new(
        &Arc::from("users"),
        (&tight, &Policies::default()),
        &shared_limits,
        Some((&replaced, false)),
        now,
    );
    assert_eq!((tight.in_flight(), tight.slots()), (1, 256), "nothing changes before activate()");
    tight.activate();
    assert_eq!(ask(&tight, "192.0.2.1", 0, now).await.unwrap_err(), Refusal::QueueFull);
    drop(inside);
    assert!(ask(&tight, "192.0.2.1", 0, now).await.is_ok());
}

/// Slow responses reduce the slots; without the policy the slots come back, whatever is still in flight.
#[tokio::test]
async fn slots_follow_the_latency() {
    let (start, shared_limits) = (Instant::now(), shared_limits(100));
    let adaptive = Some(Adaptation { latency: 10 * MS, floor: 2 });
    let terms = Policies { adaptive, ..Policies::default() };
    let admission = of(&terms, None, &shared_limits, start);
    let mut now = start;
    for _ in 0..500 {
        let mut permit = ask(&admission, "192.0.2.1", 0, now).await.unwrap();
        now += 20 * MS;
        permit.record_response(StatusCode::OK, Upload::default(), || now);
    }
    assert!(admission.slots() < 10, "{}", admission.slots());
    let mut late = ask(&admission, "192.0.2.1", 0, now).await.unwrap();
    let without = of(&Policies::default(), Some((&admission, false)), &shared_limits, now);
    assert_eq!(without.slots(), 256);
    for _ in 0..100 {
        late.record_response(StatusCode::OK, Upload::default(), || now + SECOND);
    }
    assert_eq!((without.slots(), without.in_flight()), (256, 1));
}

proptest! {
    /// Every slot and every probe is released, whatever refuses requests and however they end.
    #[test]
    fn permits_return_to_zero(
        burst in 1..20_u32, slots in 1..6_usize,
        steps in prop::collection::vec((0..800_u64, any::<usize>(), 0..6_u8), 1..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (start, shared_limits) = (Instant::now(), shared_limits(slots));
            let service = PolicySettings { rate: rate(burst), breaker: Some(BREAKER), priority: Some(Priority::Low), ..PolicySettings::default() };
            let adaptive = Some(Adaptation { latency: 10 * MS, floor: 1 });
            let terms = Policies { service, adaptive, ..Policies::default() };
            let (admission, mut inside, mut now) = (of(&terms, None, &shared_limits, start), Vec::new(), start);
            for (ms, who, how) in steps {
                now += Duration::from_millis(ms);
                if how < 3 {
                    inside.extend(ask(&admission, "192.0.2.1", 0, now).await.ok());
                } else if !inside.is_empty() {
                    let mut permit: Permit = inside.swap_remove(who % inside.len());
                    match how {
                        3 => permit.record_failure(Some(Verdict::Failed), || now),
                        4 => permit.record_response(StatusCode::OK, Upload::default(), || now),
                        _ => {}
                    }
                }
                prop_assert_eq!((admission.in_flight(), shared_limits.slots.taken()), (inside.len(), inside.len()));
            }
            inside.clear();
            prop_assert_eq!((admission.in_flight(), shared_limits.slots.taken(), admission.queued()), (0, 0, 0));
            now += Duration::from_secs(100);
            prop_assert!(ask(&admission, "192.0.2.1", 0, now).await.is_ok(), "a probe is lost");
            Ok(())
        })?;
    }
}
