//! Promise: people log in at a provider with their browser, and neither another page, another browser, another provider nor
//! another service can begin, complete or use a session of theirs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, Method};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::admission::{metric, refused};
use super::jwt::{Key, set};
use crate::harness::{PATIENCE, Response, TestHost, host, raw};

const SECRET: &str = "s3cret of the shop";

/// What a page of a browser accepts.
const PAGE: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");

/// A provider whose people log in at once.
struct Provider {
    issuer: String,
    key: Key,
    plan: Mutex<Plan>,
}

#[derive(Default)]
struct Plan {
    /// The codes that were given, with what the request for authorization had.
    codes: HashMap<String, HashMap<String, String>>,
    /// The number of codes so far.
    count: usize,
    /// Claims in place of those that are right.
    claims: Value,
    /// Signs ID tokens in place of the key of the provider.
    forger: Option<Key>,
    /// Gives a token that gives access in the place of an ID token.
    access: bool,
    /// What it responds to a code, whatever that is.
    says: Option<(&'static str, String)>,
    /// Whether it takes more than a second.
    slow: bool,
    /// Whether it accepts connections and says nothing.
    silent: bool,
    /// The last form for a code.
    form: HashMap<String, String>,
}

fn pairs(query: &str) -> HashMap<String, String> {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

impl Provider {
    async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let this = Arc::new(Self { issuer, key: Key::new("p"), plan: Mutex::default() });
        let provider = Arc::clone(&this);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&provider).serve(stream));
            }
        });
        this
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let (mut text, mut bytes) = (String::new(), [0; 8192]);
        let (head, body) = loop {
            let Ok(read @ 1..) = stream.read(&mut bytes).await else { return };
            text += &String::from_utf8_lossy(&bytes[..read]);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                break (head, body);
            }
        };
        if self.plan.lock().unwrap().silent {
            tokio::time::sleep(PATIENCE).await;
        }
        if self.plan.lock().unwrap().slow {
            tokio::time::sleep(Duration::from_millis(1_100)).await;
        }
        let (status, body) = self.respond(head, body);
        // As the replica of a service, it would set cookies of the host.
        let cookies = "set-cookie: __host-Lodge-session-shop=x; Path=/; Secure\r\nset-cookie: own=1";
        let head =
            format!("HTTP/1.1 {status}\r\n{cookies}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        let _ = stream.write_all((head + &body).as_bytes()).await;
    }

    fn respond(&self, head: &str, body: &str) -> (&'static str, String) {
        let at = |path: &str| format!("{}{path}", self.issuer);
        match head.split(' ').nth(1).unwrap() {
            "/.well-known/openid-configuration" => (
                "200 OK",
                json!({ "issuer": self.issuer, "authorization_endpoint": at("/authorize?tenant=1"),
                    "token_endpoint": at("/token"), "jwks_uri": at("/jwks"), "end_session_endpoint": at("/end"),
                    "code_challenge_methods_supported": ["S256"] })
                .to_string(),
            ),
            "/jwks" => ("200 OK", set(&[&self.key])),
            _ => self.token(head, body),
        }
    }

    fn token(&self, head: &str, body: &str) -> (&'static str, String) {
        let mut plan = self.plan.lock().unwrap();
        plan.form = pairs(body);
        if let Some(says) = &plan.says {
            return says.clone();
        }
        let refused = |error: &str| ("400 Bad Request", json!({ "error": error }).to_string());
        let secret = form_urlencoded::byte_serialize(SECRET.as_bytes()).collect::<String>();
        let basic = format!("authorization: Basic {}", STANDARD.encode(format!("shop:{secret}")));
        if !head.lines().any(|line| line == basic) || body.contains("s3cret") {
            return refused("invalid_client");
        }
        let code = plan.form.get("code").cloned().unwrap_or_default();
        let Some(asked) = plan.codes.remove(&code) else { return refused("invalid_grant") };
        let verifier = plan.form.get("code_verifier").cloned().unwrap_or_default();
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
        if challenge != asked["code_challenge"] || plan.form.get("redirect_uri") != asked.get("redirect_uri") {
            return refused("invalid_grant");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({ "iss": self.issuer, "aud": "shop", "nonce": asked["nonce"], "iat": now,
            "email": "ann@example.com", "groups": ["staff"], "secret": "not kept" });
        claims.as_object_mut().unwrap().extend(plan.claims.as_object().cloned().unwrap_or_default());
        // The type of the others is that of tokens that give access.
        let kind = if plan.access { "at+jwt" } else { "JWT" };
        let id_token = plan.forger.as_ref().unwrap_or(&self.key).typed(kind, "ann", 600, &claims);
        ("200 OK", json!({ "id_token": id_token, "access_token": "x", "token_type": "Bearer" }).to_string())
    }

    /// Somebody logs in: returns the code for this request.
    fn authorize(&self, location: &str) -> String {
        let query = pairs(location.split_once('?').unwrap().1);
        let mut plan = self.plan.lock().unwrap();
        plan.count += 1;
        let code = format!("code/{}+{}", plan.count, &query["state"][..8]);
        plan.codes.insert(code.clone(), query);
        code
    }

    fn plan(&self, change: impl FnOnce(&mut Plan)) {
        change(&mut self.plan.lock().unwrap());
    }
}

