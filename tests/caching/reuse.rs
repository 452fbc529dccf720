//! Promise: a response that RFC 9111 allows to store is reused without its service, and no other response is.

use std::time::{Duration, Instant};

use http::Request;
use http_body_util::BodyExt;

use crate::harness::{
    Connection, Response, Setup, TestHost, get, host, lodge, metric, output, raw, until, until_metric, within,
};

pub(crate) const KEPT: &str = "/cacheable?cache-control=max-age%3D60";

pub(crate) fn cacheable() -> Setup {
    host(&["cacheable"]).manifest("cacheable", "cache = true")
}

pub(crate) async fn ask(host: &TestHost, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    host.connect().await.ask(method.parse().unwrap(), path, headers, "").await
}

/// The `Cache-Status` of a response.
pub(crate) fn how(response: &Response) -> String {
    response.header("cache-status")
}

pub(crate) const ENTRIES: &str = "lodge_response_cache_entries{service=\"cacheable\"}";
pub(crate) const SANDBOXES: &str = "lodge_instantiation_seconds_count{service=\"cacheable\"}";
const BYTES: &str = "lodge_response_cache_bytes{service=\"cacheable\"}";

/// The number of requests with this outcome.
pub(crate) fn outcomes(outcome: &str) -> String {
    format!("lodge_response_cache_requests_total{{service=\"cacheable\",outcome=\"{outcome}\"}}")
}

pub(crate) async fn get_owned(address: std::net::SocketAddr, path: String) -> Response {
    get(address, &path).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_response_is_reused() {
    let host = cacheable().start().await;
    let sandboxes = metric(host.admin, SANDBOXES).await;
    let first = host.get(KEPT).await;
    assert_eq!(
        (first.status, how(&first).as_str(), first.header("age")),
        (200, "lodge; fwd=miss; stored", String::new())
    );
    let again = host.get(KEPT).await;
    assert_eq!(again.text(), first.text());
    assert!(how(&again).starts_with("lodge; hit; ttl="), "{}", how(&again));
    assert!(again.header("age").parse::<u64>().unwrap() < 50 && !again.header("date").is_empty());
    assert_eq!(again.header("content-length"), "16");
    assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
    // It counts as a response of the service, and no sandbox was used for it.
    until_metric(host.admin, "http_server_request_duration_seconds_count{service=\"cacheable\"}", 2).await;
    assert_eq!(metric(host.admin, SANDBOXES).await, sandboxes + 1.0);
    until_metric(host.admin, &outcomes("miss"), 1).await;
    until_metric(host.admin, &outcomes("hit"), 1).await;
    until_metric(host.admin, ENTRIES, 1).await;
    let told = command(&host, &["inspect", "cacheable"]).await;
    assert!(told.contains("cache         1, ") && told.contains("; 1 hit, 1 miss"), "{told}");
    assert!(metric(host.admin, BYTES).await > 1000.0);
}

/// The output of a command against this host.
pub(crate) async fn command(host: &TestHost, args: &[&str]) -> String {
    let (admin, args) = (format!("--admin={}", host.admin), args.iter().map(ToString::to_string).collect::<Vec<_>>());
    let run = move || {
        let args: Vec<_> = args.iter().map(String::as_str).chain([&*admin]).collect();
        output(&mut lodge(&args))
    };
    let (code, told, wrong) = tokio::task::spawn_blocking(run).await.unwrap();
    assert_eq!(code, Some(0), "{wrong}");
    told
}

/// A response is not stored if no rule asks for it, or if its service, its client or its kind forbids it.
#[tokio::test(flavor = "multi_thread")]
async fn responses_that_must_not_be_stored() {
    let host = cacheable().start().await;
    let shared = "/cacheable?cache-control=public,max-age%3D60";
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);
    let cases: &[Case<'_>] = &[
        ("GET", "/cacheable", &[]),
        ("GET", "/cacheable?cache-control=no-store,max-age%3D60", &[]),
        ("GET", "/cacheable?cache-control=private,max-age%3D60", &[]),
        ("GET", "/cacheable?cache-control=max-age%3D60&vary=*", &[]),
        ("GET", "/cacheable?cache-control=public,max-age%3D60&set-cookie=id%3D1", &[]),
        ("GET", "/cacheable?cache-control=max-age%3D60&status=500", &[]),
        ("GET", "/cacheable?cache-control=max-age%3D60&status=206", &[]),
        ("GET", "/cacheable?cache-control=max-age%3D60&a", &[("authorization", "Bearer x")]),
        ("GET", "/cacheable?cache-control=max-age%3D60&b", &[("cookie", "id=1")]),
        ("GET", "/cacheable?cache-control=max-age%3D60&c", &[("range", "bytes=0-3")]),
        ("GET", "/cacheable?cache-control=max-age%3D60&d", &[("cache-control", "no-store")]),
        ("GET", shared, &[("cache-control", "no-cache")]),
        ("POST", shared, &[]),
    ];
    for (method, path, headers) in cases {
        let first = ask(&host, method, path, headers).await;
        let again = ask(&host, method, path, headers).await;
        assert_ne!(first.text(), again.text(), "{method} {path} {headers:?}");
    }
    // A public response is shared with a client that has a cookie; another response is not.
    let first = ask(&host, "GET", shared, &[("cookie", "id=1"), ("authorization", "Bearer x")]).await;
    assert_eq!(ask(&host, "GET", shared, &[]).await.text(), first.text());
    let first = host.get(KEPT).await;
    assert_ne!(ask(&host, "GET", KEPT, &[("cookie", "id=1")]).await.text(), first.text());
    assert_eq!(host.get(KEPT).await.text(), first.text());
}

