//! Directives and conditions of requests, and variants of responses: the cases of the public suite (see `conformance`)
//! that look at headers of requests.

use http::{Response, StatusCode};

use super::fakes::{Body, Failed};
use super::proxy::How::{Hit, Miss, NotModified, Validated};
use super::proxy::{BRIEF, Got, HOUR, Proxy, check, pass};

/// What a request accepts.
#[tokio::test]
async fn requests() {
    let strict = |how: &'static str| ("stale although", "", how, "cache-control: max-stale=1000", Miss);
    check(&[
        ("ccreq-ma0", "", HOUR, "cache-control: max-age=0", Miss),
        ("ccreq-ma1", "", HOUR, "cache-control: max-age=1", Miss),
        ("ccreq-magreaterage", "", "cache-control: max-age=3600\nage: 1800", "cache-control: max-age=600", Miss),
        ("ccreq-max-stale", "", BRIEF, "cache-control: max-stale=1000", Hit),
        ("any staleness", "", BRIEF, "cache-control: max-stale", Hit),
        ("not so stale", "", "cache-control: max-age=1", "cache-control: max-stale=1", Miss),
        // A response that arrives stale is not stored.
        ("ccreq-max-stale-age", "", "cache-control: max-age=1500\nage: 2000", "cache-control: max-stale=1000", Miss),
        ("ccreq-min-fresh", "", "cache-control: max-age=1500", "cache-control: min-fresh=2000", Miss),
        ("ccreq-min-fresh-age", "", "cache-control: max-age=1500\nage: 1000", "cache-control: min-fresh=1000", Miss),
        ("as fresh as that", "", "cache-control: max-age=1500\nage: 490", "cache-control: min-fresh=1000", Hit),
        ("ccreq-no-cache", "", HOUR, "cache-control: no-cache", Miss),
        (
            "ccreq-no-cache-lm",
            "",
            "cache-control: max-age=3600\nlast-modified: Wed, 01 Nov 2023 00:00:00 GMT",
            "cache-control: no-cache",
            Validated,
        ),
        ("ccreq-no-cache-etag", "", "cache-control: max-age=3600\netag: \"abc\"", "cache-control: no-cache", Validated),
        ("ccreq-no-store", "", HOUR, "cache-control: no-store", Miss),
        // Not a directive that this cache implements.
        ("only-if-cached of what is stored", "", HOUR, "cache-control: only-if-cached", Hit),
        ("max-age that is no number", "", HOUR, "cache-control: max-age=x", Miss),
        // Directives of the response win over `max-stale` (RFC 9111, 5.2.2).
        strict("cache-control: max-age=2, must-revalidate"),
        strict("cache-control: max-age=2, proxy-revalidate"),
        strict("cache-control: s-maxage=2"),
        strict("cache-control: max-age=1000, s-maxage=2"),
        strict("cache-control: max-age=2, S-MaxAge=2"),
    ])
    .await;
}

/// Requests of identified clients, and for parts.
#[tokio::test]
async fn clients_and_parts() {
    check(&[
        ("other-authorization", "authorization: FOO", HOUR, "", Miss),
        ("other-authorization-public", "authorization: FOO", "cache-control: max-age=3600, public", "", Hit),
        // Allowed, but without effect on other clients.
        (
            "other-authorization-must-revalidate",
            "authorization: FOO",
            "cache-control: max-age=3600, must-revalidate",
            "",
            Miss,
        ),
        ("other-authorization-smaxage", "authorization: FOO", "cache-control: s-maxage=3600", "", Hit),
        // Allowed, but this cache is stricter.
        ("other-set-cookie", "", "cache-control: max-age=3600\nset-cookie: a=b", "", Miss),
        ("other-cookie", "", HOUR, "cookie: a=b", Miss),
        ("other-cookie, for everybody", "", "cache-control: public, max-age=3600", "cookie: a=b", Hit),
        (
            "other-fresh-content-disposition-attachment",
            "",
            "cache-control: max-age=3600\ncontent-disposition: attachment; filename=a",
            "",
            Hit,
        ),
        (
            "other-heuristic-content-disposition-attachment",
            "",
            "last-modified: {-100000}\ndate: {0}\ncontent-disposition: attachment; filename=a",
            "",
            Miss,
        ),
        // Requests for parts go to the service.
        ("partial-store-complete-reuse-partial", "", HOUR, "range: bytes=0-1", Miss),
        (
            "partial-store-partial-reuse-partial",
            "range: bytes=-5",
            "status: 206\ncache-control: max-age=3600\ncontent-range: bytes 4-9/10",
            "range: bytes=-5",
            Miss,
        ),
        (
            "partial-store-partial-complete",
            "range: bytes=-5",
            "status: 206\ncache-control: max-age=3600\ncontent-range: bytes 0-4/10",
            "",
            Miss,
        ),
        (
            "a part that was not requested",
            "",
            "status: 206\ncache-control: max-age=3600\ncontent-range: bytes 0-4/10",
            "",
            Miss,
        ),
    ])
    .await;
}