/// A browser with its cookies.
#[derive(Clone, Default)]
struct Jar(HashMap<String, String>);

impl Jar {
    async fn ask(&mut self, host: &TestHost, method: Method, path: &str, fields: &[(&str, &str)]) -> Response {
        let cookies: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = cookies.join("; ");
        let mut all = fields.to_vec();
        if !cookies.is_empty() {
            all.push(("cookie", &cookies));
        }
        let response = host.connect().await.ask(method, path, &all, "").await;
        for (name, value, age) in set_cookies(&response.headers) {
            if age == 0 { drop(self.0.remove(&name)) } else { drop(self.0.insert(name, value)) }
        }
        response
    }

    async fn open(&mut self, host: &TestHost, path: &str) -> Response {
        self.ask(host, Method::GET, path, &[PAGE]).await
    }

    /// Opens a page, which leads to the provider. Returns where.
    async fn begin(&mut self, host: &TestHost, path: &str) -> String {
        let response = self.open(host, path).await;
        assert_eq!(response.status, 302, "{response:?}");
        assert_eq!(response.header("cache-control"), "no-store");
        response.header("location")
    }

    /// Logs in at the provider, and returns to the host with this query besides the code and the state.
    async fn login(&mut self, host: &TestHost, provider: &Provider, path: &str) -> Response {
        let location = self.begin(host, path).await;
        self.open(host, &callback(&provider.authorize(&location), &state(&location))).await
    }
}

fn set_cookies(headers: &HeaderMap) -> Vec<(String, String, u64)> {
    let read = |value: &http::HeaderValue| {
        let text = value.to_str().unwrap();
        let (pair, attributes) = text.split_once("; ").unwrap();
        let age = attributes.strip_prefix("Path=/; Max-Age=").unwrap();
        let age = age.strip_suffix("; Secure; HttpOnly; SameSite=Lax").unwrap().parse().unwrap();
        let (name, value) = pair.split_once('=').unwrap();
        (name.to_owned(), value.to_owned(), age)
    };
    headers.get_all("set-cookie").iter().map(read).collect()
}

fn state(location: &str) -> String {
    pairs(location.split_once('?').unwrap().1)["state"].clone()
}

fn callback(code: &str, state: &str) -> String {
    let query =
        form_urlencoded::Serializer::new(String::new()).append_pair("code", code).append_pair("state", state).finish();
    format!("/shop/callback?{query}")
}

const SESSION: &str = "__Host-lodge-session-shop";
const LOGIN: &str = "__Host-lodge-login-shop";

fn manifest(provider: &Provider, name: &str, more: &str) -> String {
    format!(
        "routes = ['/{name}', {{ path = '/{name}/staff', auth = {{ claims = {{ groups = 'staff' }} }} }},\n\
         {{ path = '/{name}/admin', auth = {{ claims = {{ groups = 'admin' }} }} }}, {{ path = '/{name}/open', auth = false }},\n\
         {{ path = '/{name}/shared', cors = {{ origins = 'https://app.test', credentials = true }} }}]\n\
         rate = {{ limit = '1000/h', by = 'claim:sub' }}\ncache = true\n\
         [auth.login]\nissuer = '{}'\nclient_id = 'shop'\nclient_secret.file = 'client.secret'\nurl = 'https://shop.test'\n\
         cookie_keys = 'cookies.list'\ncallback = '/{name}/callback'\nlogout = '/{name}/logout'\nscopes = 'email'\n\
         claims = ['email', 'groups']\nafter_logout = '/{name}/open'\n{more}",
        provider.issuer
    )
}

