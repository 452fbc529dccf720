//! Promise: neither another page, another browser, another provider nor another service can begin, complete or use a session.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use serde_json::{Value, json};

use super::jwt::Key;
use super::login::provider::{Jar, LOGIN, PAGE, Provider, SESSION, callback, setup, start, state};
use crate::harness::{Response, TestHost, eventually, get, metric, raw};

/// Every way in which a login must not succeed. None of them gives a session.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_logins() {
    let provider = Provider::start().await;
    let host = start(&provider).await;
    let mut count = bad_responses_of_the_provider(&host, &provider).await;
    let jar = stolen_logins(&host, &provider, &mut count).await;
    assert!(count > 35, "{count}");
    sessions_of_others(&host, &provider, &jar).await;
    // A session is no licence to guess.
    for _ in 0..60 {
        let mut guesser = Jar::default();
        let page = guesser.open(&host, "/shop/head").await;
        if page.status == 429 {
            return;
        }
        guesser.0.insert(SESSION.to_owned(), jar.0[SESSION].clone());
        let guess = guesser.open(&host, &callback("junk", &state(&page.header("location")))).await;
        assert!([302, 429].contains(&guess.status), "{guess:?}");
    }
    panic!("guesses with a session are not counted");
}

/// Codes that are tried at once are as few as those that are tried one after another.
#[tokio::test(flavor = "multi_thread")]
async fn codes_are_tried_at_the_rate_of_failures() {
    let provider = Provider::start().await;
    let host = setup(&provider).set("auth_failures", "1").start().await;
    let mut guesses = Vec::new();
    for number in 0..10 {
        let mut browser = Jar::default();
        let location = browser.begin(&host, "/shop/head").await;
        guesses.push((browser, callback(&format!("guess-{number}"), &state(&location))));
    }
    // All of them are there before the provider responds to the first.
    provider.plan(|plan| plan.slow = true);
    let mut tries = tokio::task::JoinSet::new();
    for (browser, path) in guesses {
        let (mut connection, cookie) = (host.connect().await, format!("{LOGIN}={}", browser.0[LOGIN]));
        tries.spawn(async move {
            let fields = [PAGE, ("host", "shop.test"), ("cookie", cookie.as_str())];
            connection.ask(Method::GET, &path, &fields, "").await.status
        });
    }
    let statuses = tries.join_all().await;
    let tried = statuses.iter().filter(|status| **status != 429).count();
    // A further one is allowed after a minute.
    assert!((1..=2).contains(&tried), "{statuses:?}");
}

/// Checks that a login has failed.
fn check(count: &mut usize, (response, jar): (&Response, &Jar), status: u16, what: &str) {
    assert_eq!(response.status, status, "{what}: {response:?}");
    assert!(!jar.0.contains_key(SESSION) && response.header("location").is_empty(), "{what}");
    *count += 1;
}

