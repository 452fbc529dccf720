//! Which requests can share a stored response.

use http::Response;
use http::header::HeaderMap;

use super::fakes::{Body, FAILED, Failed, GONE, REFUSED};
use super::proxy::How::{Hit, Miss};
use super::proxy::{Got, Proxy, pass, set_back};

const GET: (&str, &str) = ("GET", "/a");
const HOUR: &str = "cache-control: max-age=3600\ndate: {0}";

/// A request while the origin server is unreachable.
async fn ask_unreachable(proxy: &Proxy, asked: &str) -> Option<Got> {
    let gone = |_: &HeaderMap| -> Result<Response<Body>, Failed> { Err(GONE) };
    proxy.send_by(0, GET, asked, gone).await.ok()
}

/// A response from before the clock was set back is fetched again, since it would be fresh for too long.
#[tokio::test]
async fn a_clock_that_is_set_back() {
    let proxy = Proxy::new("cache = true");
    let first = proxy.send(GET, "", proxy.responds("cache-control: max-age=60, stale-if-error=60")).await;
    set_back(86_400);
    assert!(
        ask_unreachable(&proxy, "").await.is_none()
            && ask_unreachable(&proxy, "cache-control: max-stale").await.is_none()
    );
    assert_eq!(proxy.send(GET, "", proxy.responds(HOUR)).await.how(&first), Miss);
    assert!(ask_unreachable(&proxy, "").await.is_some());
}

/// Requests only share a response if their route and forwarding headers are equal but for addresses.
#[tokio::test]
async fn how_a_request_came() {
    let proxy = Proxy::new("cache = true");
    let send = async |route: usize, asked: &str| {
        proxy.send_by(route, GET, asked, |asked| Ok(proxy.responds(HOUR)(asked))).await.unwrap()
    };
    let plain =
        "x-forwarded-host: a\nx-forwarded-proto: http\nforwarded: for=10.0.0.1;host=\"a\"\nx-forwarded-for: 10.0.0.1";
    let first = send(0, plain).await;
    let again = plain.replace("10.0.0.1", "10.0.0.2");
    assert_eq!(send(0, &again).await.how(&first), Hit, "from another address");
    assert_eq!(send(1, plain).await.how(&first), Miss, "by another route");
    for other in ["x-forwarded-host: b", "x-forwarded-proto: https", "x-forwarded-prefix: /b", "x-forwarded-user: ann"]
    {
        let asked = format!("{plain}\n{other}");
        let made = send(0, &asked).await;
        assert_eq!((made.how(&first), send(0, &asked).await.how(&made)), (Miss, Hit), "{other}");
    }
    assert_eq!(send(0, plain).await.how(&first), Hit);
    // A response that depends on the address says so in `Vary`.
    let proxy = Proxy::new("cache = true");
    let vary = format!("{HOUR}\nvary: x-forwarded-for");
    let first = proxy.send(GET, plain, proxy.responds(&vary)).await;
    assert_eq!(proxy.send(GET, &again, proxy.responds(&vary)).await.how(&first), Miss);
    assert_eq!(proxy.send(GET, plain, proxy.responds(&vary)).await.how(&first), Hit);
}

/// A header by which a service distinguishes its clients makes a request as personal as a cookie.
#[tokio::test]
async fn personal_headers() {
    for (manifest, personal) in [
        ("cache = true", false),
        ("cache = true\nrate = { limit = '1/s', by = 'header:X-User' }", true),
        ("cache = true\nroutes = ['/b', { path = '/a', rate = { limit = '1/s', by = 'header:x-user' } }]", true),
        ("cache = true\nsticky = 'header:x-user'", true),
        ("cache = true\nsticky = 'client'", false),
        ("cache = true\n[upstream]\nreplicas = ['http://127.0.0.1:1']\npolicy = 'hash'\nhash = 'header:x-user'", true),
    ] {
        let proxy = Proxy::new(manifest);
        let first = proxy.send(GET, "x-user: ann", proxy.responds(HOUR)).await;
        let second = proxy.send(GET, "x-user: bob", proxy.responds(HOUR)).await;
        assert_eq!(second.how(&first) == Miss, personal, "{manifest}");
        let anonymous = proxy.send(GET, "", proxy.responds(HOUR)).await;
        assert_eq!(anonymous.how(&first) == Miss, personal, "{manifest}");
        assert_eq!(
            proxy.send(GET, "x-user: ann", proxy.responds(HOUR)).await.how(&anonymous) == Miss,
            personal,
            "{manifest}"
        );
        let everybody = "cache-control: public, max-age=60";
        let first = proxy.send(("GET", "/b"), "x-user: ann", proxy.responds(everybody)).await;
        assert_eq!(
            proxy.send(("GET", "/b"), "x-user: bob", proxy.responds(everybody)).await.how(&first),
            Hit,
            "{manifest}"
        );
    }
}

