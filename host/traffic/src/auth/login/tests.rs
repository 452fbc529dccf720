use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{COOKIE, ORIGIN};
use proptest::prelude::*;
use serde_json::json;

use super::cookies::HostCookies;
use super::*;
use crate::routing::router::Router;
use lodge_base::config;
use lodge_manifest::Manifest;
use lodge_manifest::auth::Auth;

/// The time of the tests.
fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

/// The settings with another text in one place. Nothing listens at the port of the provider, which is reserved.
fn changed(from: &str, to: &str) -> settings::Login {
    let text = "routes = '/*'\n[auth.login]\nissuer = 'http://127.0.0.1:1'\nclient_id = 'shop'\n\
                url = 'https://shop.example'\ncookie_keys = 'k'\n";
    let limits = config::resolve(&[]).unwrap().config.limits;
    let manifest = Manifest::read("shop", &text.replacen(from, to, 1), &limits, 1 << 30).unwrap();
    let Some(Auth::Identified(settings)) = manifest.policies.service.auth else { panic!() };
    *settings.login.unwrap()
}

async fn logins_of(service: &str, key: u8, settings: settings::Login) -> Logins {
    let keys = SealingKeys::read(&STANDARD.encode((key..key + 32).collect::<Vec<_>>())).unwrap();
    Logins::open(service, settings, Arc::new(LiveValue::new(keys)), None, None, &Arc::default()).await
}

async fn logins(more: &str) -> Logins {
    logins_of("shop", 1, changed("cookie_keys", &format!("{more}\ncookie_keys"))).await
}

fn browser(target: &str, cookie: &str) -> BrowserRequest {
    let mut headers = HeaderMap::new();
    headers.insert("accept", HeaderValue::from_static("text/html"));
    headers.insert(COOKIE, HeaderValue::from_str(cookie).unwrap());
    let cookies = HostCookies::take(&mut headers);
    BrowserRequest::new(target.parse().unwrap(), cookies, &Method::GET, &headers)
}

fn session(claims: serde_json::Value) -> LoginSession {
    let serde_json::Value::Object(claims) = claims else { panic!() };
    let start = seconds(at(0));
    LoginSession { subject: "ann".into(), scopes: vec!["openid".into()], claims, at: start, seen: start }
}