/// Only routes with `cache` store responses, and `ttl` applies only to responses without directives.
#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_enables_the_cache() {
    let routes = "routes = ['/plain', { path = '/kept', cache = true }, { path = '/timed', cache.ttl = '1m' }]";
    let host = host(&["cacheable"]).manifest("cacheable", routes).start().await;
    let same = async |path: &str| host.get(path).await.text() == host.get(path).await.text();
    assert!(!same("/plain?cache-control=max-age%3D60").await && same("/kept?cache-control=max-age%3D60").await);
    assert_eq!(how(&host.get("/plain").await), "");
    assert!(!same("/kept").await && same("/timed").await && !same("/timed?cache-control=no-cache").await);
    // A POST by a route without a cache invalidates the responses of another route for the same URI, and no others.
    let [one, two] = [host.get("/timed?1").await.text(), host.get("/timed?2").await.text()];
    assert_eq!(ask(&host, "POST", "/timed?1", &[]).await.status, 200);
    assert_ne!(host.get("/timed?1").await.text(), one);
    assert_eq!(host.get("/timed?2").await.text(), two);
    // A POST that the service rejects invalidates nothing. One during which the guest failed does, since it may have
    // taken effect.
    let missing = host.get("/timed?status=404&cache-control=max-age%3D60").await.text();
    assert_eq!(ask(&host, "POST", "/timed?status=404&cache-control=max-age%3D60", &[]).await.status, 404);
    assert_eq!(host.get("/timed?status=404&cache-control=max-age%3D60").await.text(), missing);
    assert_eq!(ask(&host, "POST", "/timed?2", &[("x-fail", "1")]).await.status, 502);
    assert_ne!(host.get("/timed?2").await.text(), two);
}

