//! The effects of requests on stored responses, and of use on the responses: the cases of the public suite (see
//! `conformance`) that take more than two requests or look at headers, and further promises of this cache.

use http::Response;
use http::header::HeaderMap;

use super::fakes::{Body, Failed, GONE};
use super::proxy::How::{Hit, Miss, Validated};
use super::proxy::{Got, Proxy, headers, pass};

const GET: (&str, &str) = ("GET", "/a");
const HOUR: &str = "cache-control: max-age=3600\ndate: {0}";
const BRIEF: &str = "cache-control: max-age=2\ndate: {0}";

fn fails(_: &HeaderMap) -> Result<Response<Body>, Failed> {
    Err(GONE)
}

/// A request while the origin server is unreachable.
async fn ask_unreachable(proxy: &Proxy, asked: &str) -> Option<Got> {
    proxy.send_by(0, GET, asked, fails).await.ok()
}

/// status-*, heuristic-*: responses with explicit freshness and an implemented status are stored; without explicit
/// freshness none is.
#[tokio::test]
async fn statuses() {
    for status in
        [200, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 405, 410, 414, 499, 500, 501, 502, 503, 504, 599]
    {
        let stored = ![299, 400, 499, 500, 502, 503, 504, 599].contains(&status);
        for (lines, expected) in [
            ("cache-control: max-age=100000\ndate: {0}", if stored { Hit } else { Miss }),
            ("expires: {-5000}\nlast-modified: {-100000}\ndate: {0}", Miss),
            ("last-modified: {-100000}\ndate: {0}", Miss),
            ("last-modified: {-100000}\ndate: {0}\ncache-control: public", Miss),
            ("cache-control: max-age=3600, no-store, must-understand", Miss),
        ] {
            let (proxy, lines) = (Proxy::new("cache = true"), format!("status: {status}\n{lines}"));
            let first = proxy.send(GET, "", proxy.responds(&lines)).await;
            pass(3);
            let second = proxy.send(GET, "", proxy.responds(&lines)).await;
            let hit = second.asked.is_empty() && (first.status, &first.body) == (second.status, &second.body);
            assert_eq!(hit, expected == Hit, "{lines}");
        }
    }
}

/// headers-store-*: all headers but hop-by-hop ones are stored; a response with `Set-Cookie` is not stored.
#[tokio::test]
async fn stored_headers() {
    let kept = [
        "test-header: a",
        "x-test-header: a",
        "content-foo: a",
        "x-content-foo: a",
        "content-encoding: a",
        "content-location: /bar",
        "content-md5: N7UdGUp1E+RbVvZSTy1R8g==",
        "content-range: a",
        "content-security-policy: default-src 'self' cdn.example.com",
        "content-type: text/plain;charset=utf-8",
        "clear-site-data: cookies",
        "etag: \"ghijkl\"",
        "expires: Mon, 11 Jan 2038 11:11:11 GMT",
        "public-key-pins: a",
        "x-frame-options: sameorigin",
        "x-xss-protection: 1; mode=block",
    ];
    let dropped = [
        "connection: a",
        "keep-alive: a",
        "proxy-authenticate: a",
        "proxy-authentication-info: a",
        "proxy-authorization: a",
        "proxy-connection: a",
        "te: a",
        "transfer-encoding: a",
        "upgrade: a",
    ];
    let cases = kept.iter().map(|line| (line, true)).chain(dropped.iter().map(|line| (line, false)));
    for (line, stays) in cases {
        let (proxy, (name, value)) = (Proxy::new("cache = true"), line.split_once(": ").unwrap());
        let lines = format!("{HOUR}\n{line}");
        let first = proxy.send(GET, "", proxy.responds(&lines)).await;
        let second = proxy.send(GET, "", proxy.responds(&lines)).await;
        assert_eq!(second.how(&first), Hit, "{line}");
        assert_eq!(second.header(name), if stays { value } else { "" }, "{line}");
    }
    // headers-omit-headers-listed-in-Connection
    let proxy = Proxy::new("cache = true");
    let lines = format!("{HOUR}\nconnection: a, b\na: 1\nb: 2\nc: 3");
    proxy.send(GET, "", proxy.responds(&lines)).await;
    let got = proxy.send(GET, "", proxy.responds(&lines)).await;
    assert_eq!((got.asked.len(), got.header("a"), got.header("b"), got.header("c")), (0, "", "", "3"));
}

