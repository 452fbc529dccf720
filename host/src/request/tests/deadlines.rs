//! The deadline of a request: `limits.wall` after its admission, and never after that of its caller.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, StatusCode};

use super::fixture::{Fixture, call, get, record, within};
use crate::request::admit::{Routed, admit};
use crate::request::error::RequestError;
use crate::request::handler::{Call, HostWord};
use crate::request::mirror::AnyBody;
use lodge_manifest::upstream::source::Source;
use lodge_runtime::error::{GuestCode, RunError};
use lodge_traffic::admission::Upload;
use lodge_traffic::admission::breaker::BreakerState;
use lodge_traffic::proxy::cluster_hop::{CLUSTER_HOP, ClusterHop};
use lodge_traffic::proxy::host_key::HostKey;
use lodge_traffic::upstreams::discover::cluster::{HostsOfServices, ServingHost};
use lodge_traffic::upstreams::send::Failure;

const WALL: Duration = Duration::from_secs(30);

/// Admits a request, and returns its deadline.
async fn deadline(host: &Fixture, call: Option<&Call<'_>>) -> (Instant, Instant) {
    deadline_until(host, call, None).await
}

/// The same of a request that another host has forwarded, and for which that has time until then.
async fn deadline_until(host: &Fixture, call: Option<&Call<'_>>, until: Option<Instant>) -> (Instant, Instant) {
    let mut record = record();
    let caller = host.caller(call);
    let word = until.map(|until| Box::new(HostWord { until, calling: None }));
    let routed = Routed { word, ..host.routed("users", &caller) };
    let start = record.start();
    let admitted = within(admit(&routed, &HeaderMap::new(), None, &mut record)).await.unwrap();
    (start, admitted.context.deadline)
}

#[tokio::test]
async fn the_earlier_deadline_counts() {
    let host = Fixture::with(&[("users", "limits.wall = '30s'")]).await;
    let (start, own) = deadline(&host, None).await;
    assert_eq!(own, start + WALL);
    let sooner = Instant::now() + Duration::from_secs(1);
    let called = deadline(&host, Some(&call("users.localhost", 1, sooner))).await;
    assert_eq!(called.1, sooner);
    let later = Instant::now() + 2 * WALL;
    let (start, called) = deadline(&host, Some(&call("users.localhost", 1, later))).await;
    assert_eq!(called, start + WALL);
    assert_eq!(deadline_until(&host, None, Some(sooner)).await.1, sooner);
    let (start, forwarded) = deadline_until(&host, None, Some(later)).await;
    assert_eq!(forwarded, start + WALL);
    assert!(host.is_idle());
}

/// The time in a queue does not count.
#[tokio::test]
async fn the_time_begins_with_admission() {
    let host = Fixture::with(&[("users", "limits = { wall = '30s', in_flight = 1 }")]).await;
    let held = host.target("users").admission.try_admit(Instant::now()).unwrap();
    let ((start, deadline), released) = tokio::join!(deadline(&host, None), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(held);
        Instant::now()
    });
    assert!(
        deadline >= start + Duration::from_millis(50) + WALL && deadline >= released + WALL - Duration::from_millis(10)
    );
}

/// Lets the host know another one with this key, which serves `shop`.
pub(super) fn have_host(host: &Fixture, key: &HostKey) {
    let hosts = host.handler.cluster.as_ref().unwrap();
    let Ok(Source::Fixed(fixed)) = Source::parse("http://10.0.0.2:8080") else { panic!() };
    let shop = ServingHost { name: "b".into(), fixed, is_far: false };
    let (keys, by_service) = ([(key.digest(), "b".into())].into(), [("shop".to_owned(), vec![shop.into()])].into());
    hosts.replace(HostsOfServices { keys, by_service, ..HostsOfServices::default() });
}

/// A request with what a host says of it.
pub(super) fn hop(path: &str, text: &str, key: Option<&HostKey>) -> http::Request<AnyBody> {
    let mut request = get(format!("http://test{path}"));
    let key = key.map_or(String::new(), |key| format!(";key={}", key.text()));
    request.headers_mut().insert(CLUSTER_HOP, HeaderValue::try_from(format!("{text}{key}")).unwrap());
    request
}