/// What a response can vary by.
#[tokio::test]
async fn variants() {
    const FOO: &str = "cache-control: max-age=5000\nvary: Foo";
    const TWO: &str = "cache-control: max-age=5000\nvary: Foo, Bar";
    const THREE: &str = "cache-control: max-age=5000\nvary: Foo, Bar, Baz";
    let star = |name: &'static str, vary: &'static str| (name, "foo: 1", vary, "foo: 1", Miss);
    check(&[
        ("vary-match", "foo: 1", FOO, "foo: 1", Hit),
        ("vary-no-match", "foo: 1", FOO, "foo: 2", Miss),
        ("vary-omit-stored", "", FOO, "foo: 1", Miss),
        ("vary-omit", "foo: 1", FOO, "", Miss),
        ("vary-cache-key", "foo: 1\nother: 2", FOO, "foo: 1\nother: 3", Hit),
        ("vary-2-match", "foo: 1\nbar: abc", TWO, "foo: 1\nbar: abc", Hit),
        ("vary-2-no-match", "foo: 1\nbar: abc", TWO, "foo: 2\nbar: abc", Miss),
        ("vary-2-match-omit", "foo: 1\nbar: abc", TWO, "", Miss),
        ("vary-3-match", "foo: 1\nbar: abc\nbaz: 789", THREE, "foo: 1\nbar: abc\nbaz: 789", Hit),
        ("vary-3-no-match", "foo: 1\nbar: abc\nbaz: 789", THREE, "foo: 2\nbar: abc\nbaz: 789", Miss),
        ("vary-3-order", "foo: 1\nbar: abc\nbaz: 789", THREE, "foo: 1\nbaz: 789\nbar: abcde", Miss),
        ("vary-3-omit", "foo: 1\nbaz: 789", THREE, "foo: 1\nbaz: 789", Hit),
        ("lines of `Vary`", "foo: 1", "cache-control: max-age=5000\nvary: bar\nvary: foo", "foo: 2", Miss),
        // Values are not normalized: a service may distinguish these.
        ("vary-normalise-combine", "foo: 1, 2", FOO, "foo: 1\nfoo: 2", Miss),
        (
            "vary-normalise-lang-order",
            "accept-language: en, de",
            "cache-control: max-age=5000\nvary: accept-language",
            "accept-language: de, en",
            Miss,
        ),
        ("vary-normalise-space", "foo: 1,2", FOO, "foo: 1, 2", Miss),
        star("vary-star", "cache-control: max-age=5000\nvary: *"),
        star("vary-syntax-star-star", "cache-control: max-age=5000\nvary: *, *"),
        star("vary-syntax-star-star-lines", "cache-control: max-age=5000\nvary: *\nvary: *"),
        star("vary-syntax-empty-star", "cache-control: max-age=5000\nvary: , *"),
        star("vary-syntax-empty-star-lines", "cache-control: max-age=5000\nvary:\nvary: *"),
        star("vary-syntax-star-foo", "cache-control: max-age=5000\nvary: *, Foo"),
        star("vary-syntax-foo-star", "cache-control: max-age=5000\nvary: Foo, *"),
        star("what is no name", "cache-control: max-age=5000\nvary: fü"),
        ("query-args-same", "", HOUR, "", Hit),
    ])
    .await;
}