/// 304-etag-update-response-*: a 304 updates headers, except those that describe the body.
#[tokio::test]
async fn a_304_updates_headers() {
    let updated = [
        ("test-header", "a", "b"),
        ("x-test-header", "a", "b"),
        ("content-foo", "a", "b"),
        ("x-content-foo", "a", "b"),
        ("content-location", "/foo", "/bar"),
        ("content-security-policy", "default-src 'self'", "default-src 'none'"),
        ("content-type", "text/plain", "text/plain;charset=utf-8"),
        ("expires", "Fri, 01 Jan 2038 01:01:01 GMT", "Mon, 11 Jan 2038 11:11:11 GMT"),
        ("x-frame-options", "deny", "sameorigin"),
    ];
    let own = [("content-length", "6", "10"), ("content-encoding", "a", "b"), ("content-range", "a", "b")];
    let cases = updated.iter().map(|case| (case, true)).chain(own.iter().map(|case| (case, false)));
    for ((name, old, new), updates) in cases {
        let proxy = Proxy::new("cache = true");
        let with = |value: &str| format!("{BRIEF}\netag: \"x\"\n{name}: {value}");
        let first = proxy.send(GET, "", proxy.responds(&with(old))).await;
        pass(3);
        let expected = if updates { new } else { old };
        let second = proxy.send(GET, "", proxy.responds(&with(new))).await;
        assert_eq!((second.how(&first), second.header(name)), (Validated, *expected), "{name}");
        let third = proxy.send(GET, "", proxy.responds(&with(new))).await;
        assert_eq!((third.how(&first), third.header(name)), (Hit, *expected), "{name}");
    }
    // 304-lm-use-stored-Test-Header, and the new lifetime, age and date.
    let proxy = Proxy::new("cache = true");
    let modified = "last-modified: Wed, 01 Nov 2023 00:00:00 GMT\ndate: {0}";
    proxy.send(GET, "", proxy.responds(&format!("{modified}\ncache-control: max-age=2\ntest-header: a"))).await;
    pass(60);
    let second = proxy.send(GET, "", proxy.responds(&format!("{modified}\ncache-control: max-age=3600\nage: 7"))).await;
    assert_eq!((second.header("test-header"), second.header("age")), ("a", "7"), "the age is that of the 304");
    pass(3);
    let third = proxy.send(GET, "", proxy.responds("")).await;
    assert_eq!((third.asked.len(), third.header("test-header"), third.header("age")), (0, "a", "10"));
    assert_eq!(third.header("date"), headers("date: {-3}")["date"]);
}

/// RFC 9111, 4.3.4: a 304 with another validator is about another response. The stored one is neither used nor updated,
/// and the service is asked once more for a complete response.
#[tokio::test]
async fn a_304_about_another_response() {
    for (validator, other) in [
        ("etag: \"a\"", "etag: \"b\""),
        ("etag: W/\"a\"", "etag: \"a\""),
        ("etag: \"a\"", "etag: W/\"b\""),
        ("last-modified: Wed, 01 Nov 2023 00:00:00 GMT", "last-modified: Thu, 02 Nov 2023 00:00:00 GMT"),
        ("last-modified: Wed, 01 Nov 2023 00:00:00 GMT", "etag: \"b\""),
    ] {
        let proxy = Proxy::new("cache = true");
        let lines = |validator: &str| format!("{HOUR}\n{validator}");
        let first = proxy.send(GET, "", proxy.responds(&format!("{BRIEF}\n{validator}"))).await;
        pass(3);
        let unmodified = |asked: &HeaderMap| {
            let conditional = ["if-none-match", "if-modified-since"].iter().any(|name| asked.contains_key(*name));
            let mut response = proxy.responds(&lines(other))(&HeaderMap::new());
            if conditional {
                *response.status_mut() = http::StatusCode::NOT_MODIFIED;
                *response.body_mut() = Body::text(None);
            }
            response
        };
        let second = proxy.send(GET, "", unmodified).await;
        let (name, value) = other.split_once(": ").unwrap();
        assert_eq!(
            (second.how(&first), second.asked.len(), second.header(name)),
            (Miss, 2, value),
            "{validator} {other}"
        );
        assert_eq!(second.header("cache-status"), "lodge; fwd=stale; stored");
        let third = proxy.send(GET, "", unmodified).await;
        assert_eq!((third.how(&second), third.header(name)), (Hit, value), "the new response is stored");
    }
}

