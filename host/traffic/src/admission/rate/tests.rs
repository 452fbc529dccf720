use std::sync::atomic::AtomicUsize;

use http::HeaderMap;
use proptest::prelude::*;

use super::*;
use http::header::HeaderName;
use lodge_manifest::rate::Scope;
use std::time::Duration;

fn settings(count: u32, per: Duration, burst: u32, by: By) -> Settings {
    Settings { count, per, burst, by, scope: Scope::Host }
}

const SECOND: Duration = Duration::from_secs(1);

/// Takes one request from the client's bucket.
fn ask(rate: &Rate, client: &str, now: Instant) -> Result<RateStatus, RateStatus> {
    let headers = HeaderMap::new();
    rate.take(&RequestView::new(client.parse().unwrap(), &headers), now)
}

fn admitted(rate: &Rate, now: Instant, view: usize) -> usize {
    (0..view).filter(|_| ask(rate, "192.0.2.1", now).is_ok()).count()
}

#[test]
fn a_burst_then_the_rate() {
    let start = Instant::now();
    let rate = Rate::new(&settings(10, SECOND, 5, By::Service), "", start);
    assert_eq!(admitted(&rate, start, 20), 5);
    assert_eq!(admitted(&rate, start + SECOND / 10, 20), 1);
    assert_eq!(admitted(&rate, start + SECOND, 20), 5, "at most a burst accumulates");
}

/// An interval that is not a whole number of nanoseconds is rounded up, by a negligible amount.
#[test]
fn rounding_admits_no_extra_request() {
    let start = Instant::now();
    let rate = Rate::new(&settings(700_000, SECOND, 10, By::Service), "", start);
    let times = (0..=100_000).map(|micros| start + Duration::from_micros(micros));
    let admitted: usize = times.map(|now| admitted(&rate, now, 2)).sum();
    assert!((69_900..=70_010).contains(&admitted), "{admitted}");
}

/// The fields match what the limit does.
#[test]
fn headers_match_the_bucket() {
    let start = Instant::now();
    let rate = Rate::new(&settings(1, SECOND * 10, 3, By::Client), "route-", start);
    let shown = |status: &RateStatus| {
        let mut headers = HeaderMap::new();
        status.write(&mut headers);
        ["ratelimit-policy", "ratelimit"].map(|name| headers[name].to_str().unwrap().to_owned())
    };
    let first = ask(&rate, "192.0.2.1", start).unwrap();
    assert_eq!(shown(&first), ["\"route-client\";q=3;w=30", "\"route-client\";r=2;t=10"]);
    assert_eq!((first.retry_after(), ask(&rate, "192.0.2.1", start).unwrap().remaining()), (0, 1));
    ask(&rate, "192.0.2.1", start).unwrap();
    let refused = ask(&rate, "192.0.2.1", start + SECOND / 2).unwrap_err();
    assert_eq!((refused.remaining(), refused.retry_after()), (0, 10));
    assert!(ask(&rate, "192.0.2.1", start + SECOND * 9).is_err());
    assert!(ask(&rate, "192.0.2.1", start + SECOND * 10).is_ok());
}

/// Which requests share a bucket.
#[test]
fn keys_are_clients() {
    let start = Instant::now();
    let rate = Rate::new(&settings(1, SECOND, 1, By::Client), "", start);
    assert!(ask(&rate, "192.0.2.1", start).is_ok() && ask(&rate, "192.0.2.1", start).is_err());
    assert!(ask(&rate, "192.0.2.2", start).is_ok());
    assert!(ask(&rate, "2001:db8:0:1::1", start).is_ok());
    assert!(ask(&rate, "2001:db8:0:1:ffff::2", start).is_err(), "a /64 is one client");
    assert!(ask(&rate, "2001:db8:0:2::1", start).is_ok());
    assert_eq!(rate.keys(start), Some(4));
    assert_eq!(rate.keys(start + SECOND), Some(0));
    let header = Rate::new(&settings(1, SECOND, 1, By::Header(HeaderName::from_static("x-api-key"))), "", start);
    let mut headers = HeaderMap::new();
    for (value, expected) in [(None, true), (None, false), (Some("a"), true), (Some("a"), false), (Some("b"), true)] {
        headers.clear();
        value.map(|value: &str| headers.insert("x-api-key", value.parse().unwrap()));
        let view = RequestView::new("192.0.2.1".parse().unwrap(), &headers);
        assert_eq!(header.take(&view, start).is_ok(), expected, "{value:?}");
        // Each service that calls from another host is a client, besides that host.
        let of = |calling| Rate::take(&rate, &RequestView { calling, client: [198, 51, 100, 7].into(), ..view }, start);
        let first = headers.is_empty() && expected;
        assert_eq!([Some("evil"), Some("shop"), None].map(|calling| of(calling).is_ok()), [first; 3], "{value:?}");
    }
}

