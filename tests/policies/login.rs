//! Promise: people log in at a provider with their browser, return to the page where they began, and log out. Pages of other origins
//! use none of their sessions, and an operator learns when a login cannot work.

pub(super) mod provider;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Method;
use serde_json::{Value, json};

use self::provider::{Jar, LOGIN, MOVED, PAGE, Provider, SESSION, callback, pairs, set_cookies, start, state};
use super::admission::refused;
use crate::harness::{Process, TestHost, eventually, lodge, output, until, until_metric};

#[tokio::test(flavor = "multi_thread")]
async fn people_log_in() {
    let provider = Provider::start().await;
    let (host, mut jar) = (start(&provider).await, Jar::default());
    // Programs are told, and only pages lead to the provider.
    for fields in [&[("accept", "*/*")][..], &[PAGE, ("sec-fetch-mode", "cors")], &[PAGE, ("sec-fetch-dest", "iframe")]]
    {
        let response = jar.ask(&host, Method::GET, "/shop/head", fields).await;
        assert_eq!(refused(&response), (401, "auth-missing".into()));
        assert_eq!(response.header("www-authenticate"), "Login realm=\"shop\"");
    }
    assert_eq!(jar.ask(&host, Method::POST, "/shop/head", &[PAGE]).await.status, 401);
    assert!(jar.0.is_empty());
    let mut jar = hosts_of_a_login(&host, &provider).await;
    let location = jar.begin(&host, "/shop/head?a=1").await;
    let query = pairs(location.split_once('?').unwrap().1);
    assert!(location.starts_with(&format!("{}/authorize?tenant=1&", provider.issuer)), "{location}");
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", "shop"),
        ("redirect_uri", "https://shop.test/shop/callback"),
        ("scope", "openid email"),
        ("code_challenge_method", "S256"),
    ] {
        assert_eq!(query[name], value);
    }
    assert!(jar.0.contains_key(LOGIN) && !jar.0.contains_key(SESSION));
    // Two pages at once: each returns to where it began.
    let second = jar.begin(&host, "/shop/staff/head").await;
    let done = jar.open(&host, &callback(&provider.authorize(&location), &state(&location))).await;
    assert_eq!((done.status, done.header("location").as_str()), (302, "https://shop.test/shop/head?a=1"), "{done:?}");
    assert_eq!(
        (done.header("cache-control").as_str(), done.header("referrer-policy").as_str()),
        ("no-store", "no-referrer")
    );
    assert!(jar.0.contains_key(SESSION) && !jar.0.contains_key(LOGIN));
    let late = jar.open(&host, &callback(&provider.authorize(&second), &state(&second))).await;
    assert_eq!((late.status, late.header("location").as_str()), (302, "https://shop.test/shop/staff/head"));
    assert!(set_cookies(&late.headers).is_empty());
    // What the service sees.
    jar.0.insert("theme".into(), "dark".into());
    let seen = jar.open(&host, "/shop/head").await;
    let text = seen.text();
    for line in ["method: login", "subject: ann", "scopes: openid email"] {
        assert!(text.contains(&format!("x-lodge-auth-{line}\n")), "no {line} in {text}");
    }
    assert!(text.contains("cookie: theme=dark\n") && !text.contains("__Host-lodge"), "{text}");
    let claims = text.lines().find_map(|line| line.strip_prefix("x-lodge-auth-claims: ")).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    let expected = json!({ "iss": provider.issuer, "sub": "ann", "email": "ann@example.com", "groups": ["staff"] });
    assert_eq!(claims, expected);
    assert!(seen.header("ratelimit").starts_with("\"sub\";"), "{seen:?}");
    assert_eq!(jar.open(&host, "/shop/staff/head").await.status, 200);
    assert_eq!(refused(&jar.open(&host, "/shop/admin/head").await), (403, "auth-insufficient".into()));
    // No other service sees the cookie, nor does an open route of its own.
    for path in ["/other/head", "/shop/open/head"] {
        let text = jar.open(&host, path).await.text();
        assert!(text.contains("cookie: theme=dark\n") && !text.contains("__Host-lodge"), "{text}");
    }
    let set = host.connect().await.ask(Method::GET, "/replica/x", &[], "").await;
    assert_eq!(set.headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["own=1"], "{set:?}");
    pages_of_other_origins(&host, &jar).await;
    let inner = jar.open(&host, "/written/x/head?a=/written").await.text();
    assert!(inner.contains(" /inner/x/head?a=/written\n") && !inner.contains("x-forwarded-prefix"), "{inner}");
    // Without the provider, sessions go on, and nobody else can complete a login.
    let mut other = Jar::default();
    let begun = other.begin(&host, "/shop/head").await;
    let code = provider.authorize(&begun);
    provider.plan(|plan| plan.says = Some(("503 Service Unavailable", String::new())));
    let away = other.open(&host, &callback(&code, &state(&begun))).await;
    assert_eq!((refused(&away), away.header("retry-after").as_str()), ((503, "auth-unavailable".into()), "1"));
    assert!(away.text().contains("the provider of logins does not respond"), "{away:?}");
    assert_eq!(jar.open(&host, "/shop/head").await.status, 200);
    provider.plan(|plan| (plan.says, plan.slow) = (None, true));
    // The same request again, once the provider is back. It issues the token later than the browser has come.
    assert_eq!(other.open(&host, &callback(&code, &state(&begun))).await.status, 302);
    assert!(other.0.contains_key(SESSION));
    provider.plan(|plan| plan.slow = false);
    logout(&host, &provider, jar).await;
}

