//! Which requests may be given what was stored for another.

use http::Response;
use http::header::HeaderMap;

use super::fakes::Body;
use super::proxy::How::{Hit, Miss};
use super::proxy::{Got, Proxy, pass, set_back};
use crate::error::RequestError;

const GET: (&str, &str) = ("GET", "/a");
const HOUR: &str = "cache-control: max-age=3600\ndate: {0}";

/// A request to an origin server that is gone.
async fn in_vain(proxy: &Proxy, asked: &str) -> Option<Got> {
    let gone = |_: &HeaderMap| -> Result<Response<Body>, RequestError> { Err(RequestError::NoReplica) };
    proxy.ask_by(0, GET, asked, gone).await.ok()
}

/// What was stored before the clock was set back is asked for again: it would be fresh for as much longer.
#[tokio::test]
async fn a_clock_that_is_set_back() {
    let proxy = Proxy::new("cache = true");
    let first = proxy.ask(GET, "", proxy.answers("cache-control: max-age=60, stale-if-error=60")).await;
    set_back(86_400);
    assert!(in_vain(&proxy, "").await.is_none() && in_vain(&proxy, "cache-control: max-stale").await.is_none());
    assert_eq!(proxy.ask(GET, "", proxy.answers(HOUR)).await.how(&first), Miss);
    assert!(in_vain(&proxy, "").await.is_some());
}

/// A request finds what was stored for one that its service cannot tell apart from it by how it came, and nothing else.
#[tokio::test]
async fn how_a_request_came() {
    let proxy = Proxy::new("cache = true");
    let ask = async |route: usize, asked: &str| {
        proxy.ask_by(route, GET, asked, |asked| Ok(proxy.answers(HOUR)(asked))).await.unwrap()
    };
    let plain =
        "x-forwarded-host: a\nx-forwarded-proto: http\nforwarded: for=10.0.0.1;host=\"a\"\nx-forwarded-for: 10.0.0.1";
    let first = ask(0, plain).await;
    let again = plain.replace("10.0.0.1", "10.0.0.2");
    assert_eq!(ask(0, &again).await.how(&first), Hit, "from another address");
    assert_eq!(ask(1, plain).await.how(&first), Miss, "by another route");
    for other in ["x-forwarded-host: b", "x-forwarded-proto: https", "x-forwarded-prefix: /b", "x-forwarded-user: ann"]
    {
        let asked = format!("{plain}\n{other}");
        let made = ask(0, &asked).await;
        assert_eq!((made.how(&first), ask(0, &asked).await.how(&made)), (Miss, Hit), "{other}");
    }
    assert_eq!(ask(0, plain).await.how(&first), Hit);
    // One that varies by the address says so.
    let proxy = Proxy::new("cache = true");
    let vary = format!("{HOUR}\nvary: x-forwarded-for");
    let first = proxy.ask(GET, plain, proxy.answers(&vary)).await;
    assert_eq!(proxy.ask(GET, &again, proxy.answers(&vary)).await.how(&first), Miss);
    assert_eq!(proxy.ask(GET, plain, proxy.answers(&vary)).await.how(&first), Hit);
}

/// A header by which a service tells its clients apart makes a request as personal as a cookie does.
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
        let first = proxy.ask(GET, "x-user: ann", proxy.answers(HOUR)).await;
        let second = proxy.ask(GET, "x-user: bob", proxy.answers(HOUR)).await;
        assert_eq!(second.how(&first) == Miss, personal, "{manifest}");
        let nobody = proxy.ask(GET, "", proxy.answers(HOUR)).await;
        assert_eq!(nobody.how(&first) == Miss, personal, "{manifest}");
        assert_eq!(
            proxy.ask(GET, "x-user: ann", proxy.answers(HOUR)).await.how(&nobody) == Miss,
            personal,
            "{manifest}"
        );
        let everybody = "cache-control: public, max-age=60";
        let first = proxy.ask(("GET", "/b"), "x-user: ann", proxy.answers(everybody)).await;
        assert_eq!(
            proxy.ask(("GET", "/b"), "x-user: bob", proxy.answers(everybody)).await.how(&first),
            Hit,
            "{manifest}"
        );
    }
}

/// What makes a variant is in a client's hands: however many it makes, those that are in use stay, and those that nobody asks
/// for do not keep others out for ever.
#[tokio::test]
async fn a_client_cannot_evict_the_variants_of_others() {
    for name in ["x-forwarded-made-up", "accept-language"] {
        let proxy = Proxy::new("cache = true");
        let answer = format!("{HOUR}\nvary: accept-language");
        let (asked, value) =
            (async |asked: &str| proxy.ask(GET, asked, proxy.answers(&answer)).await, format!("{name}: "));
        let first = asked("").await;
        for n in 0..40 {
            asked(&format!("{value}{n}")).await;
        }
        assert_eq!(asked("").await.how(&first), Hit, "{name}");
        let beyond = asked(&format!("{value}39")).await;
        assert!(beyond.header("cache-status").ends_with("fwd=miss"), "{name}: {}", beyond.header("cache-status"));
        // Nobody waits for what has no place.
        let again = asked(&format!("{value}39")).await;
        assert_eq!(again.how(&beyond), Miss, "{name}");
        for _ in 0..6 {
            pass(15);
            assert_eq!(asked("").await.how(&first), Hit, "{name}");
        }
        let new = asked(&format!("{value}39")).await;
        assert_eq!(asked(&format!("{value}39")).await.how(&new), Hit, "{name}: what nobody asks for keeps it out");
        assert_eq!(asked("").await.how(&first), Hit, "{name}");
    }
}

/// A service that takes back what it has let be stored is taken at its word, also when it fails later.
#[tokio::test]
async fn what_was_withdrawn_is_not_given_on_errors() {
    let terms = "cache-control: public, max-age=2, stale-if-error=600\netag: \"a\"";
    // The response that comes next, to a request with these headers; and whether the stored one may still be given.
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
        // About one client's own response.
        ("cookie: a=b", "cache-control: private", true),
    ] {
        let proxy = Proxy::new("cache = true");
        proxy.ask(GET, "", proxy.answers(terms)).await;
        pass(3);
        proxy.ask(GET, asked, proxy.answers(next)).await;
        assert_eq!(in_vain(&proxy, "").await.is_some(), stays, "{asked:?} {next:?}");
        assert_eq!(proxy.responses.store.bytes() > 0, stays, "{asked:?} {next:?}");
    }
    // One that is fresh is given until it is stale, and not after that.
    let proxy = Proxy::new("cache = true");
    let first = proxy.ask(GET, "", proxy.answers(terms)).await;
    proxy.ask(GET, "cache-control: no-cache", proxy.answers("cache-control: private")).await;
    assert_eq!(proxy.ask(GET, "", proxy.answers(HOUR)).await.how(&first), Hit);
    pass(3);
    assert!(in_vain(&proxy, "").await.is_none() && in_vain(&proxy, "cache-control: max-stale").await.is_none());
}
