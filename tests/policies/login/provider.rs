//! A provider, a browser with its cookies, and a host with services that people log in to.

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

use crate::harness::{PATIENCE, Response, Setup, TestHost, host};
use crate::policies::jwt::{Key, set};

const SECRET: &str = "s3cret of the shop";

/// What a page of a browser accepts.
pub(crate) const PAGE: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");

/// A provider whose people log in at once.
pub(crate) struct Provider {
    pub(crate) issuer: String,
    pub(crate) key: Key,
    plan: Mutex<Plan>,
}

#[derive(Default)]
pub(crate) struct Plan {
    /// The codes that were given, with what the request for authorization had.
    codes: HashMap<String, HashMap<String, String>>,
    /// The number of codes so far.
    count: usize,
    /// Claims in place of those that are right.
    pub(crate) claims: Value,
    /// Signs ID tokens in place of the key of the provider.
    pub(crate) forger: Option<Key>,
    /// Gives a token that gives access in the place of an ID token.
    pub(crate) access: bool,
    /// What it responds to a code, whatever that is.
    pub(crate) says: Option<(&'static str, String)>,
    /// Whether it takes more than a second.
    pub(crate) slow: bool,
    /// Whether it accepts connections and says nothing.
    pub(crate) silent: bool,
    /// The last form for a code.
    form: HashMap<String, String>,
}

pub(crate) fn pairs(query: &str) -> HashMap<String, String> {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

impl Provider {
    pub(crate) async fn start() -> Arc<Self> {
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
    pub(crate) fn authorize(&self, location: &str) -> String {
        let query = pairs(location.split_once('?').unwrap().1);
        let mut plan = self.plan.lock().unwrap();
        plan.count += 1;
        let code = format!("code/{}+{}", plan.count, &query["state"][..8]);
        plan.codes.insert(code.clone(), query);
        code
    }

    pub(crate) fn plan(&self, change: impl FnOnce(&mut Plan)) {
        change(&mut self.plan.lock().unwrap());
    }
}

/// A browser with its cookies.
#[derive(Clone, Default)]
pub(crate) struct Jar(pub(crate) HashMap<String, String>);

impl Jar {
    pub(crate) async fn ask(
        &mut self,
        host: &TestHost,
        method: Method,
        path: &str,
        fields: &[(&str, &str)],
    ) -> Response {
        let cookies: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = cookies.join("; ");
        let mut all = fields.to_vec();
        if !fields.iter().any(|(name, _)| *name == "host") {
            all.push(("host", "shop.test"));
        }
        if !cookies.is_empty() {
            all.push(("cookie", &cookies));
        }
        let response = host.connect().await.ask(method, path, &all, "").await;
        for (name, value, age) in set_cookies(&response.headers) {
            if age == 0 { drop(self.0.remove(&name)) } else { drop(self.0.insert(name, value)) }
        }
        response
    }

    pub(crate) async fn open(&mut self, host: &TestHost, path: &str) -> Response {
        self.ask(host, Method::GET, path, &[PAGE]).await
    }

    /// Opens a page, which leads to the provider. Returns where.
    pub(crate) async fn begin(&mut self, host: &TestHost, path: &str) -> String {
        let response = self.open(host, path).await;
        assert_eq!(response.status, 302, "{response:?}");
        assert_eq!(response.header("cache-control"), "no-store");
        response.header("location")
    }

    /// Logs in at the provider, and returns to the host with this query besides the code and the state.
    pub(crate) async fn login(&mut self, host: &TestHost, provider: &Provider, path: &str) -> Response {
        let location = self.begin(host, path).await;
        self.open(host, &callback(&provider.authorize(&location), &state(&location))).await
    }
}

pub(crate) fn set_cookies(headers: &HeaderMap) -> Vec<(String, String, u64)> {
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

pub(crate) fn state(location: &str) -> String {
    pairs(location.split_once('?').unwrap().1)["state"].clone()
}

pub(crate) fn callback(code: &str, state: &str) -> String {
    let query =
        form_urlencoded::Serializer::new(String::new()).append_pair("code", code).append_pair("state", state).finish();
    format!("/shop/callback?{query}")
}

pub(crate) const SESSION: &str = "__Host-lodge-session-shop";
pub(crate) const LOGIN: &str = "__Host-lodge-login-shop";
pub(crate) const MOVED: &str = "__Host-lodge-moved-shop";

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

pub(crate) async fn start(provider: &Provider) -> TestHost {
    let host = setup(provider).start().await;
    assert_eq!(host.refusals(), Vec::<String>::new());
    host
}

pub(crate) fn setup(provider: &Provider) -> Setup {
    let keys: Vec<_> = (1..33).collect();
    host(&[])
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
}