/// A login at another host would end without its cookie, so it begins at that of `login.url`. Returns the browser.
async fn hosts_of_a_login(host: &TestHost, provider: &Provider) -> Jar {
    let mut jar = Jar::default();
    for (name, target) in
        [("127.0.0.1:8080", "/shop/head?a=1"), ("evil.test", "/shop//evil.test"), ("[::1]", "/shop/head")]
    {
        let mut jar = Jar::default();
        let moved = jar.ask(host, Method::GET, target, &[PAGE, ("host", name)]).await;
        let local = if target.contains("//") { "/" } else { target };
        assert_eq!((moved.status, moved.header("location")), (302, format!("https://shop.test{local}")), "{moved:?}");
        assert_eq!(set_cookies(&moved.headers), [(MOVED.to_owned(), "1".to_owned(), 5)]);
        // Programs are not sent anywhere.
        assert_eq!(jar.ask(host, Method::GET, target, &[("host", name)]).await.status, 401);
    }
    // Behind a proxy that changes the host, the browser comes back with the cookie, and no third time.
    let fields = [PAGE, ("host", "10.0.0.7:8080")];
    assert!(
        jar.ask(host, Method::GET, "/shop/head", &fields).await.header("location").starts_with("https://shop.test/")
    );
    let location = jar.ask(host, Method::GET, "/shop/head", &fields).await.header("location");
    assert!(location.starts_with(&provider.issuer), "{location}");
    for port in ["shop.test:8443", "SHOP.test.:80"] {
        let location =
            Jar::default().ask(host, Method::GET, "/shop/head", &[PAGE, ("host", port)]).await.header("location");
        assert!(location.starts_with(&provider.issuer), "{port}: {location}");
    }
    Jar::default()
}

