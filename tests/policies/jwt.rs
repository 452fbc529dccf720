//! Promise: tokens are those of their issuer: by its keys of now, whether they are in a file or on its server, and no
//! request with a good token is lost while they change.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::admission::refused;
use super::auth::create;
use crate::harness::{Connection, Response, TestHost, eventually, host, until_metric};

/// A key of an issuer.
pub(crate) struct Key {
    kid: &'static str,
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl Key {
    pub(super) fn new(kid: &'static str) -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self { kid, pair: EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap(), random }
    }

    fn public(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        let encode = |bytes| URL_SAFE_NO_PAD.encode(bytes);
        json!({ "kty": "EC", "crv": "P-256", "kid": self.kid, "alg": "ES256", "x": encode(x), "y": encode(y) })
    }

    /// A token of `sub` with these claims besides, valid for `seconds` from now.
    pub(super) fn token(&self, sub: &str, seconds: i64, more: &Value) -> String {
        self.typed("at+jwt", sub, seconds, more)
    }

    /// The same of this type.
    pub(super) fn typed(&self, kind: &str, sub: &str, seconds: i64, more: &Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({ "iss": "https://i.test", "aud": ["users"], "sub": sub });
        claims["exp"] = (i64::try_from(now).unwrap() + seconds).into();
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let header = json!({ "alg": "ES256", "kid": self.kid, "typ": kind }).to_string();
        let [header, claims] = [header, claims.to_string()].map(|part| URL_SAFE_NO_PAD.encode(part));
        let signed = format!("{header}.{claims}");
        let signature = self.pair.sign(&self.random, signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn good(&self) -> String {
        self.token("ann", 600, &json!({}))
    }
}

pub(super) fn set(keys: &[&Key]) -> String {
    json!({ "keys": keys.iter().map(|key| key.public()).collect::<Vec<_>>() }).to_string()
}

/// A server of keys.
struct Issuer {
    /// What it responds; nothing while it is away.
    keys: Arc<Mutex<Option<String>>>,
    requests: Arc<AtomicUsize>,
    url: String,
}

impl Issuer {
    async fn start(keys: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let (keys, requests) = (Arc::new(Mutex::new(keys)), Arc::<AtomicUsize>::default());
        let (answer, count) = (Arc::clone(&keys), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                let _ = stream.read(&mut [0; 4096]).await;
                let Some(body) = answer.lock().unwrap().clone() else { continue };
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all((head + &body).as_bytes()).await;
            }
        });
        Self { keys, requests, url }
    }

    fn set(&self, keys: Option<String>) {
        *self.keys.lock().unwrap() = keys;
    }
}

fn jwt(keys: &str, more: &str) -> String {
    format!("[auth.jwt]\nissuer = 'https://i.test'\naudience = 'users'\nkeys = '{keys}'\n{more}")
}

async fn ask(host: &TestHost, path: &str, token: &str) -> Response {
    host.connect().await.ask(Method::GET, path, &[("authorization", &format!("Bearer {token}"))], "").await
}

/// Requests with this token, all the time; each must succeed.
fn load(host: &TestHost, token: String) -> (Arc<AtomicBool>, tokio::task::JoinHandle<usize>) {
    let (stop, address) = (Arc::new(AtomicBool::new(false)), host.address);
    let stopped = Arc::clone(&stop);
    let load = tokio::spawn(async move {
        let (mut client, mut count) = (Connection::http1(address).await, 0);
        let bearer = format!("Bearer {token}");
        while !stopped.load(Relaxed) {
            let response = client.ask(Method::GET, "/hello", &[("authorization", &bearer)], "").await;
            assert_eq!(response.status, 200, "{response:?}");
            count += 1;
        }
        count
    });
    (stop, load)
}

async fn until_status(host: &TestHost, token: &str, status: u16) {
    eventually(&format!("it is {status}"), async || ask(host, "/hello", token).await.status == status).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_say_who_the_sender_is() {
    let (key, other) = (Key::new("a"), Key::new("a"));
    let setup = host(&["echo", "hello"]).file("jwks.json", set(&[&key]).as_bytes());
    let api_key = create(&setup.directory.path().join("keys.list"), "ci", &[]);
    let routes = "routes = ['/echo', { path = '/echo/write', methods = ['POST'], auth = { scopes = 'write' } },\n\
                  { path = '/echo/acme', auth = { claims = { tenant = 'acme' } } }]";
    let both = "[auth]\napi_keys = 'keys.list'";
    let host = setup
        .manifest(
            "echo",
            &format!("{routes}\nrate = {{ limit = '9/h', by = 'claim:tenant' }}\n{both}\n{}", jwt("jwks.json", "")),
        )
        .start()
        .await;
    let token = key.token("ann@i", 600, &json!({ "scope": "read write", "tenant": "acme" }));
    let seen = ask(&host, "/echo/head", &token).await;
    assert_eq!((seen.status, seen.header("ratelimit").as_str()), (200, "\"tenant\";r=8;t=400"));
    let text = seen.text();
    for line in ["method: jwt", "subject: ann@i", "issuer: https://i.test", "scopes: read write"] {
        assert!(text.contains(&format!("x-lodge-auth-{line}\n")), "no {line} in {text}");
    }
    assert!(!text.contains("authorization") && !text.contains(&token), "{text}");
    let claims = text.lines().find_map(|line| line.strip_prefix("x-lodge-auth-claims: ")).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    assert_eq!((&claims["tenant"], &claims["sub"]), (&json!("acme"), &json!("ann@i")));
    // Another user of the same tenant.
    let second = key.token("bob", 600, &json!({ "tenant": "acme" }));
    assert_eq!(ask(&host, "/echo/head", &second).await.header("ratelimit"), "\"tenant\";r=7;t=800");
    assert_eq!(ask(&host, "/echo/acme/head", &second).await.status, 200);
    let foreign = key.token("bob", 600, &json!({ "tenant": "other" }));
    assert_eq!(refused(&ask(&host, "/echo/acme/head", &foreign).await), (403, "auth-insufficient".into()));
    let mut client = host.connect().await;
    let mut post = async |token: &str| {
        let bearer = format!("Bearer {token}");
        client.ask(Method::POST, "/echo/write", &[("authorization", &bearer)], "x").await
    };
    assert_eq!(post(&token).await.text(), "x");
    let scope = post(&second).await;
    let challenges: Vec<_> =
        scope.headers.get_all("www-authenticate").iter().map(|value| value.to_str().unwrap()).collect();
    let bearer = "Bearer realm=\"echo\", error=\"insufficient_scope\", scope=\"write\"";
    assert_eq!((scope.status, challenges), (403, vec![bearer, "ApiKey realm=\"echo\", header=\"x-api-key\""]));
    // An API key is as good, and both at once are one too many.
    let ask_with =
        async |fields: &[(&str, &str)]| host.connect().await.ask(Method::GET, "/echo/head", fields, "").await;
    assert!(ask_with(&[("x-api-key", &api_key)]).await.text().contains("x-lodge-auth-method: api-key\n"));
    let twice = ask_with(&[("x-api-key", &api_key), ("authorization", &format!("Bearer {token}"))]).await;
    assert_eq!(refused(&twice), (401, "auth-invalid".into()));
    for (token, cause) in [
        (other.good(), "signature"),
        (key.token("ann", -31, &json!({})), "expired-token"),
        (key.token("ann", 600, &json!({ "aud": "others" })), "audience"),
        (key.token("ann", 600, &json!({ "iss": "https://evil.test" })), "issuer"),
        (Key::new("b").good(), "unknown-kid"),
        (String::from("a.b.c"), "malformed-token"),
    ] {
        let response = ask(&host, "/echo/head", &token).await;
        assert_eq!(refused(&response), (401, "auth-invalid".into()), "{cause}");
        let challenge = response.header("www-authenticate");
        assert_eq!(challenge, "Bearer realm=\"echo\", error=\"invalid_token\"", "{cause}");
        let name = format!("lodge_auth_failures_total{{service=\"echo\",cause=\"{cause}\"}}");
        until_metric(host.admin, &name, 1).await;
    }
}

/// The keys in a file are replaced under load.
#[tokio::test(flavor = "multi_thread")]
async fn keys_in_a_file_change() {
    let (one, two) = (Key::new("one"), Key::new("two"));
    let host = host(&["hello"])
        .file("jwks.json", set(&[&one]).as_bytes())
        .manifest("hello", &jwt("jwks.json", ""))
        .start()
        .await;
    let (stop, load) = load(&host, one.good());
    let path = host.directory().join("jwks.json");
    assert_eq!(ask(&host, "/hello", &two.good()).await.status, 401);
    std::fs::write(&path, set(&[&one, &two])).unwrap();
    until_status(&host, &two.good(), 200).await;
    // What is not a set of keys does not replace them.
    std::fs::write(&path, &set(&[&one, &two])[..100]).unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(ask(&host, "/hello", &two.good()).await.status, 200);
    std::fs::write(&path, set(&[&one])).unwrap();
    until_status(&host, &two.good(), 401).await;
    stop.store(true, Relaxed);
    assert!(load.await.unwrap() > 10);
}

/// A key that the issuer has just made is fetched for the first token that names it, which is not refused; others that
/// nobody knows cause no more fetches.
#[tokio::test(flavor = "multi_thread")]
async fn keys_on_a_server_change() {
    let (one, two) = (Key::new("one"), Key::new("two"));
    let issuer = Issuer::start(Some(set(&[&one]))).await;
    let host = host(&["hello"]).manifest("hello", &jwt(&issuer.url, "")).start().await;
    assert_eq!((ask(&host, "/hello", &one.good()).await.status, issuer.requests.load(Relaxed)), (200, 1));
    let (stop, load) = load(&host, one.good());
    issuer.set(Some(set(&[&one, &two])));
    let first: Vec<_> = (0..8)
        .map(|_| {
            let (token, address) = (two.good(), host.address);
            tokio::spawn(async move {
                let bearer = format!("Bearer {token}");
                let mut client = Connection::http1(address).await;
                client.ask(Method::GET, "/hello", &[("authorization", &bearer)], "").await.status
            })
        })
        .collect();
    for first in first {
        assert_eq!(first.await.unwrap(), 200);
    }
    for _ in 0..20 {
        assert_eq!(ask(&host, "/hello", &Key::new("unknown").good()).await.status, 401);
    }
    assert_eq!(issuer.requests.load(Relaxed), 2, "one fetch a minute");
    // The server is away, and the last good keys stay in force.
    issuer.set(None);
    assert_eq!(
        [ask(&host, "/hello", &one.good()).await.status, ask(&host, "/hello", &two.good()).await.status],
        [200; 2]
    );
    stop.store(true, Relaxed);
    assert!(load.await.unwrap() > 10);
    until_metric(host.admin, "lodge_auth_key_fetches_total{result=\"ok\"}", 2).await;
}

/// Without keys, nothing can be verified: that is not the fault of the client. Routes that need no token are served.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_delays_tokens_only() {
    let key = Key::new("one");
    let issuer = Issuer::start(None).await;
    let routes = "routes = ['/hello', { path = '/hello/open', auth = false }]";
    let host = host(&["hello"]).manifest("hello", &format!("{routes}\n{}", jwt(&issuer.url, ""))).start().await;
    let early = ask(&host, "/hello", &key.good()).await;
    assert_eq!((refused(&early), early.header("retry-after").as_str()), ((503, "auth-unavailable".into()), "1"));
    assert_eq!(host.get("/hello/open").await.status, 200);
    assert_eq!(host.get("/hello").await.status, 401);
    issuer.set(Some(set(&[&key])));
    until_status(&host, &key.good(), 200).await;
}
