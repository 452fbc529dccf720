use http::HeaderName;
use proptest::prelude::*;

use super::*;

const NOW: Duration = Duration::from_secs(1_700_000_000);

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + NOW + Duration::from_secs(seconds)
}

fn times() -> Times {
    Times { requested: at(0), received: at(0) }
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let line = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
    lines.iter().map(line).fold(HeaderMap::new(), |mut all, (name, value)| {
        all.append(name, value);
        all
    })
}

fn freshness(
    asked: &[(&'static str, &str)],
    status: u16,
    response_headers: &[(&'static str, &str)],
    ttl: u64,
) -> Option<Freshness> {
    let (mut head, ()) = http::Response::new(()).into_parts();
    (head.status, head.headers) = (StatusCode::from_u16(status).unwrap(), headers(response_headers));
    Freshness::of(&headers(asked), &head, Rules { keep: true, ttl: Duration::from_secs(ttl) }, times())
}

/// For how many seconds a 200 to a plain GET with this `Cache-Control` is fresh; 0 if it is not stored.
fn fresh(control: &str) -> i64 {
    freshness(&[], 200, &[("cache-control", control)], 7).map_or(0, |freshness| freshness.left(at(0)))
}

#[test]
fn a_responses_own_directives_decide() {
    for (control, seconds) in [
        ("max-age=60", 60),
        ("Max-Age=60", 60),
        ("public, max-age=60", 60),
        ("max-age=60, s-maxage=5", 5),
        ("s-maxage=0, max-age=60", 0),
        ("no-store, max-age=60", 0),
        ("No-Store, max-age=60", 0),
        ("private, max-age=60", 0),
        ("private=\"set-cookie\", max-age=60", 0),
        ("no-cache, max-age=60", 0),
        ("max-age=0", 0),
        ("max-age=-1", 0),
        ("max-age=soon", 0),
        ("public", 0),
        ("max-age=99999999999999999999", 1 << 31),
        ("max-age=18446744073709551615", 1 << 31),
    ] {
        assert_eq!(fresh(control), seconds, "{control}");
    }
    let expires = freshness(
        &[],
        200,
        &[("date", "Tue, 14 Nov 2023 22:13:20 GMT"), ("expires", "Tue, 14 Nov 2023 22:13:50 GMT")],
        7,
    );
    assert_eq!(expires.unwrap().left(at(0)), 30);
    assert!(freshness(&[], 200, &[("expires", "0")], 7).is_none());
    let unread = HeaderValue::from_bytes(b"no-store, x=\"\xff\"").unwrap();
    let (mut head, ()) = http::Response::new(()).into_parts();
    head.headers.append(header::CACHE_CONTROL, "max-age=60".parse().unwrap());
    head.headers.append(header::CACHE_CONTROL, unread);
    assert!(
        Freshness::of(&HeaderMap::new(), &head, Rules::default(), times()).is_none(),
        "what is not read may forbid it"
    );
}

/// The operator's `ttl` only applies to a 200 without directives.
#[test]
fn ttl_applies_only_without_directives() {
    let left = |status, response_headers: &[(&'static str, &str)], ttl| {
        freshness(&[], status, response_headers, ttl).map(|it| it.left(at(0)))
    };
    assert_eq!(left(200, &[("etag", "\"a\"")], 7), Some(7));
    assert_eq!(left(200, &[], 0), None);
    for (status, response_headers) in
        [(200, ("cache-control", "no-store")), (200, ("pragma", "no-cache")), (404, ("etag", "\"a\""))]
    {
        assert_eq!(left(status, &[response_headers], 7), None, "{status} {response_headers:?}");
    }
    let modified = ("last-modified", "Tue, 14 Nov 2003 22:13:20 GMT");
    assert_eq!(left(200, &[modified], 0), None, "there is no heuristic freshness");
    assert_eq!(left(404, &[("cache-control", "max-age=5")], 7), Some(5));
    assert_eq!(left(500, &[("cache-control", "max-age=5")], 7), None);
    assert_eq!(left(206, &[("cache-control", "max-age=5")], 7), None);
}

#[test]
fn personal_responses_are_not_stored() {
    let stored = |asked: &[_], response_headers: &[_]| {
        freshness(asked, 200, response_headers, 0).map(|freshness| freshness.shared)
    };
    let age = ("cache-control", "max-age=60");
    assert_eq!(stored(&[], &[age]), Some(false));
    assert_eq!(stored(&[("authorization", "Bearer x")], &[age]), None);
    assert_eq!(stored(&[("authorization", "Bearer x")], &[("cache-control", "public, max-age=60")]), Some(true));
    assert_eq!(stored(&[], &[("cache-control", "public, max-age=60"), ("set-cookie", "id=1")]), None);
    assert_eq!(stored(&[], &[age, ("vary", "accept"), ("vary", "cookie, *")]), None);
    assert_eq!(stored(&[("cache-control", "no-store")], &[age]), None);
}

#[test]
fn age_and_remaining_seconds() {
    let freshness = freshness(&[], 200, &[("cache-control", "max-age=60"), ("age", "10")], 0).unwrap();
    assert_eq!((freshness.age(at(0)), freshness.left(at(0))), (10, 50));
    assert_eq!((freshness.age(at(20)), freshness.left(at(20))), (30, 30));
    assert!(freshness.is_fresh(at(49)) && !freshness.is_fresh(at(50)));
    assert_eq!(freshness.left(at(55)), -5);
}

#[test]
fn requests_can_demand_freshness_or_accept_staleness() {
    let freshness = freshness(&[], 200, &[("cache-control", "max-age=60")], 0).unwrap();
    let satisfies = |control: &str, now| freshness.satisfies(&headers(&[("cache-control", control)]), at(now));
    assert!(freshness.satisfies(&HeaderMap::new(), at(59)) && !freshness.satisfies(&HeaderMap::new(), at(60)));
    assert!(!satisfies("No-Cache", 1) && !satisfies("max-age=0", 1) && satisfies("max-age=10", 10));
    assert!(!satisfies("min-fresh=30", 31) && satisfies("min-fresh=30", 29));
    assert!(satisfies("max-stale=10", 65) && !satisfies("max-stale=10", 75));
    assert!(!freshness.satisfies(&headers(&[("pragma", "no-cache")]), at(1)));
}

#[test]
fn stale_use_needs_a_directive() {
    let graces = |control: &str, now| {
        let freshness = freshness(&[], 200, &[("cache-control", control)], 0).unwrap();
        (freshness.allows_while_revalidating(at(now)), freshness.allows_on_error(at(now)))
    };
    let both = "max-age=60, stale-while-revalidate=10, stale-if-error=20";
    assert_eq!(graces(both, 69), (true, true));
    assert_eq!(graces("max-age=60, stale-while-revalidate=10", 69), (true, true));
    assert_eq!(graces("max-age=60, stale-while-revalidate=10", 70), (false, false));
    assert_eq!(graces(both, 70), (false, true));
    assert_eq!(graces(both, 80), (false, false));
    assert_eq!(graces("max-age=60", 60), (false, false));
    for strict in ["must-revalidate", "proxy-revalidate", "s-maxage=60"] {
        assert_eq!(graces(&format!("{both}, {strict}"), 61), (false, false), "{strict}");
    }
}

proptest! {
    /// No header makes the code panic, or a response fresh for more than 2³¹ seconds.
    #[test]
    fn arbitrary_directives(
        control in "[ -~]{0,40}", words in "((max-age|s-maxage|stale-if-error|private|public)(=\"?[0-9]{0,22}\"?)?,? ?){0,4}",
        age in "[ -~]{0,24}", number in any::<u64>(), expires in "[ -~]{0,40}", later in 0_u64..1 << 33,
    ) {
        for (control, age) in [(&control, age.clone()), (&words, number.to_string())] {
            let response_headers = [("cache-control", control.as_str()), ("age", age.trim()), ("expires", expires.trim())];
            if let Some(freshness) = freshness(&[("cache-control", control)], 200, &response_headers, 1) {
                prop_assert!(freshness.left(at(0)) <= 1 << 31);
                let _ = (freshness.age(at(later)), freshness.left(at(later)), freshness.allows_on_error(at(later)));
                let _ = freshness.satisfies(&headers(&[("cache-control", control)]), at(later));
            }
        }
    }
}