/// stale-*: only if the response allows it, and only for the time that it allows.
#[tokio::test]
async fn stale_responses() {
    for (control, served) in [
        ("max-age=2", false),
        ("max-age=2, stale-if-error=60", true),
        ("max-age=2, stale-while-revalidate=60", true),
        ("max-age=2, stale-while-revalidate=60, stale-if-error=1", true),
        ("max-age=2, stale-if-error=1", false),
        ("max-age=2, stale-if-error=x", false),
        ("max-age=2, must-revalidate, stale-if-error=60, stale-while-revalidate=60", false),
        ("max-age=2, proxy-revalidate, stale-if-error=60, stale-while-revalidate=60", false),
        ("s-maxage=2, stale-if-error=60, stale-while-revalidate=60", false),
    ] {
        let proxy = Proxy::new("cache = true");
        let first = proxy.send(GET, "", proxy.responds(&format!("cache-control: {control}"))).await;
        pass(4);
        let unavailable = proxy.send(GET, "", proxy.responds("status: 503")).await;
        assert_eq!(unavailable.body == first.body, served, "{control}: a status of 503");
        let gone = ask_unreachable(&proxy, "").await;
        assert_eq!(gone.is_some_and(|gone| gone.body == first.body), served, "{control}: no response");
        assert!(
            ask_unreachable(&proxy, "cache-control: no-cache").await.is_none(),
            "{control}: its client wants no stored one"
        );
        pass(60);
        assert!(ask_unreachable(&proxy, "").await.is_none(), "{control}: for ever");
    }
    // 404 is not an error.
    let proxy = Proxy::new("cache = true");
    proxy.send(GET, "", proxy.responds("cache-control: max-age=2, stale-if-error=60")).await;
    pass(4);
    assert_eq!(proxy.send(GET, "", proxy.responds("status: 404")).await.status, 404);
}

/// With `stale-while-revalidate` no request waits for a service that fails: one request at a time goes to the service.
#[tokio::test]
async fn one_request_at_a_time_probes_a_failed_service() {
    let proxy = Proxy::new("cache = true");
    let control = "cache-control: max-age=2, stale-while-revalidate=60";
    let first = proxy.send(GET, "", proxy.responds(control)).await;
    pass(4);
    for _ in 0..2 {
        // While one request fails at the service, another gets the stale response.
        let (asks, meanwhile) = tokio::join!(
            async {
                let asked = proxy.send_by(0, GET, "", fails).await.unwrap();
                assert_eq!((asked.asked.len(), &asked.body), (1, &first.body));
            },
            ask_unreachable(&proxy, ""),
        );
        let () = asks;
        assert!(meanwhile.is_some_and(|other| other.body == first.body));
    }
    let back = proxy.send(GET, "", proxy.responds(control)).await;
    assert_eq!(back.how(&first), Miss, "the service is back");
}

/// invalidate-*: an unsafe request invalidates the responses of its URI, unless it failed.
#[tokio::test]
async fn invalidation() {
    for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH"] {
        for (status, stays) in [(200, false), (204, false), (303, false), (404, true), (500, true)] {
            let proxy = Proxy::new("cache = true");
            let first = proxy.send(GET, "", proxy.responds(HOUR)).await;
            proxy.send(("GET", "/b"), "", proxy.responds(HOUR)).await;
            let told = format!("status: {status}\nlocation: /b\ncontent-location: /b");
            // The URI is the same by another route and through another proxy.
            let by = "x-forwarded-host: other";
            let changed = proxy.send_by(1, (method, "/a"), by, |asked| Ok(proxy.responds(&told)(asked))).await.unwrap();
            assert_eq!(changed.status, status);
            let again = proxy.send(GET, "", proxy.responds(HOUR)).await;
            assert_eq!(again.how(&first) == Hit, stays, "{method} {status}");
            // invalidate-*-location, invalidate-*-cl: other URIs stay valid.
            assert!(proxy.send(("GET", "/b"), "", proxy.responds(HOUR)).await.asked.is_empty());
        }
    }
    for method in ["OPTIONS", "TRACE", "HEAD"] {
        let proxy = Proxy::new("cache = true");
        let first = proxy.send(GET, "", proxy.responds(HOUR)).await;
        proxy.send((method, "/a"), "", proxy.responds("")).await;
        assert_eq!(proxy.send(GET, "", proxy.responds(HOUR)).await.how(&first), Hit, "{method}");
    }
    // method-POST: allowed, but a response to a POST is not stored.
    let proxy = Proxy::new("cache = true");
    let post = proxy.send(("POST", "/a"), "", proxy.responds(&format!("{HOUR}\ncontent-location: /a"))).await;
    assert_eq!(proxy.send(GET, "", proxy.responds(HOUR)).await.how(&post), Miss);
}