/// Conditions of clients, and validators of stored responses.
#[tokio::test]
async fn conditions() {
    const TAG: &str = "cache-control: max-age=3600\netag: \"abcdef\"";
    let tag = |name: &'static str, asked: &'static str| (name, "", TAG, asked, NotModified);
    check(&[
        tag("conditional-etag-strong-respond", "if-none-match: \"abcdef\""),
        tag("conditional-etag-strong-respond-multiple-first", "if-none-match: \"abcdef\", \"1234\", \"5678\""),
        tag("conditional-etag-strong-respond-multiple-second", "if-none-match: \"1234\", \"abcdef\", \"5678\""),
        tag("conditional-etag-strong-respond-multiple-last", "if-none-match: \"1234\", \"5678\", \"abcdef\""),
        tag("weakly compared", "if-none-match: W/\"abcdef\""),
        (
            "conditional-etag-precedence",
            "",
            "cache-control: max-age=3600\nlast-modified: {-5000}\netag: \"abcdef\"",
            "if-none-match: \"abcdef\"\nif-modified-since: {-10000}",
            NotModified,
        ),
        (
            "conditional-etag-strong-respond-obs-text",
            "",
            "cache-control: max-age=3600\netag: \"abcdefü\"",
            "if-none-match: \"abcdefü\"",
            NotModified,
        ),
        // Tags are compared byte by byte.
        ("conditional-etag-quoted-respond-unquoted", "", TAG, "if-none-match: abcdef", Hit),
        (
            "conditional-etag-unquoted-respond-unquoted",
            "",
            "cache-control: max-age=3600\netag: abcdef",
            "if-none-match: abcdef",
            NotModified,
        ),
        (
            "conditional-etag-unquoted-respond-quoted",
            "",
            "cache-control: max-age=3600\netag: abcdef",
            "if-none-match: \"abcdef\"",
            Hit,
        ),
        (
            "conditional-etag-weak-respond",
            "",
            "cache-control: max-age=3600\netag: W/\"abcdef\"",
            "if-none-match: W/\"abcdef\"",
            NotModified,
        ),
        (
            "conditional-etag-weak-respond-lowercase",
            "",
            "cache-control: max-age=3600\netag: w/\"abcdef\"",
            "if-none-match: w/\"abcdef\"",
            NotModified,
        ),
        (
            "conditional-etag-vary-headers",
            "abc: 123",
            "expires: {1}\netag: \"abcdef\"\ndate: {0}\nvary: abc",
            "abc: 123",
            Validated,
        ),
        (
            "conditional-etag-vary-headers-mismatch",
            "abc: 123",
            "expires: {10000}\netag: \"abcdef\"\ndate: {0}\nvary: abc",
            "abc: 456",
            Miss,
        ),
        ("conditional-etag-strong-generate", "", "cache-control: max-age=2\netag: \"abcdef\"", "", Validated),
        ("conditional-etag-weak-generate-weak", "", "cache-control: max-age=2\netag: W/\"abcdef\"", "", Validated),
    ])
    .await;
}

/// `If-Modified-Since` of clients.
#[tokio::test]
async fn dates() {
    check(&[
        (
            "conditional-lm-fresh",
            "",
            "cache-control: max-age=3600\nlast-modified: Wed, 01 Nov 2023 00:00:00 GMT",
            "if-modified-since: Wed, 01 Nov 2023 00:00:00 GMT",
            NotModified,
        ),
        (
            "conditional-lm-fresh-earlier",
            "",
            "cache-control: max-age=3600\nlast-modified: Wed, 01 Nov 2023 00:00:00 GMT",
            "if-modified-since: Wed, 01 Nov 2023 00:00:01 GMT",
            NotModified,
        ),
        (
            "conditional-lm-fresh-rfc850",
            "",
            "cache-control: max-age=3600\nlast-modified: Wed, 01 Nov 2023 00:00:00 GMT",
            "if-modified-since: Wednesday, 01-Nov-23 00:00:00 GMT",
            NotModified,
        ),
        (
            "newer than that",
            "",
            "cache-control: max-age=3600\nlast-modified: Wed, 01 Nov 2023 00:00:00 GMT",
            "if-modified-since: Tue, 31 Oct 2023 23:59:59 GMT",
            Hit,
        ),
        // `Date` replaces a missing `Last-Modified` (RFC 9111, 4.3.2).
        ("conditional-lm-fresh-no-lm", "", HOUR, "if-modified-since: {0}", NotModified),
        ("made after that", "", HOUR, "if-modified-since: {-3000}", Hit),
    ])
    .await;
}