/// A client can create any number of variants. Those in use stay, and unused ones do not keep others out for ever.
#[tokio::test]
async fn a_client_cannot_evict_the_variants_of_others() {
    for name in ["x-forwarded-made-up", "accept-language"] {
        let proxy = Proxy::new("cache = true");
        let lines = format!("{HOUR}\nvary: accept-language");
        let (asked, value) =
            (async |asked: &str| proxy.send(GET, asked, proxy.responds(&lines)).await, format!("{name}: "));
        let first = asked("").await;
        for n in 0..40 {
            asked(&format!("{value}{n}")).await;
        }
        assert_eq!(asked("").await.how(&first), Hit, "{name}");
        let beyond = asked(&format!("{value}39")).await;
        assert!(beyond.header("cache-status").ends_with("fwd=miss"), "{name}: {}", beyond.header("cache-status"));
        // A variant without space in the store is not waited for.
        let again = asked(&format!("{value}39")).await;
        assert_eq!(again.how(&beyond), Miss, "{name}");
        for _ in 0..6 {
            pass(15);
            assert_eq!(asked("").await.how(&first), Hit, "{name}");
        }
        let new = asked(&format!("{value}39")).await;
        assert_eq!(asked(&format!("{value}39")).await.how(&new), Hit, "{name}: an unused variant keeps it out");
        assert_eq!(asked("").await.how(&first), Hit, "{name}");
    }
}

/// A later response that forbids storing also forbids to use the stored one on errors.
#[tokio::test]
async fn a_later_no_store_forbids_stale_use() {
    let freshness = "cache-control: public, max-age=2, stale-if-error=600\netag: \"a\"";
    // The next response, to a request with these headers, and whether the stored one can still be used.
    for (asked, next, stays) in [
        ("", "cache-control: private", false),
        ("", "cache-control: no-store", false),
        ("", "cache-control: no-cache", false),
        ("", "cache-control: private, max-age=60\netag: \"a\"", false),
        ("", "cache-control: \"", false),
        ("", "status: 404\ncache-control: no-store", false),
        ("cache-control: no-cache", "cache-control: private", false),
        ("", "status: 501\ncache-control: max-age=0", true),
        ("", "cache-control: max-age=0", true),
        ("", "status: 503\ncache-control: no-store", true),
        ("cache-control: no-cache", "status: 503\ncache-control: no-store", true),
        // About the response to one client.
        ("cookie: a=b", "cache-control: private", true),
    ] {
        let proxy = Proxy::new("cache = true");
        proxy.send(GET, "", proxy.responds(freshness)).await;
        pass(3);
        proxy.send(GET, asked, proxy.responds(next)).await;
        assert_eq!(ask_unreachable(&proxy, "").await.is_some(), stays, "{asked:?} {next:?}");
        assert_eq!(proxy.cache.store.bytes() > 0, stays, "{asked:?} {next:?}");
    }
    // A fresh response is used until it is stale.
    let proxy = Proxy::new("cache = true");
    let first = proxy.send(GET, "", proxy.responds(freshness)).await;
    proxy.send(GET, "cache-control: no-cache", proxy.responds("cache-control: private")).await;
    assert_eq!(proxy.send(GET, "", proxy.responds(HOUR)).await.how(&first), Hit);
    pass(3);
    assert!(
        ask_unreachable(&proxy, "").await.is_none()
            && ask_unreachable(&proxy, "cache-control: max-stale").await.is_none()
    );
}

/// A request that fails, for whatever reason, says nothing of the next one: others wait for that as before. Anybody can send one that fails.
#[tokio::test]
async fn failures_do_not_end_coalescing() {
    let errors: [fn() -> Failed; 3] = [|| REFUSED, || GONE, || FAILED];
    for error in errors {
        for is_stale in [false, true] {
            let proxy = Proxy::new("cache = true");
            if is_stale {
                proxy.send(GET, "", proxy.responds("cache-control: max-age=1, stale-if-error=600")).await;
                pass(3);
            }
            let sent = proxy.send_by(0, GET, "", |_| Err(error())).await;
            assert_eq!(sent.is_ok(), is_stale);
            assert!(proxy.lets_others_wait().await, "{:?} {is_stale}", error());
        }
    }
}

/// Only a response about the resource says that others need not wait for one another, and that a stored one must not be used any more.
#[tokio::test]
async fn only_the_service_says_what_is_uncacheable() {
    let (mark, forbid) = ("cache-control: no-store", "the stored response is not used");
    for (status, marks, forbids) in [
        (200, true, true),
        (204, true, true),
        (302, true, true),
        (404, true, true),
        (410, true, true),
        (501, true, true),
        (401, false, true),
        (403, false, true),
        (451, false, true),
        (400, false, false),
        (406, false, false),
        (408, false, false),
        (412, false, false),
        (416, false, false),
        (422, false, false),
        (429, false, false),
        (431, false, false),
        (500, false, false),
        (503, false, false),
    ] {
        let response = format!("status: {status}\n{mark}");
        let proxy = Proxy::new("cache = true");
        proxy.send(GET, "x-forged: 1", proxy.responds(&response)).await;
        assert_eq!(!proxy.lets_others_wait().await, marks, "{status}");
        let proxy = Proxy::new("cache = true");
        proxy.send(GET, "", proxy.responds("cache-control: max-age=1, stale-if-error=600")).await;
        proxy.send(GET, "cache-control: no-cache\nx-forged: 1", proxy.responds(&response)).await;
        pass(3);
        assert_eq!(ask_unreachable(&proxy, "").await.is_none(), forbids, "{status}: {forbid}");
    }
}

/// What is not stored since clients use the memory or the places of variants is no word of the service.
#[tokio::test]
async fn a_full_cache_does_not_end_coalescing() {
    let proxy = Proxy::new("cache = true");
    let filled = proxy.cache.budget.reserve(1 << 20).unwrap();
    proxy.send(GET, "", proxy.responds(HOUR)).await;
    assert!(proxy.lets_others_wait().await);
    drop(filled);
    // Too large for ever.
    proxy.send(GET, "", proxy.responds(&format!("{HOUR}\nx-large: {}", "x".repeat(70_000)))).await;
    assert!(!proxy.lets_others_wait().await);
}