/// cc-resp-no-store-old-new, head-*, vary-invalidate, query-args-different: these leave a stored response valid.
#[tokio::test]
async fn unrelated_requests_do_not_invalidate() {
    let proxy = Proxy::new("cache = true");
    let first = proxy.send(GET, "", proxy.responds(HOUR)).await;
    for no_store in ["cache-control: no-store", "cache-control: no-store, max-age=0"] {
        let newer = proxy.send(GET, "cache-control: no-cache", proxy.responds(no_store)).await;
        assert_eq!(newer.how(&first), Miss);
        assert_eq!(proxy.send(GET, "", proxy.responds(HOUR)).await.how(&first), Hit);
    }
    let other = proxy.send(("GET", "/a?x"), "", proxy.responds(HOUR)).await;
    assert_eq!(other.how(&first), Miss);
    let head = proxy.send(("HEAD", "/a"), "", proxy.responds(HOUR)).await;
    assert_eq!((head.asked.len(), head.body.len(), head.header("content-length")), (0, 0, "6"));
    // A HEAD updates nothing.
    let proxy = Proxy::new("cache = true");
    proxy.send(GET, "", proxy.responds(&format!("{BRIEF}\ntest-header: 1"))).await;
    pass(3);
    let head = proxy.send(("HEAD", "/a"), "", proxy.responds(&format!("{HOUR}\ntest-header: 2"))).await;
    assert_eq!((head.asked.len(), head.header("test-header")), (1, "2"));
    assert_eq!(proxy.send(GET, "", proxy.responds(HOUR)).await.asked.len(), 1);
    // Two variants.
    let (proxy, vary) = (Proxy::new("cache = true"), format!("{HOUR}\nvary: foo"));
    let one = proxy.send(GET, "foo: 1", proxy.responds(&vary)).await;
    let two = proxy.send(GET, "foo: 2", proxy.responds(&vary)).await;
    assert_eq!(two.how(&one), Miss);
    assert_eq!(proxy.send(GET, "foo: 1", proxy.responds(&vary)).await.how(&one), Hit);
    assert_eq!(proxy.send(GET, "foo: 2", proxy.responds(&vary)).await.how(&two), Hit);
}

/// other-age-*, other-date-*: the age grows from the `Age` of other caches and the delay of the service; the date
/// stays.
#[tokio::test]
async fn ages_and_dates() {
    for (lines, age) in [
        (HOUR, "3"),
        ("cache-control: max-age=3600\ndate: {0}\nage: 30", "33"),
        ("expires: {2592000}\ndate: {0}\nage: 30", "33"),
        ("cache-control: max-age=3600\ndate: {-30}", "33"),
        ("cache-control: max-age=3600\ndate: {-30}\nage: 60", "63"),
        ("cache-control: max-age=3600\ndate: {30}", "3"),
        ("cache-control: max-age=3600", "3"),
    ] {
        let proxy = Proxy::new("cache = true");
        let first = proxy.send(GET, "", proxy.responds(lines)).await;
        let sent = headers(lines);
        pass(3);
        let second = proxy.send(GET, "", proxy.responds(lines)).await;
        assert_eq!((second.how(&first), second.header("age")), (Hit, age), "{lines}");
        for name in ["date", "expires"] {
            assert!(sent.get(name).is_none_or(|value| second.headers[name] == value), "{lines}: {name}");
        }
        assert!(!second.header("date").is_empty(), "{lines}");
    }
    // The delay of a response adds to its age, and shortens the time until it is stale.
    let proxy = Proxy::new("cache = true");
    proxy.send(GET, "", slow(&proxy, "cache-control: max-age=3600")).await;
    assert_eq!(proxy.send(GET, "", proxy.responds("")).await.header("age"), "5");
    let proxy = Proxy::new("cache = true");
    let first = proxy.send(GET, "", slow(&proxy, "cache-control: max-age=5")).await;
    assert_eq!(proxy.send(GET, "", proxy.responds(HOUR)).await.how(&first), Miss);
}

/// A slow origin server.
fn slow<'a>(proxy: &'a Proxy, lines: &str) -> impl Fn(&HeaderMap) -> Response<Body> + use<'a> {
    let responds = proxy.responds(lines);
    move |asked: &HeaderMap| {
        pass(5);
        responds(asked)
    }
}
