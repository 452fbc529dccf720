//! The deadline of a request: `limits.wall` after its admission, and never after that of its caller.

use std::time::{Duration, Instant};

use http::HeaderMap;

use super::fixture::{Fixture, call, record, within};
use crate::request::admit::{Routed, admit};
use crate::request::handler::Call;

const WALL: Duration = Duration::from_secs(30);

/// Admits a request, and returns its deadline.
async fn deadline(host: &Fixture, call: Option<&Call<'_>>) -> (Instant, Instant) {
    deadline_until(host, call, None).await
}

/// The same of a request that another host has forwarded, and for which that has time until then.
async fn deadline_until(host: &Fixture, call: Option<&Call<'_>>, until: Option<Instant>) -> (Instant, Instant) {
    let mut record = record();
    let caller = host.caller(call);
    let routed = Routed { until, ..host.routed("users", &caller) };
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
