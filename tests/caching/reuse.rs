//! Promise: a response that RFC 9111 allows to store is reused without its service, and no other response ever is.

use std::time::{Duration, Instant};

use http::Request;
use http_body_util::BodyExt;

use crate::harness::{Answer, Connection, Setup, TestHost, get, host, lodge, output, raw, until, within};

pub(crate) const KEPT: &str = "/cacheable?cache-control=max-age%3D60";

pub(crate) fn cacheable() -> Setup {
    host(&["cacheable"]).manifest("cacheable", "cache = true")
}

pub(crate) async fn ask(host: &TestHost, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    host.connect().await.ask(method.parse().unwrap(), path, headers, "").await
}

/// How the cache says that it answered.
pub(crate) fn how(answer: &Answer) -> String {
    answer.header("cache-status")
}

pub(crate) async fn metric(host: &TestHost, name: &str, labels: &str) -> u64 {
    let metrics = get(host.admin, "/metrics").await.text();
    let line = metrics.lines().find(|line| line.starts_with(&format!("{name}{{service=\"cacheable\"{labels}}}")));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

pub(crate) async fn outcomes(host: &TestHost, outcome: &str) -> u64 {
    metric(host, "lodge_response_cache_requests_total", &format!(",outcome=\"{outcome}\"")).await
}

pub(crate) async fn get_owned(address: std::net::SocketAddr, path: String) -> Answer {
    get(address, &path).await
}

#[tokio::test(flavor = "multi_thread")]
async fn given_again_while_it_is_fresh() {
    let host = cacheable().start().await;
    let sandboxes = metric(&host, "lodge_instantiation_seconds_count", "").await;
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
    // It is an answer of the service as any other, and none of its sandboxes was at work.
    until_metric(&host, "http_server_request_duration_seconds_count", 2).await;
    assert_eq!(metric(&host, "lodge_instantiation_seconds_count", "").await, sandboxes + 1);
    assert_eq!((outcomes(&host, "miss").await, outcomes(&host, "hit").await), (1, 1));
    assert_eq!(metric(&host, "lodge_response_cache_entries", "").await, 1);
    let told = command(&host, &["inspect", "cacheable"]).await;
    assert!(told.contains("cache         1, ") && told.contains("; 1 hit, 1 miss"), "{told}");
    assert!(metric(&host, "lodge_response_cache_bytes", "").await > 1000);
}

/// What an operator is told on this host.
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

pub(crate) async fn until_metric(host: &TestHost, name: &str, wanted: u64) {
    let start = std::time::Instant::now();
    while metric(host, name, "").await != wanted {
        assert!(start.elapsed() < Duration::from_secs(20), "{name} is not {wanted}");
    }
}

/// Nothing is kept that nobody has asked for, or that its service, its client or its kind forbids.
#[tokio::test(flavor = "multi_thread")]
async fn never_given_again() {
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
    // What says that it is for everybody is for who has a cookie, too; and what does not is not.
    let first = ask(&host, "GET", shared, &[("cookie", "id=1"), ("authorization", "Bearer x")]).await;
    assert_eq!(ask(&host, "GET", shared, &[]).await.text(), first.text());
    let first = host.get(KEPT).await;
    assert_ne!(ask(&host, "GET", KEPT, &[("cookie", "id=1")]).await.text(), first.text());
    assert_eq!(host.get(KEPT).await.text(), first.text());
}

/// Only where the manifest says so; and the operator's own time is for who says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn by_the_manifest() {
    let routes = "routes = ['/plain', { path = '/kept', cache = true }, { path = '/timed', cache.ttl = '1m' }]";
    let host = host(&["cacheable"]).manifest("cacheable", routes).start().await;
    let same = async |path: &str| host.get(path).await.text() == host.get(path).await.text();
    assert!(!same("/plain?cache-control=max-age%3D60").await && same("/kept?cache-control=max-age%3D60").await);
    assert_eq!(how(&host.get("/plain").await), "");
    assert!(!same("/kept").await && same("/timed").await && !same("/timed?cache-control=no-cache").await);
    // A POST by a route without a cache ends what another route keeps of the same URI, and no other.
    let [one, two] = [host.get("/timed?1").await.text(), host.get("/timed?2").await.text()];
    assert_eq!(ask(&host, "POST", "/timed?1", &[]).await.status, 200);
    assert_ne!(host.get("/timed?1").await.text(), one);
    assert_eq!(host.get("/timed?2").await.text(), two);
    // A POST that the service refuses has changed nothing; what one has done that it did not survive, nobody knows.
    let missing = host.get("/timed?status=404&cache-control=max-age%3D60").await.text();
    assert_eq!(ask(&host, "POST", "/timed?status=404&cache-control=max-age%3D60", &[]).await.status, 404);
    assert_eq!(host.get("/timed?status=404&cache-control=max-age%3D60").await.text(), missing);
    assert_eq!(ask(&host, "POST", "/timed?2", &[("x-fail", "1")]).await.status, 502);
    assert_ne!(host.get("/timed?2").await.text(), two);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_variant_to_who_asks_for_it() {
    let host = cacheable().start().await;
    let path = "/cacheable?cache-control=max-age%3D60&vary=Accept-Language";
    let of = async |language: &str| ask(&host, "GET", path, &[("accept-language", language)]).await.text();
    let (english, german) = (of("en").await, of("de").await);
    assert_ne!(english, german);
    assert_eq!((of("en").await, of("de").await), (english.clone(), german));
    assert_ne!(host.get(path).await.text(), english);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_a_get_without_its_body() {
    let host = cacheable().start().await;
    let head = ask(&host, "HEAD", KEPT, &[]).await;
    assert_eq!((head.status, how(&head).as_str()), (200, "lodge; fwd=miss"));
    let kept = host.get(KEPT).await;
    assert_eq!(how(&kept), "lodge; fwd=miss; stored", "a HEAD has brought nothing to keep");
    let head =
        raw(host.address, &format!("HEAD {KEPT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await;
    assert!(head.contains("content-length: 16\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(head.contains("cache-status: lodge; hit"), "{head}");
}

/// What a client has already is not sent again, whoever knows that.
#[tokio::test(flavor = "multi_thread")]
async fn not_modified() {
    let host = cacheable().start().await;
    let path = "/cacheable?cache-control=max-age%3D60&etag=%22a%22&size=9";
    let has = [("if-none-match", "\"b\", W/\"a\"")];
    let first = ask(&host, "GET", path, &has).await;
    assert_eq!((first.status, first.header("etag").as_str(), first.body.len()), (304, "\"a\"", 0));
    assert_eq!(first.header("x-condition"), "none", "the service was asked for what everybody can have");
    until_metric(&host, "lodge_response_cache_entries", 1).await;
    let kept = host.get(path).await;
    assert_eq!((kept.status, kept.body.len()), (200, 25));
    assert!(how(&kept).starts_with("lodge; hit"), "{}", how(&kept));
    let again = ask(&host, "GET", path, &has).await;
    assert_eq!((again.status, again.header("content-length").as_str()), (304, ""));
    assert!(how(&again).starts_with("lodge; hit") && !again.header("age").is_empty());
    // Where nothing is kept, the service hears what its client has.
    let private = "/cacheable?cache-control=private&etag=%22a%22";
    ask(&host, "GET", private, &[]).await;
    let asked = ask(&host, "GET", private, &[("if-none-match", "\"a\"")]).await;
    assert_eq!((asked.status, asked.header("x-condition").as_str()), (304, "\"a\""));
}

/// A stale answer is asked about, and given again as long as its service says that it is right.
#[tokio::test(flavor = "multi_thread")]
async fn revalidated() {
    let host = cacheable().start().await;
    let path = "/cacheable?cache-control=max-age%3D1&etag=%22a%22";
    let first = host.get(path).await;
    let stale = async || tokio::time::sleep(Duration::from_millis(1_100)).await;
    stale().await;
    let again = host.get(path).await;
    assert_eq!((again.status, again.text()), (200, first.text()));
    assert_eq!(how(&again), "lodge; fwd=stale; fwd-status=304");
    assert_eq!(again.header("x-condition"), "\"a\"", "the head is the newer one");
    assert!(how(&host.get(path).await).starts_with("lodge; hit"), "it is fresh again");
    stale().await;
    let changed = ask(&host, "GET", path, &[("x-etag", "\"b\"")]).await;
    assert_eq!((changed.status, changed.header("etag").as_str()), (200, "\"b\""));
    assert_eq!(how(&changed), "lodge; fwd=stale; stored");
    assert_ne!(changed.text(), first.text());
    assert_eq!(host.get(path).await.text(), changed.text());
    assert_eq!(outcomes(&host, "revalidated").await, 1);
}

/// A service that answers "not modified" of another response than the one that is stored is asked for that one, in the same
/// request, which uses its rate once. The stored body is not given under another's name.
#[tokio::test(flavor = "multi_thread")]
async fn a_304_of_another_response() {
    let host = host(&["cacheable"]).manifest("cacheable", "cache = true\nrate.limit = '3/h'").start().await;
    let path = "/cacheable?cache-control=max-age%3D1&etag=%22a%22";
    let first = host.get(path).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let changed = ask(&host, "GET", path, &[("x-confirm", "\"b\""), ("if-none-match", "\"c\"")]).await;
    assert_eq!((changed.status, changed.header("etag").as_str()), (200, "\"b\""));
    assert_eq!((how(&changed).as_str(), changed.header("x-condition").as_str()), ("lodge; fwd=stale; stored", "none"));
    assert_ne!(changed.text(), first.text());
    assert_eq!(host.get(path).await.text(), changed.text());
    assert_eq!((host.get("/cacheable").await.status, host.get("/cacheable").await.status), (200, 429));
}

/// The second request has what is left of the time of the first, also while it waits for a place.
#[tokio::test(flavor = "multi_thread")]
async fn one_wall_time_for_both() {
    let limits = "cache = true\nlimits = { wall = '3s', in_flight = 1, queue_wait = '20s' }";
    let host = host(&["cacheable"]).manifest("cacheable", limits).start().await;
    let path = "/cacheable?wait=500&cache-control=max-age%3D1&etag=%22a%22";
    assert_eq!(host.get(path).await.status, 200);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let in_flight = || host.current.snapshot().target("cacheable").unwrap().admission.in_flight();
    let start = Instant::now();
    let (asked, other) = tokio::join!(ask(&host, "GET", path, &[("x-confirm", "\"b\"")]), async {
        until("the first is at work", || in_flight() == 1).await;
        host.get("/cacheable?wait=2900").await
    });
    assert_eq!((asked.problem().as_str(), other.status), ("queue-timeout", 200));
    assert!(start.elapsed() >= Duration::from_secs(3));
}

/// What a trusted proxy says of hosts opens no route to what is stored for the clients of another, and stores nothing there.
#[tokio::test(flavor = "multi_thread")]
async fn proxies_open_no_other_route() {
    let routes = "cache = true\nroutes = [{ path = '/cacheable', host = 'admin.test', allow = ['10.0.0.0/8'] }, \
                  { path = '/cacheable', host = 'public.test' }, '/other']";
    let host = host(&["cacheable"]).manifest("cacheable", routes).set("trusted_proxies", "127.0.0.0/8").start().await;
    let asked = async |path: &str, name: &str, client: &str, said: &str| {
        let path = format!("{path}?cache-control=max-age%3D60");
        let mut headers = vec![("host", name), ("x-forwarded-for", client)];
        headers.extend((!said.is_empty()).then_some(("x-forwarded-host", said)));
        let answer = ask(&host, "GET", &path, &headers).await;
        (answer.status, if answer.status == 200 { answer.text() } else { String::new() })
    };
    assert_eq!(asked("/cacheable", "admin.test", "192.0.2.1", "").await.0, 403);
    let secret = asked("/cacheable", "admin.test", "10.1.1.1", "").await;
    assert_eq!(asked("/cacheable", "admin.test", "10.1.1.2", "").await, secret, "for those who may");
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

/// A stale response by leave of `s-maxage` or a client: there is none.
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
async fn stale_in_the_place_of_a_failure_by_leave() {
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
    // A request that revalidates what others are given meanwhile is given it as well.
    let meanwhile = "/cacheable?cache-control=max-age%3D1,stale-while-revalidate%3D60";
    let kept = host.get(meanwhile).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let stale = ask(&host, "GET", meanwhile, &fails).await;
    assert_eq!((stale.status, stale.text()), (200, kept.text()));
    let metrics = get(host.admin, "/metrics").await.text();
    assert!(
        metrics.contains("lodge_guest_failures_total{service=\"cacheable\",reason=\"trapped\"} 3"),
        "it is told of"
    );
}

/// Only what came to its proper end, and fits.
#[tokio::test(flavor = "multi_thread")]
async fn whole_or_not_at_all() {
    let host = cacheable().set("responses.entry", "64KiB").start().await;
    let broken = format!("{KEPT}&size=160&pause=20&break=1");
    assert!(host.get(&broken).await.broken);
    assert!(host.get(&broken).await.broken, "what broke was kept");
    for large in [format!("{KEPT}&size=70000"), format!("{KEPT}&size=69984&content-length=70000")] {
        let (first, again) = (host.get(&large).await, host.get(&large).await);
        assert_eq!((first.status, first.body.len() >= 70_000), (200, true));
        assert_ne!(first.text(), again.text(), "{large}");
    }
    // A client that leaves in the middle has left half an answer.
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

/// However much is asked for, memory stays within its bound, and what is asked for often stays in it.
#[tokio::test(flavor = "multi_thread")]
async fn bounded_memory() {
    let host = cacheable().set("responses.memory", "1MiB").set("responses.entry", "64KiB").start().await;
    let hot = format!("{KEPT}&size=4000");
    let first = host.get(&hot).await.text();
    let mut client = host.connect().await;
    for n in 0..60 {
        assert_eq!(client.get(&format!("{KEPT}&size=30000&n={n}")).await.status, 200);
        assert_eq!(client.get(&hot).await.text(), first, "after {n} others");
        let bytes = metric(&host, "lodge_response_cache_bytes", "").await;
        assert!(bytes <= 1 << 20, "{bytes}");
    }
    assert!(metric(&host, "lodge_response_cache_entries", "").await >= 20, "it is put to use");
}

/// `responses.memory = "0"` is off, whatever manifests say.
#[tokio::test(flavor = "multi_thread")]
async fn switched_off() {
    let host = cacheable().set("responses.memory", "0").start().await;
    let (first, again) = (host.get(KEPT).await, host.get(KEPT).await);
    assert!(first.text() != again.text() && how(&first).is_empty());
}