/// The part of a cookie that a browser sends.
fn sent(cookie: &HeaderValue) -> String {
    cookie.to_str().unwrap().split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn sessions_end() {
    let logins = logins("session = '1h'\nidle = '16m'").await;
    let first = logins.cookie(&session(json!({ "email": "ann@example.com" })), at(0)).unwrap();
    assert!(first.to_str().unwrap().contains("; Max-Age=960; Secure; HttpOnly; SameSite=Lax"), "{first:?}");
    let open = |cookie: &HeaderValue, seconds: u64| logins.session(&browser("/", &sent(cookie)), at(seconds));
    let known = open(&first, 0).unwrap().unwrap();
    let identity = known.identity;
    assert_eq!(
        (identity.method().name(), identity.subject(), identity.issuer()),
        ("login", "ann", "http://127.0.0.1:1")
    );
    assert_eq!(
        (identity.claim("email").unwrap(), identity.scopes()),
        ("ann@example.com".into(), &["openid".to_owned()][..])
    );
    assert_eq!(known.renewed, None);
    // A cookie is replaced after an eighth of the idle time, and ends with it.
    assert_eq!(open(&first, 119).unwrap().unwrap().renewed, None);
    let second = open(&first, 120).unwrap().unwrap().renewed.unwrap();
    assert_eq!((open(&first, 959).is_ok(), open(&first, 960).unwrap_err()), (true, Cause::Session));
    assert!(open(&second, 1_079).is_ok() && open(&second, 1_080).is_err());
    // However often it is renewed, the session ends an hour after the login.
    let mut last = second;
    for seconds in (300..3_600).step_by(300) {
        last = open(&last, seconds).unwrap().unwrap().renewed.unwrap();
    }
    assert!(last.to_str().unwrap().contains("; Max-Age=300;"), "{last:?}");
    assert!(open(&last, 3_599).is_ok() && open(&last, 3_600).is_err());
    // One of the future, from a host whose clock is wrong.
    let future = logins.cookie(&session(json!({})), at(0)).unwrap();
    let early = |seconds: u64| logins.session(&browser("/", &sent(&future)), at(0) - Duration::from_secs(seconds));
    assert!(early(30).is_ok() && early(31).is_err());
}

#[tokio::test]
async fn sessions_are_of_one_service() {
    let own = logins("").await;
    let cookie = sent(&own.cookie(&session(json!({})), at(0)).unwrap());
    let (name, value) = cookie.split_once('=').unwrap();
    assert_eq!(name, "__Host-lodge-session-shop");
    let with = |name: &str, value: &str| browser("/", &format!("{name}={value}"));
    assert!(own.session(&with(name, value), at(1)).unwrap().is_some());
    for (service, key, from, to) in [
        ("admin", 1, "", ""),
        ("shop", 2, "", ""),
        ("shop", 1, "client_id = 'shop'", "client_id = 'another'"),
        ("shop", 1, "https://shop.example", "https://other.example"),
        ("shop", 1, "http://127.0.0.1:1", "http://localhost:1"),
    ] {
        let other = logins_of(service, key, changed(from, to)).await;
        let named = cookies::name("session", service);
        assert_eq!(other.session(&with(&named, value), at(1)).unwrap_err(), Cause::Session, "{service} {key} {to}");
    }
    // Neither a part of it, nor another text, nor one that is sent twice.
    for value in [&value[1..], &value[..value.len() - 1], "x", "AAAA", &format!("{value}A"), &"A".repeat(4000)] {
        assert_eq!(own.session(&with(name, value), at(1)).unwrap_err(), Cause::Session);
    }
    for cookie in [format!("{cookie}; {cookie}"), format!("{name}="), format!("other={value}")] {
        assert!(own.session(&browser("/", &cookie), at(1)).unwrap().is_none(), "{cookie}");
    }
    // The state of a login is no session.
    let state = LoginState::new(at(0), b"c", "/").unwrap().seal(&own.keys.load(), &own.context).unwrap();
    assert_eq!(own.session(&with(name, &state), at(1)).unwrap_err(), Cause::Session);
}

#[tokio::test]
async fn large_sessions_are_refused() {
    let logins = logins("").await;
    let cookie = |bytes: usize| logins.cookie(&session(json!({ "groups": "x".repeat(bytes) })), at(0));
    assert!(cookie(2_800).unwrap().len() <= 4_096);
    assert_eq!(cookie(3_000).unwrap_err(), Cause::SessionTooLarge);
}

/// Without a provider nobody can log in, and nothing else fails.
#[tokio::test]
async fn a_provider_that_is_away() {
    let logins = logins("").await;
    assert_eq!(logins.begin(&browser("/", "a=b"), at(0)).unwrap_err(), Cause::NoProvider);
    let cookie = sent(&logins.cookie(&session(json!({})), at(0)).unwrap());
    assert!(logins.session(&browser("/", &cookie), at(1)).unwrap().is_some());
    let ended = logins.end(&HeaderMap::new(), &browser("/logout", &cookie)).unwrap();
    assert_eq!(ended.location, "https://shop.example/");
    assert!(ended.cookies[0].to_str().unwrap().starts_with("__Host-lodge-session-shop=; Path=/; Max-Age=0;"));
    // A page of another origin ends no session, and neither does one without the cookie.
    let origin = |origin: &str| {
        let headers = HeaderMap::from_iter([(ORIGIN, HeaderValue::from_str(origin).unwrap())]);
        logins.end(&headers, &browser("/logout", &cookie))
    };
    assert!(origin("https://shop.example").is_ok());
    for other in ["https://evil.example", "null", "http://shop.example", "https://shop.example.evil.example", ""] {
        assert_eq!(origin(other).unwrap_err(), Cause::ForeignPage, "{other}");
    }
    // One with `Referrer-Policy: no-referrer` hides its own.
    let mut hidden = HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static("null"))]);
    hidden.insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
    assert_eq!(logins.end(&hidden, &browser("/logout", &cookie)).unwrap().cookies.len(), 1);
    assert!(logins.end(&HeaderMap::new(), &browser("/logout", "a=b")).unwrap().cookies.is_empty());
}