#[tokio::test(flavor = "multi_thread")]
async fn variants_are_selected_by_vary() {
    let host = cacheable().start().await;
    let path = "/cacheable?cache-control=max-age%3D60&vary=Accept-Language";
    let of = async |language: &str| ask(&host, "GET", path, &[("accept-language", language)]).await.text();
    let (english, german) = (of("en").await, of("de").await);
    assert_ne!(english, german);
    assert_eq!((of("en").await, of("de").await), (english.clone(), german));
    assert_ne!(host.get(path).await.text(), english);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_served_from_the_response_to_get() {
    let host = cacheable().start().await;
    let head = ask(&host, "HEAD", KEPT, &[]).await;
    assert_eq!((head.status, how(&head).as_str()), (200, "lodge; fwd=miss"));
    let kept = host.get(KEPT).await;
    assert_eq!(how(&kept), "lodge; fwd=miss; stored", "the response to a HEAD is not stored");
    let head =
        raw(host.address, &format!("HEAD {KEPT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await;
    assert!(head.contains("content-length: 16\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(head.contains("cache-status: lodge; hit"), "{head}");
}

/// A client gets a 304 for what it has, from the cache or from the service.
#[tokio::test(flavor = "multi_thread")]
async fn not_modified() {
    let host = cacheable().start().await;
    let path = "/cacheable?cache-control=max-age%3D60&etag=%22a%22&size=9";
    let has = [("if-none-match", "\"b\", W/\"a\"")];
    let first = ask(&host, "GET", path, &has).await;
    assert_eq!((first.status, first.header("etag").as_str(), first.body.len()), (304, "\"a\"", 0));
    assert_eq!(first.header("x-condition"), "none", "the service gets the request without conditions");
    until_metric(host.admin, ENTRIES, 1).await;
    let kept = host.get(path).await;
    assert_eq!((kept.status, kept.body.len()), (200, 25));
    assert!(how(&kept).starts_with("lodge; hit"), "{}", how(&kept));
    let again = ask(&host, "GET", path, &has).await;
    assert_eq!((again.status, again.header("content-length").as_str()), (304, ""));
    assert!(how(&again).starts_with("lodge; hit") && !again.header("age").is_empty());
    // Without a cache the service gets the client's conditions.
    let private = "/cacheable?cache-control=private&etag=%22a%22";
    ask(&host, "GET", private, &[]).await;
    let asked = ask(&host, "GET", private, &[("if-none-match", "\"a\"")]).await;
    assert_eq!((asked.status, asked.header("x-condition").as_str()), (304, "\"a\""));
}

/// A stale response is revalidated, and reused as long as its service confirms it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_response_is_revalidated() {
    let host = cacheable().start().await;
    let path = "/cacheable?cache-control=max-age%3D1&etag=%22a%22";
    let first = host.get(path).await;
    let stale = async || tokio::time::sleep(Duration::from_millis(1_100)).await;
    stale().await;
    // From the 304 on it stays fresh for longer than a test.
    let again = ask(&host, "GET", path, &[LASTING]).await;
    assert_eq!((again.status, again.text()), (200, first.text()));
    assert_eq!(how(&again), "lodge; fwd=stale; fwd-status=304");
    assert_eq!(again.header("x-condition"), "\"a\"", "the head is that of the 304");
    assert!(how(&host.get(path).await).starts_with("lodge; hit"), "the response is fresh again");
    let path = "/cacheable?2&cache-control=max-age%3D1&etag=%22a%22";
    let first = host.get(path).await;
    stale().await;
    let changed = ask(&host, "GET", path, &[("x-etag", "\"b\""), LASTING]).await;
    assert_eq!((changed.status, changed.header("etag").as_str()), (200, "\"b\""));
    assert_eq!(how(&changed), "lodge; fwd=stale; stored");
    assert_ne!(changed.text(), first.text());
    assert_eq!(host.get(path).await.text(), changed.text());
    until_metric(host.admin, &outcomes("revalidated"), 1).await;
}

/// Makes the service respond with this in place of the `Cache-Control` in the query.
const LASTING: (&str, &str) = ("x-cache-control", "max-age=600");

/// A service that sends a 304 about another response than the stored one gets the request once more, without
/// conditions. The client's request uses its rate once, and the stored body is not served under another validator.
#[tokio::test(flavor = "multi_thread")]
async fn a_304_about_another_response() {
    let host = host(&["cacheable"]).manifest("cacheable", "cache = true\nrate.limit = '3/h'").start().await;
    let path = "/cacheable?cache-control=max-age%3D1&etag=%22a%22";
    let first = host.get(path).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let changed = ask(&host, "GET", path, &[("x-confirm", "\"b\""), ("if-none-match", "\"c\""), LASTING]).await;
    assert_eq!((changed.status, changed.header("etag").as_str()), (200, "\"b\""));
    assert_eq!((how(&changed).as_str(), changed.header("x-condition").as_str()), ("lodge; fwd=stale; stored", "none"));
    assert_ne!(changed.text(), first.text());
    assert_eq!(host.get(path).await.text(), changed.text());
    assert_eq!((host.get("/cacheable").await.status, host.get("/cacheable").await.status), (200, 429));
}

/// The second request has the remaining time of the first, including its wait in the queue.
#[tokio::test(flavor = "multi_thread")]
async fn both_requests_share_one_wall_time() {
    let limits = "cache = true\nlimits = { wall = '6s', in_flight = 1, queue_wait = '60s' }";
    let host = host(&["cacheable"]).manifest("cacheable", limits).start().await;
    let path = "/cacheable?wait=1500&cache-control=max-age%3D3&etag=%22a%22";
    assert_eq!(host.get(path).await.status, 200);
    tokio::time::sleep(Duration::from_millis(3_100)).await;
    let in_flight = || host.current.snapshot().target("cacheable").unwrap().admission.in_flight();
    let start = Instant::now();
    let (asked, other) = tokio::join!(ask(&host, "GET", path, &[("x-confirm", "\"b\"")]), async {
        until("the first request runs", || in_flight() == 1).await;
        // Longer than the time that is left to the other one, and shorter than its own.
        host.get("/cacheable?wait=5200").await
    });
    assert_eq!((asked.problem().as_str(), other.status), ("queue-timeout", 200));
    assert!(start.elapsed() >= Duration::from_secs(6));
}

/// Forwarded hosts from a trusted proxy give no access to responses for the clients of another route, and store nothing
/// there.
#[tokio::test(flavor = "multi_thread")]
async fn forwarded_hosts_do_not_cross_routes() {
    let routes = "cache = true\nroutes = [{ path = '/cacheable', host = 'admin.test', allow = ['10.0.0.0/8'] }, \
                  { path = '/cacheable', host = 'public.test' }, '/other']";
    let host = host(&["cacheable"]).manifest("cacheable", routes).set("trusted_proxies", "127.0.0.0/8").start().await;
    let asked = async |path: &str, name: &str, client: &str, said: &str| {
        let path = format!("{path}?cache-control=max-age%3D60");
        let mut headers = vec![("host", name), ("x-forwarded-for", client)];
        headers.extend((!said.is_empty()).then_some(("x-forwarded-host", said)));
        let response = ask(&host, "GET", &path, &headers).await;
        (response.status, if response.status == 200 { response.text() } else { String::new() })
    };
    assert_eq!(asked("/cacheable", "admin.test", "192.0.2.1", "").await.0, 403);
    let secret = asked("/cacheable", "admin.test", "10.1.1.1", "").await;
    assert_eq!(asked("/cacheable", "admin.test", "10.1.1.2", "").await, secret, "for allowed clients");
    let public = asked("/cacheable", "public.test", "192.0.2.1", "admin.test").await;
    assert!(public.0 == 200 && public != secret);
    assert_eq!(
        asked("/cacheable", "public.test", "192.0.2.2", "admin.test").await,
        public,
        "it is stored all the same"
    );
    let poison = asked("/other", "evil.test", "192.0.2.1", "victim.test").await;
    let own = asked("/other", "victim.test", "192.0.2.1", "").await;
    assert!(own != poison && own == asked("/other", "victim.test", "192.0.2.2", "").await);
}

/// With `s-maxage` a stale response is never used, even if the client accepts one.
#[tokio::test(flavor = "multi_thread")]
async fn s_maxage_is_strict() {
    let host = cacheable().start().await;
    let path = "/cacheable?cache-control=s-maxage%3D1,stale-if-error%3D60";
    let first = host.get(path).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(ask(&host, "GET", path, &[("x-fail", "1")]).await.status, 502);
    assert_ne!(ask(&host, "GET", path, &[("cache-control", "max-stale=60")]).await.text(), first.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_response_replaces_an_error_if_allowed() {
    let host = cacheable().start().await;
    let path = "/cacheable?cache-control=max-age%3D1,stale-if-error%3D60";
    let (kept, strict) = (host.get(path).await, "/cacheable?cache-control=max-age%3D1");
    host.get(strict).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let fails = [("x-fail", "1")];
    let stale = ask(&host, "GET", path, &fails).await;
    assert_eq!((stale.status, stale.text()), (200, kept.text()));
    assert!(how(&stale).starts_with("lodge; hit; ttl="), "{}", how(&stale));
    assert_eq!(ask(&host, "GET", strict, &fails).await.status, 502);
    // The request that revalidates gets the stale response as well if others do.
    let meanwhile = "/cacheable?cache-control=max-age%3D1,stale-while-revalidate%3D60";
    let kept = host.get(meanwhile).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let stale = ask(&host, "GET", meanwhile, &fails).await;
    assert_eq!((stale.status, stale.text()), (200, kept.text()));
    until_metric(host.admin, "lodge_guest_failures_total{service=\"cacheable\",reason=\"trapped\"}", 3).await;
}

/// Only complete responses of at most `responses.entry` are stored.
#[tokio::test(flavor = "multi_thread")]
async fn only_complete_responses_are_stored() {
    let host = cacheable().set("responses.entry", "64KiB").start().await;
    let broken = format!("{KEPT}&size=160&pause=20&break=1");
    assert!(host.get(&broken).await.broken);
    assert!(host.get(&broken).await.broken, "an incomplete response was stored");
    for large in [format!("{KEPT}&size=70000"), format!("{KEPT}&size=69984&content-length=70000")] {
        let (first, again) = (host.get(&large).await, host.get(&large).await);
        assert_eq!((first.status, first.body.len() >= 70_000), (200, true));
        assert_ne!(first.text(), again.text(), "{large}");
    }
    // A client that leaves early leaves an incomplete response.
    let slow = format!("{KEPT}&size=160&pause=50");
    let mut client = Connection::http1(host.address).await;
    let request = Request::get(&slow).body(http_body_util::Empty::new().boxed_unsync()).unwrap();
    let mut body = client.send(request).await.unwrap().into_body();
    within(body.frame()).await.unwrap().unwrap();
    drop((body, client));
    let whole = host.get(&slow).await;
    assert_eq!((whole.body.len(), how(&whole).starts_with("lodge; fwd=miss")), (176, true));
    assert_eq!(host.get(&slow).await.text(), whole.text());
}

/// Memory stays within its bound, and responses that are requested often stay in it.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded() {
    let host = cacheable().set("responses.memory", "1MiB").set("responses.entry", "64KiB").start().await;
    let hot = format!("{KEPT}&size=4000");
    let first = host.get(&hot).await.text();
    let mut client = host.connect().await;
    for n in 0..60 {
        assert_eq!(client.get(&format!("{KEPT}&size=30000&n={n}")).await.status, 200);
        assert_eq!(client.get(&hot).await.text(), first, "after {n} others");
        let bytes = metric(host.admin, BYTES).await;
        assert!(bytes <= f64::from(1 << 20), "{bytes}");
    }
    assert!(metric(host.admin, ENTRIES).await >= 20.0, "the memory is used");
}

/// `responses.memory = "0"` disables the cache, whatever manifests say.
#[tokio::test(flavor = "multi_thread")]
async fn the_cache_can_be_disabled() {
    let host = cacheable().set("responses.memory", "0").start().await;
    let (first, again) = (host.get(KEPT).await, host.get(KEPT).await);
    assert!(first.text() != again.text() && how(&first).is_empty());
}