/// A caller opens no breaker of a service by giving it little time, neither another host that forwards a request nor a service that calls.
/// Failures count if the service had nearly all of its time, or failed long before the end of less; those that time does not cause always
/// count.
#[tokio::test]
async fn a_short_time_is_no_failure_of_the_service() {
    // With whether time may cause them: a guest whose wait is cut short may do anything. None is a response with a failure.
    type End = fn() -> Option<RequestError>;
    let ends: [(End, bool); 11] = [
        (|| Some(RequestError::WallTime), true),
        (|| Some(RunError::WallTime.into()), true),
        (|| Some(Failure::TimedOut(String::new()).into()), true),
        (|| Some(Failure::BrokenOff(String::new()).into()), true),
        (|| Some(RunError::trapped("no row within its time".into(), Vec::new(), None).into()), true),
        (|| Some(RunError::NoResponse.into()), true),
        (|| Some(RunError::Reported(GuestCode { status: StatusCode::BAD_GATEWAY, name: String::new() }).into()), true),
        (|| None, true),
        (|| Some(RunError::OverMemory(None).into()), false),
        (|| Some(RunError::CpuTime(None).into()), false),
        (|| Some(Failure::Response("connection refused".into()).into()), false),
    ];
    for given in [None, Some(0), Some(10), Some(28), Some(60)] {
        for is_call in [false, true] {
            for (end, may_be_due_to_time) in ends {
                let host = Fixture::with(&[("users", "limits.wall = '30s'\n[breaker]\ncalls = 2")]).await;
                let mut reason = None;
                for _ in 0..3 {
                    let until = given.map(|given| Instant::now() + Duration::from_secs(given));
                    let call = until.filter(|_| is_call).map(|until| call("users.localhost", 1, until));
                    let caller = host.caller(call.as_ref());
                    let word = until.filter(|_| !is_call).map(|until| Box::new(HostWord { until, calling: None }));
                    let routed = Routed { word, ..host.routed("users", &caller) };
                    let mut record = record();
                    let Ok(mut admitted) = admit(&routed, &HeaderMap::new(), None, &mut record).await else { break };
                    match end() {
                        Some(error) => reason = Some(error.recorded(&mut admitted.permit).reason()),
                        None => {
                            admitted.permit.record_response(StatusCode::BAD_GATEWAY, Upload::default(), Instant::now);
                        }
                    }
                }
                let counts = given != Some(0) || !may_be_due_to_time;
                let expected = end().map(|error| if counts { error.reason() } else { "caller-deadline" });
                let open = host.target("users").admission.breaker_state(Instant::now()) == Some(BreakerState::Open);
                assert_eq!((reason, open), (expected, counts), "{given:?} {is_call}");
            }
        }
    }
}

/// Only who has the key of another host of the cluster says how much time is left, wherever the request comes from: clients can have the
/// address of a host. Whoever else sends its header has the time of the service, and so neither opens the breaker nor hides that the
/// service hangs.
#[tokio::test]
async fn clients_do_not_choose_the_time() {
    // It accepts connections, and never responds.
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let replica = format!("http://{}", hanging.local_addr().unwrap());
    let text = format!("limits.wall = '200ms'\n[breaker]\ncalls = 2\n[upstream]\nreplicas = ['{replica}']");
    let (own, other, unknown) = (HostKey::random(), HostKey::random(), HostKey::random());
    for (key, is_host) in [(None, false), (Some(&own), false), (Some(&unknown), false), (Some(&other), true)] {
        let reason = if is_host { "caller-deadline" } else { "upstream-timeout" };
        let host = Fixture::with(&[("users", &text)]).await;
        host.handler.cluster.as_ref().unwrap().join(own.clone());
        have_host(&host, &other);
        for _ in 0..2 {
            let reply = host.send(hop("/users", "users;calls=0;ms=1;from=shop", key)).await;
            assert_eq!((reply.status, reply.text.as_str()), (504, reason));
        }
        let open = host.target("users").admission.breaker_state(Instant::now()) == Some(BreakerState::Open);
        assert_eq!(open, !is_host, "{reason}");
    }
}

/// What a host says is its time, and a service only if it serves that.
#[tokio::test]
async fn a_host_speaks_for_its_services() {
    let host = Fixture::with(&[("users", "")]).await;
    let (key, now, left) = (HostKey::random(), Instant::now(), Duration::from_secs(1));
    have_host(&host, &key);
    let word = |from: Option<&str>, key: Option<&HostKey>| {
        let (from, key) = (from.map(Box::from), key.cloned());
        host.handler.word_of(&ClusterHop { service: "users".into(), calls: 0, left, from, key }, now)
    };
    let until = now + left;
    assert_eq!(word(Some("shop"), Some(&key)), Some(HostWord { until, calling: Some("shop".into()) }));
    assert_eq!(word(Some("orders"), Some(&key)), Some(HostWord { until, calling: None }));
    assert_eq!(word(None, Some(&key)), Some(HostWord { until, calling: None }));
    assert_eq!(word(Some("shop"), None), None);
    assert_eq!(word(Some("shop"), Some(&HostKey::random())), None);
}

/// What a caller cut short is no failure in counts and logs either, and may have taken effect.
#[tokio::test]
async fn what_was_cut_short_is_refused() {
    let host = Fixture::with(&[("users", "")]).await;
    let error = RequestError::TooLittleTime(Box::new(RequestError::WallTime));
    let service = host.service("users");
    error.record(&service, "1", false);
    error.record(&service, "1", true);
    assert_eq!(host.refused("users"), [("caller-deadline", 1)]);
    assert_eq!((service.metrics.aborted.read(), service.failures().len()), (vec![("caller-deadline", 1)], 0));
    assert!(error.is_policy() && error.reached_backend() && error.verdict().is_none());
    assert_eq!((error.status().as_u16(), error.detail().as_deref()), (504, Some("wall-time")));
    let error = RequestError::TooLittleTime(Box::new(Failure::TimedOut("it is slow".into()).into()));
    assert_eq!(error.detail().as_deref(), Some("upstream-timeout: it is slow"));
}