/// What a provider must not say. Returns how many logins have failed.
async fn bad_responses_of_the_provider(host: &TestHost, provider: &Provider) -> usize {
    let (forged, now) = (Key::new("p"), SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
    let unsigned = |claims: Value| {
        let parts = [json!({ "alg": "none" }), claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        json!({ "id_token": format!("{}.", parts.join(".")) }).to_string()
    };
    let claims: Vec<(Value, &str)> = vec![
        (json!({ "nonce": "another" }), "nonce"),
        (json!({ "nonce": null }), "nonce"),
        (json!({ "iss": "https://evil.test" }), "issuer"),
        (json!({ "aud": "admin" }), "audience"),
        (json!({ "aud": ["shop", "admin"] }), "audience"),
        (json!({ "azp": "admin" }), "audience"),
        (json!({ "exp": now - 60 }), "expired-token"),
        (json!({ "iat": now - 700 }), "expired-token"),
        (json!({ "iat": now + 90 }), "early-token"),
        (json!({ "sub": "" }), "claims"),
        (json!({ "groups": vec!["x".repeat(200); 18] }), "session-too-large"),
    ];
    let says = [
        (("200 OK", unsigned(json!({ "sub": "ann", "iss": provider.issuer, "aud": "shop" }))), 401),
        (("200 OK", json!({ "access_token": "x" }).to_string()), 503),
        (("200 OK", "x".repeat(70 << 10)), 503),
        (("200 OK", "{\"id_token\":\"a\",\"id_token\":\"b\"}".to_owned()), 503),
        (("302 Found", String::new()), 503),
        (("401 Unauthorized", json!({ "error": "invalid_client" }).to_string()), 503),
        (("400 Bad Request", json!({ "error": "invalid_grant" }).to_string()), 401),
    ];
    let mut count = 0;
    for (claims, cause) in claims {
        provider.plan(|plan| plan.claims = claims.clone());
        let mut jar = Jar::default();
        let response = jar.login(host, provider, "/shop/head").await;
        check(&mut count, (&response, &jar), if cause == "session-too-large" { 403 } else { 401 }, &claims.to_string());
        let detail = match cause {
            "nonce" => "the provider did not confirm the login",
            "session-too-large" => "do not fit into a cookie",
            "expired-token" | "early-token" => "the clocks of the provider and of this service differ",
            _ => "its operator finds the cause in the log",
        };
        assert!(response.text().contains(detail), "{cause}: {response:?}");
        let name = format!("lodge_auth_failures_total{{service=\"shop\",cause=\"{cause}\"}}");
        eventually(&name, async || metric(host.admin, &name).await > 0.0).await;
    }
    provider.plan(|plan| (plan.claims, plan.forger) = (Value::Null, Some(forged)));
    let mut jar = Jar::default();
    let response = jar.login(host, provider, "/shop/head").await;
    check(&mut count, (&response, &jar), 401, "a token by another key of the same name");
    provider.plan(|plan| (plan.forger, plan.access) = (None, true));
    let mut jar = Jar::default();
    let response = jar.login(host, provider, "/shop/head").await;
    check(&mut count, (&response, &jar), 401, "a token that gives access");
    provider.plan(|plan| plan.access = false);
    for (says, status) in says {
        let what = says.1.chars().take(80).collect::<String>();
        provider.plan(|plan| plan.says = Some(says));
        let mut jar = Jar::default();
        let response = jar.login(host, provider, "/shop/head").await;
        check(&mut count, (&response, &jar), status, &what);
        let names_settings = response.text().contains("its operator must check `client_id` and the secret");
        assert_eq!(names_settings, what.contains("invalid_client"), "{response:?}");
    }
    provider.plan(|plan| (plan.says, plan.silent) = (None, true));
    let mut jar = Jar::default();
    let response = jar.login(host, provider, "/shop/head").await;
    check(&mut count, (&response, &jar), 503, "a provider that says nothing");
    provider.plan(|plan| plan.silent = false);
    count
}

/// What pages and other browsers say. Returns a browser that has logged in.
async fn stolen_logins(host: &TestHost, provider: &Provider, count: &mut usize) -> Jar {
    let mut jar = Jar::default();
    let location = jar.begin(host, "/shop/head").await;
    let (code, own) = (provider.authorize(&location), state(&location));
    let mut eve = Jar::default();
    let evil = eve.begin(host, "/shop/head").await;
    let (eves_code, eves) = (provider.authorize(&evil), state(&evil));
    let admin = state(&Jar::default().begin(host, "/admin/head").await);
    let url = callback(&code, &own);
    let mut flipped = own.clone().into_bytes();
    flipped[40] ^= 1;
    let iss = format!("{url}&iss=https%3A%2F%2Fevil.test");
    for (what, path) in [
        ("the login of another browser", callback(&eves_code, &eves)),
        ("a state of another service", callback(&code, &admin)),
        ("a state that was changed", callback(&code, &String::from_utf8_lossy(&flipped))),
        ("a part of a state", callback(&code, &own[..own.len() - 4])),
        ("no state", "/shop/callback?code=x".into()),
        ("an empty state", callback(&code, "")),
        ("two states", format!("{url}&state={own}")),
        ("two codes", format!("{url}&code=x")),
        ("another issuer", iss),
        ("an error", format!("/shop/callback?error=access_denied&state={own}")),
        ("an error beside a code", format!("{url}&error=access_denied&error_description=no%0Aentry%1b")),
        ("no code", format!("/shop/callback?state={own}")),
        ("a huge code", callback(&"x".repeat(3_000), &own)),
    ] {
        let response = jar.clone().open(host, &path).await;
        check(count, (&response, &jar), 401, what);
    }
    // What the provider says is for operators alone.
    let details = get(host.admin, "/v1/services/shop").await.text();
    let details: Value = serde_json::from_str(&details).unwrap();
    let said =
        "login-refused: the provider sent the browser back with the error access_denied: no\u{fffd}entry\u{fffd}";
    assert_eq!(details["login_refusal"]["reason"], said);
    // The login itself was not disturbed, and a browser without its cookie cannot complete it.
    check(count, (&Jar::default().open(host, &url).await, &jar), 401, "no cookie of the login");
    let fixed = Jar([(LOGIN.to_owned(), "A".repeat(22))].into());
    check(count, (&fixed.clone().open(host, &url).await, &fixed), 401, "another cookie of the login");
    // The code of somebody else, who wants this browser to be logged in as him: PKCE and the nonce are those of his login.
    let injected = jar.clone().open(host, &callback(&eves_code, &own)).await;
    check(count, (&injected, &jar), 401, "a code of another login");
    let again = jar.begin(host, "/shop/head").await;
    let url = callback(&provider.authorize(&again), &state(&again));
    let before = jar.clone();
    assert_eq!(jar.open(host, &url).await.status, 302);
    check(count, (&before.clone().open(host, &url).await, &before), 401, "the same code and state again");
    jar
}

/// Cookies that are no session of the service, and returns to other origins.
async fn sessions_of_others(host: &TestHost, provider: &Provider, jar: &Jar) {
    let cookie = &jar.0[SESSION];
    let flip = |at: usize| {
        let mut bytes = URL_SAFE_NO_PAD.decode(cookie).unwrap();
        bytes[at] ^= 1;
        URL_SAFE_NO_PAD.encode(bytes)
    };
    let path = "/shop/head";
    for (what, name, value) in [
        ("truncated", SESSION, cookie[..cookie.len() - 1].to_owned()),
        ("the salt changed", SESSION, flip(0)),
        ("the text changed", SESSION, flip(20)),
        ("the tag changed", SESSION, flip(URL_SAFE_NO_PAD.decode(cookie).unwrap().len() - 1)),
        ("a JWT", SESSION, provider.key.token("ann", 600, &json!({}))),
        ("huge", SESSION, "A".repeat(4_000)),
        ("twice", SESSION, format!("{cookie}; {SESSION}={cookie}")),
        ("another name", "__Host-lodge-session-admin", cookie.clone()),
        ("a name that differs in case", "__host-lodge-session-shop", cookie.clone()),
        ("without the prefix", "lodge-session-shop", cookie.clone()),
    ] {
        let response = Jar([(name.to_owned(), value)].into()).ask(host, Method::GET, path, &[]).await;
        assert_eq!(response.status, 401, "{what}: {response:?}");
    }
    let admin = Jar([("__Host-lodge-session-admin".to_owned(), cookie.clone())].into());
    assert_eq!(admin.clone().ask(host, Method::GET, "/admin/head", &[]).await.status, 401);
    assert_eq!(jar.clone().ask(host, Method::GET, path, &[]).await.status, 200);
    // Wherever a browser was, it returns to this origin.
    for target in [
        "/shop//evil.test",
        "/shop/%2Fevil.test",
        "/shop/%5Cevil.test",
        "/shop/%255Cevil.test",
        "/shop/%09/evil.test",
        "/shop/..%2F..%2Fevil.test",
        "/shop/?next=https://evil.test",
        "/shop/@evil.test",
        "/shop/https://evil.test",
        "/shop/\\evil.test",
        "/shop/%0d%0alocation:%20https://evil.test",
        "/shop/%e2%81%84evil.test",
        "https://evil.test/shop/head",
        "/shop/;evil.test",
        "/shop/.%2e/evil.test",
        "/shop/%2e%2e//evil.test",
    ] {
        let request =
            format!("GET {target} HTTP/1.1\r\nhost: shop.test\r\naccept: text/html\r\nconnection: close\r\n\r\n");
        let response = raw(host.address, &request).await;
        let field = |name: &str| {
            let line = response.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.split(';').next().unwrap().to_owned())
        };
        // Some are refused before, and some are paths of no service.
        let (Some(location), Some(cookie)) = (field("location: "), field("set-cookie: ")) else {
            assert!(!response.contains(" 302 ") && !response.contains("evil.test\r\n"), "{target}: {response}");
            continue;
        };
        // The client reached another host, and goes to that of the login first.
        if let Some(path) = location.strip_prefix("https://shop.test") {
            assert_eq!((path, target), ("/shop/head", "https://evil.test/shop/head"));
            continue;
        }
        let (name, value) = cookie.split_once('=').unwrap();
        let mut jar = Jar([(name.to_owned(), value.to_owned())].into());
        let done = jar.open(host, &callback(&provider.authorize(&location), &state(&location))).await;
        let returned = done.header("location");
        assert!(done.status == 302 && returned.starts_with("https://shop.test/"), "{target}: {done:?}");
        let path = returned.strip_prefix("https://shop.test").unwrap().split('?').next().unwrap();
        assert!(
            !path.contains("//") && !path.contains('\\') && !path.to_lowercase().contains("%2f"),
            "{target}: {path}"
        );
    }
}