#[tokio::test]
async fn a_login_is_completed_once() {
    let logins = logins("").await;
    for salt in 0..100 {
        let (salt, barrier) = ([salt; SALT], std::sync::Barrier::new(4));
        let first = || {
            barrier.wait();
            usize::from(logins.is_first(&salt))
        };
        let count: usize = std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(first));
            threads.map(|thread| thread.join().unwrap()).iter().sum()
        });
        assert_eq!(count, 1);
    }
}

#[test]
fn answers_have_each_parameter_once() {
    let read = |query: &str| AuthorizationResponse::read(&browser(&format!("/login/callback?{query}"), "a=b"));
    let answer = read("code=c%20d&state=s&iss=https%3A%2F%2Fi&session_state=x").unwrap();
    let [code, state, issuer] = [answer.code, answer.state, answer.issuer].map(Option::unwrap);
    assert_eq!((&*code, &*state, &*issuer, answer.error), ("c d", "s", "https://i", None));
    let said = |query: &str| read(query).unwrap().said();
    assert_eq!(said("error=access_denied&state=s").unwrap(), "access_denied");
    assert_eq!(said("error=a&error_description=no%0Aentry%1b[2J").unwrap(), "a: no\u{fffd}entry\u{fffd}[2J");
    let long = said(&format!("error={0}&error_description={0}", "x".repeat(5_000))).unwrap();
    assert!(long.len() <= 402, "{}", long.len());
    assert_eq!(said("code=c&error_description=d"), None, "a description alone is none of an error");
    for twice in ["code=a&code=a", "state=a&st%61te=b", "iss=a&iss=a", "error=a&error=b"] {
        assert_eq!(read(twice), None, "{twice}");
    }
    assert_eq!(read(""), Some(AuthorizationResponse::default()));
}

proptest! {
    /// A manifest with a login is accepted where the router leads the requests of the login to the service.
    #[test]
    fn a_login_is_accepted_where_its_paths_are_routed(
        routes in prop::collection::btree_set(
            (
                prop::sample::select(vec!["/", "/*", "/in", "/in/back", "/in/{a}", "/{a}", "/{a}/back", "/out", "/{a}/{b}"]),
                prop::sample::select(vec!["", ", methods = 'GET'", ", methods = 'POST'", ", methods = ['GET', 'POST']", ", methods = 'PUT'"]),
                prop::sample::select(vec!["", ", host = 'shop.example'", ", host = 'other.example'"]),
            ),
            1..6,
        ),
        logout in prop::sample::select(vec!["/out", "/"]),
    ) {
        let routes: Vec<_> = routes.iter().map(|(path, methods, host)| format!("{{ path = '{path}'{methods}{host} }}")).collect();
        let text = format!("routes = [{}]\n", routes.join(", "));
        let login = format!(
            "[auth.login]\nissuer = 'https://login.example'\nclient_id = 'shop'\nurl = 'https://shop.example'\ncookie_keys = 'k'\n\
             callback = '/in/back'\nlogout = '{logout}'"
        );
        let limits = config::resolve(&[]).unwrap().config.limits;
        let read = |text: &str| Manifest::read("shop", text, &limits, 1 << 30);
        let Ok(plain) = read(&text) else { return Ok(()) };
        let mut router = Router::default();
        router.insert(plain.routes.iter(), &(), false).unwrap();
        let is_routed = |path: &str, method: &Method| router.find("shop.example", path, method, true).is_ok();
        let expected = is_routed("/in/back", &Method::GET) && is_routed(logout, &Method::POST);
        let accepted = read(&(text + &login));
        prop_assert_eq!(accepted.is_ok(), expected, "{:?}", accepted.err());
    }
}