async fn start(provider: &Provider) -> TestHost {
    let keys: Vec<_> = (1..33).collect();
    let host = host(&[])
        .set("auth_failures", "30")
        .named("echo", "shop")
        .named("echo", "admin")
        .named("echo", "other")
        .file("client.secret", SECRET.as_bytes())
        .file("cookies.list", STANDARD.encode(keys).as_bytes())
        .manifest("shop", &manifest(provider, "shop", "leeway = '0s'"))
        .manifest("admin", &manifest(provider, "admin", ""))
        .manifest("replica", &format!("routes = '/replica'\n[upstream]\nreplicas = ['{}']", provider.issuer))
        .manifest("other", "routes = ['/other', { path = '/written', rewrite = '/inner' }]")
        .start()
        .await;
    assert_eq!(host.refusals(), Vec::<String>::new());
    host
}

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
    assert_eq!((refused(&evil), jar.0.contains_key(SESSION)), ((401, "auth-invalid".into()), true));
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
    let start = std::time::Instant::now();
    while stolen.clone().open(host, "/shop/head").await.status == 200 {
        assert!(start.elapsed() < PATIENCE, "the old key stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(metric(host, "lodge_auth_logins_total{result=\"failed\"}").await, "1");
}

/// Every way in which a login must not succeed. None of them gives a session.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_logins() {
    let provider = Provider::start().await;
    let host = start(&provider).await;
    // What the provider says.
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
    let mut check = |response: &Response, jar: &Jar, status: u16, what: &str| {
        assert_eq!(response.status, status, "{what}: {response:?}");
        assert!(!jar.0.contains_key(SESSION) && response.header("location").is_empty(), "{what}");
        count += 1;
    };
    for (claims, cause) in claims {
        provider.plan(|plan| plan.claims = claims.clone());
        let mut jar = Jar::default();
        let response = jar.login(&host, &provider, "/shop/head").await;
        check(&response, &jar, if cause == "session-too-large" { 403 } else { 401 }, &claims.to_string());
        let line = format!("lodge_auth_failures_total{{service=\"shop\",cause=\"{cause}\"}}");
        assert_ne!(metric(&host, &line).await, "0", "{cause}");
    }
    provider.plan(|plan| (plan.claims, plan.forger) = (Value::Null, Some(forged)));
    let mut jar = Jar::default();
    let response = jar.login(&host, &provider, "/shop/head").await;
    check(&response, &jar, 401, "a token by another key of the same name");
    provider.plan(|plan| (plan.forger, plan.access) = (None, true));
    let mut jar = Jar::default();
    let response = jar.login(&host, &provider, "/shop/head").await;
    check(&response, &jar, 401, "a token that gives access");
    provider.plan(|plan| plan.access = false);
    for (says, status) in says {
        let what = says.1.chars().take(80).collect::<String>();
        provider.plan(|plan| plan.says = Some(says));
        let mut jar = Jar::default();
        let response = jar.login(&host, &provider, "/shop/head").await;
        check(&response, &jar, status, &what);
    }
    provider.plan(|plan| (plan.says, plan.silent) = (None, true));
    let mut jar = Jar::default();
    let response = jar.login(&host, &provider, "/shop/head").await;
    check(&response, &jar, 503, "a provider that says nothing");
    provider.plan(|plan| plan.silent = false);
    // What pages and other browsers say.
    let mut jar = Jar::default();
    let location = jar.begin(&host, "/shop/head").await;
    let (code, own) = (provider.authorize(&location), state(&location));
    let mut eve = Jar::default();
    let evil = eve.begin(&host, "/shop/head").await;
    let (eves_code, eves) = (provider.authorize(&evil), state(&evil));
    let admin = state(&Jar::default().begin(&host, "/admin/head").await);
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
        ("an error beside a code", format!("{url}&error=access_denied")),
        ("no code", format!("/shop/callback?state={own}")),
        ("a huge code", callback(&"x".repeat(3_000), &own)),
    ] {
        let response = jar.clone().open(&host, &path).await;
        check(&response, &jar, 401, what);
    }
    // The login itself was not disturbed, and a browser without its cookie cannot complete it.
    check(&Jar::default().open(&host, &url).await, &jar, 401, "no cookie of the login");
    let fixed = Jar([(LOGIN.to_owned(), "A".repeat(22))].into());
    check(&fixed.clone().open(&host, &url).await, &fixed, 401, "another cookie of the login");
    // The code of somebody else, who wants this browser to be logged in as him: PKCE and the nonce are those of his login.
    let injected = jar.clone().open(&host, &callback(&eves_code, &own)).await;
    check(&injected, &jar, 401, "a code of another login");
    let again = jar.begin(&host, "/shop/head").await;
    let url = callback(&provider.authorize(&again), &state(&again));
    let before = jar.clone();
    assert_eq!(jar.open(&host, &url).await.status, 302);
    check(&before.clone().open(&host, &url).await, &before, 401, "the same code and state again");
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