/// Conditions that the cache cannot evaluate reach the service.
#[tokio::test]
async fn conditions_for_the_service() {
    // A tag without a stored response goes to the service, unless the response would be stored for other clients.
    let proxy = Proxy::new("cache = true");
    let private = "cache-control: private\netag: \"abcdef\"";
    proxy.send(("GET", "/a"), "", proxy.responds(private)).await;
    let got = proxy.send(("GET", "/a"), "if-none-match: \"abcdef\"", proxy.responds(private)).await;
    assert_eq!(
        (got.status, got.asked[0]["if-none-match"].as_bytes()),
        (304, &b"\"abcdef\""[..]),
        "conditional-etag-forward"
    );
    // A stale response is validated before its client gets a 304.
    let proxy = Proxy::new("cache = true");
    let brief = "cache-control: max-age=2\nlast-modified: Wed, 01 Nov 2023 00:00:00 GMT";
    proxy.send(("GET", "/a"), "", proxy.responds(brief)).await;
    pass(3);
    let since = "if-modified-since: Wed, 01 Nov 2023 00:00:00 GMT";
    let got = proxy.send(("GET", "/a"), since, proxy.responds(brief)).await;
    assert_eq!((got.status, got.asked.len()), (304, 1), "conditional-lm-stale");
}

/// A 304 without conditions is an error (RFC 9110, 15.4.5), also if the cache has removed the client's conditions.
#[tokio::test]
async fn an_unrequested_304_is_an_error() {
    async fn send(proxy: &Proxy, method: &str, asked: &str) -> Result<Got, Failed> {
        let unchanged = |_: &http::HeaderMap| {
            let mut response = Response::new(Body::text(None));
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response.headers_mut().insert("etag", "\"other\"".parse().unwrap());
            Ok(response)
        };
        proxy.send_by(0, (method, "/a"), asked, unchanged).await
    }
    let own = "if-none-match: \"a\"";
    let since = "if-modified-since: Tue, 14 Nov 2023 22:13:20 GMT";
    let refused = |got: Result<Got, Failed>| got.is_err();
    for (method, asked) in [("GET", ""), ("HEAD", ""), ("GET", "cache-control: no-store"), ("GET", "range: bytes=0-1")]
    {
        assert!(refused(send(&Proxy::new("cache = true"), method, asked).await), "{method} {asked:?}");
    }
    for asked in [own, since] {
        // The first response can be shared, so it is requested without conditions. After that every request goes alone.
        let proxy = Proxy::new("cache = true");
        assert!(refused(send(&proxy, "GET", asked).await), "{asked:?}");
        assert_eq!(send(&proxy, "GET", asked).await.unwrap().status, 304, "{asked:?}");
        assert_eq!(send(&proxy, "HEAD", asked).await.unwrap().status, 304, "{asked:?}");
        let bypass = format!("{asked}\ncache-control: no-store");
        assert_eq!(send(&proxy, "GET", &bypass).await.unwrap().status, 304, "{asked:?}");
    }
    // With a stale response, with or without a validator, the error is handled like any other.
    for validator in ["", "\netag: \"a\""] {
        for (freshness, status) in [("max-age=2", None), ("max-age=2, stale-if-error=60", Some(200))] {
            let proxy = Proxy::new("cache = true");
            let lines = format!("cache-control: {freshness}{validator}");
            proxy.send(("GET", "/a"), "", proxy.responds(&lines)).await;
            pass(3);
            let got = send(&proxy, "GET", "").await;
            assert_eq!(got.as_ref().ok().map(|got| got.status), status, "{lines:?}: {got:?}");
        }
    }
}