/// What they send with the session: only what changes nothing, or what `cors` allows.
async fn pages_of_other_origins(host: &TestHost, jar: &Jar) {
    let (evil, app) = (("origin", "https://evil.shop.test"), ("origin", "https://app.test"));
    for (method, path, fields, status) in [
        (Method::POST, "/shop/head", &[][..], 200),
        (Method::POST, "/shop/head", &[("origin", "https://shop.test"), ("sec-fetch-site", "same-origin")], 200),
        (Method::GET, "/shop/head", &[evil], 200),
        (Method::POST, "/shop/head", &[evil], 403),
        (Method::DELETE, "/shop/head", &[app], 403),
        (Method::POST, "/shop/head", &[("sec-fetch-site", "same-site")], 403),
        (Method::POST, "/shop/shared/head", &[app, ("sec-fetch-site", "cross-site")], 200),
        (Method::POST, "/shop/shared/head", &[evil], 403),
        (Method::POST, "/shop/open/head", &[evil], 200),
        (Method::GET, "/shop/head", &[evil, ("connection", "upgrade"), ("upgrade", "websocket")], 403),
        (Method::GET, "/shop/head", &[("connection", "upgrade"), ("upgrade", "websocket")], 200),
    ] {
        let response = jar.clone().ask(host, method.clone(), path, fields).await;
        assert_eq!(response.status, status, "{method} {path} {fields:?}: {response:?}");
        if status == 403 {
            assert_eq!(refused(&response).1, "auth-insufficient");
            assert!(response.text().contains("a page of another origin"), "{response:?}");
        }
    }
}

async fn logout(host: &TestHost, provider: &Provider, mut jar: Jar) {
    let get = jar.open(host, "/shop/logout").await;
    assert_eq!((refused(&get), get.header("allow").as_str()), ((405, "method-not-allowed".into()), "POST"));
    let evil = jar.ask(host, Method::POST, "/shop/logout", &[("origin", "https://evil.test")]).await;
    assert_eq!((refused(&evil), jar.0.contains_key(SESSION)), ((403, "auth-insufficient".into()), true));
    assert!(evil.text().contains("a page of another origin may not log out"), "{evil:?}");
    let stolen = jar.clone();
    let out = jar.ask(host, Method::POST, "/shop/logout", &[("origin", "https://shop.test")]).await;
    assert_eq!((out.status, jar.0.contains_key(SESSION)), (303, false));
    let (url, query) =
        out.header("location").split_once('?').map(|(url, query)| (url.to_owned(), pairs(query))).unwrap();
    assert_eq!(url, format!("{}/end", provider.issuer));
    assert_eq!((&*query["client_id"], &*query["post_logout_redirect_uri"]), ("shop", "https://shop.test/shop/open"));
    assert_eq!(jar.open(host, "/shop/head").await.status, 302);
    // Other keys end all sessions: with the old one beside the new one, none.
    let mut old = stolen.clone();
    assert_eq!(old.open(host, "/shop/head").await.status, 200);
    let (new, path) = (STANDARD.encode((2..34).collect::<Vec<u8>>()), host.directory().join("cookies.list"));
    std::fs::write(&path, &new).unwrap();
    let by_old_key = async || stolen.clone().open(host, "/shop/head").await.status;
    eventually("the old key is gone", async || by_old_key().await != 200).await;
    until_metric(host.admin, "lodge_auth_logins_total{result=\"failed\"}", 1).await;
}

/// Another service that takes the requests of a login is told before and when it is served.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_leads_elsewhere_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| std::fs::write(directory.path().join(file), text).unwrap();
    let upstream = "[upstream]\nreplicas = ['http://127.0.0.1:1']\n";
    write("keys", &STANDARD.encode((0..32).collect::<Vec<u8>>()));
    write(
        "shop.toml",
        &format!(
            "routes = '/*'\n{upstream}[auth.login]\nissuer = 'http://127.0.0.1:1'\nclient_id = 'shop'\nurl = 'https://shop.example'\n\
             cookie_keys = 'keys'"
        ),
    );
    write("login.toml", upstream);
    let expected = "shop: auth.login.callback: GET /login/callback at shop.example leads to login, whose route /login is more specific";
    let (code, _, stderr) = output(&mut lodge(&["check", directory.path().to_str().unwrap()]));
    assert!(code == Some(0) && stderr.contains(expected), "{code:?} {stderr}");
    let process = Process::serve(directory.path(), &[]).await;
    until("it is told", || process.log().contains(expected)).await;
    assert_eq!(process.log().matches(expected).count(), 1, "{}", process.log());
}