/// Another rate keeps the use, counted in requests; the same rate keeps all state; other keys start anew.
#[test]
fn use_survives_an_edit() {
    let start = Instant::now();
    for by in [By::Service, By::Client] {
        let old = settings(10, SECOND, 10, by.clone());
        let rate = Rate::new(&old, "", start);
        assert_eq!(admitted(&rate, start, 8), 8);
        assert_eq!(admitted(&rate.with_settings(&old, "", start), start, 10), 2);
        let slower = rate.with_settings(&settings(1, SECOND, 12, by.clone()), "", start);
        assert_eq!(admitted(&slower, start, 20), 2, "ten of twelve are used");
        assert_eq!(admitted(&slower.with_settings(&settings(1, SECOND, 3, by.clone()), "", start), start, 20), 0);
        let narrow = slower.with_settings(&settings(1, SECOND, 3, by.clone()), "", start);
        assert_eq!(admitted(&narrow, start + SECOND, 20), 1, "at most a burst stays used");
        let other = if by == By::Client { By::Service } else { By::Client };
        assert_eq!(admitted(&rate.with_settings(&settings(10, SECOND, 10, other), "", start), start, 20), 10);
    }
}

/// With ten times as many requests as the limit allows, on real threads, exactly the rate plus the burst is admitted.
#[test]
fn threads_share_a_bucket() {
    for by in [By::Service, By::Client] {
        let start = Instant::now();
        let rate = Rate::new(&settings(1_000, SECOND, 100, by), "", start);
        let admitted = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4_u32 {
                let (rate, admitted) = (&rate, &admitted);
                scope.spawn(move || {
                    for tick in 0..10_000_u32 {
                        // Ten seconds of simulated time that passes at the same pace on all threads, but not in step.
                        let now =
                            start + Duration::from_millis(u64::from(tick)) + Duration::from_micros(u64::from(thread));
                        (0..3).for_each(|_| drop(ask(rate, "192.0.2.1", now).map(|_| admitted.fetch_add(1, Relaxed))));
                    }
                });
            }
        });
        let (admitted, most) = (admitted.into_inner(), 100 + 10_000);
        assert!(admitted <= most, "{admitted} of {most}");
        assert!(admitted * 100 >= most * 98, "{admitted} of {most}");
    }
}

proptest! {
    /// In no period are more requests admitted than the burst plus the rate times its length, and no request is refused
    /// for which there was room.
    #[test]
    fn never_more_than_burst_and_rate(
        count in 1..2_000_u32, per_ms in 1..60_000_u64, burst in 1..50_u32,
        gaps in prop::collection::vec(prop_oneof![Just(0), 0..1_000_000_u64, 0..10_000_000_000_u64], 1..200),
    ) {
        let (start, per) = (Instant::now(), Duration::from_millis(per_ms));
        let rate = Rate::new(&settings(count, per, burst, By::Service), "", start);
        let interval = per.as_nanos().div_ceil(u128::from(count));
        let (mut at, mut times) = (0, Vec::<u64>::new());
        for gap in gaps {
            at += gap;
            let taken = ask(&rate, "192.0.2.1", start + Duration::from_nanos(at));
            if taken.is_ok() {
                times.push(at);
            } else {
                // Some period that ends now is full.
                let full = (0..times.len()).any(|first| {
                    let stretch = u128::from(at - times[first]);
                    (times.len() - first) as u128 + 1 > u128::from(burst) + stretch / interval
                });
                prop_assert!(full, "refused at {at} after {times:?}");
            }
        }
        for (n, first) in times.iter().enumerate() {
            for (m, last) in times.iter().enumerate().skip(n) {
                let allowed = u128::from(burst) + u128::from(last - first) / interval;
                prop_assert!((m - n + 1) as u128 <= allowed, "{} in {} ns", m - n + 1, last - first);
            }
        }
    }

    /// An edit at any time, to any rate, gives nothing back: use decays only with time.
    #[test]
    fn an_edit_refills_nothing(
        used in 1..40_u32, burst in 40..80_u32, count in 1..500_u32, after in 1..500_u32, grown in 0..100_u32,
    ) {
        let start = Instant::now();
        for by in [By::Service, By::Client] {
            let rate = Rate::new(&settings(count, SECOND, burst, by.clone()), "", start);
            admitted(&rate, start, used as usize);
            let edited = rate.with_settings(&settings(after, SECOND, burst + grown, by), "", start);
            prop_assert_eq!(admitted(&edited, start, 1_000), (burst + grown - used) as usize);
        }
    }
}
