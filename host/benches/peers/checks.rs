//! The cost of what the host checks before it makes a sandbox: credentials, rules, and bodies.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::json;

use super::load::Target;
use super::servers::{self, Server, free};
use super::{Bench, median, progress};

/// A body of JSON, of about 1 KB.
const ITEMS: usize = 16;

const RULE: &str = r#"
[[rules]]
when = 'request.method == "DELETE" && !request.path.startsWith("/rule/drafts/")'
deny = 403
"#;

const SCHEMA: &str = r#"{
  "type": "object",
  "required": ["customer", "items"],
  "properties": {
    "customer": { "type": "string", "minLength": 1, "maxLength": 100 },
    "items": {
      "type": "array",
      "maxItems": 100,
      "items": {
        "type": "object",
        "required": ["sku", "amount"],
        "properties": {
          "sku": { "type": "string", "pattern": "^[a-z]+-[0-9]+$" },
          "amount": { "type": "integer", "minimum": 1 },
          "note": { "type": "string" }
        },
        "additionalProperties": false
      }
    }
  }
}"#;

/// A check, and what it adds to a request.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// CPU time of a request.
    pub(crate) cpu: Duration,
    /// What the check adds to the same request without it, as a part of the CPU time of a hello.
    pub(crate) added: f64,
}

pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    let (server_core, load_core) = servers::cores();
    let (key, token, directory) = prepare(bench);
    let at = free();
    progress("starting Lodge with checks");
    let host = Server::start(servers::lodge(&directory, &bench.cache(), at), &Target::new(at, "/hello"), server_core);
    let host = host.expect("Lodge");
    let body = body();
    // The rows, and which of them each is compared with.
    let targets: [(&'static str, Target, usize); 7] = [
        ("hello", host.at("/hello"), 0),
        ("an API key", host.at("/key").with("x-api-key", key), 0),
        ("a token that was verified before (JWT, ES256)", host.at("/token").with("authorization", token), 0),
        ("a rule (CEL)", host.at("/rule"), 0),
        ("hello, a body of 1 KB", host.at("/hello").posting(&body), 4),
        ("JSON Schema", host.at("/schema").posting(&body), 4),
        ("OpenAPI: path, method and the same schema", host.at("/api/orders").posting(&body), 4),
    ];
    for (name, target, _) in &targets {
        let start = std::time::Instant::now();
        while target.once().ok() != Some(200) {
            assert!(start.elapsed() < Duration::from_secs(60), "{name}: {:?}", target.once());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let rounds: Vec<Vec<f64>> = (1..=bench.rounds)
        .map(|round| {
            let sample = |(name, target, _): &(&str, Target, usize)| {
                progress(format_args!("round {round} of {}: {name}", bench.rounds));
                let (spent, responses) = host.spent(target, load_core, bench.time).expect("every response");
                spent.as_secs_f64() / responses as f64
            };
            targets.iter().map(sample).collect()
        })
        .collect();
    let row = |(n, (name, _, without)): (usize, &(&'static str, Target, usize))| Row {
        name,
        cpu: Duration::from_secs_f64(median(rounds.iter().map(|round| round[n]))),
        added: median(rounds.iter().map(|round| (round[n] - round[*without]) / round[0])),
    };
    targets.iter().enumerate().map(row).collect()
}

/// Writes the services. Returns an API key, the field of a token, and the directory.
fn prepare(bench: &Bench) -> (String, String, std::path::PathBuf) {
    let wasm = std::fs::read(bench.wasm("deaf")).unwrap();
    let (keys, token) = token();
    let document = format!(
        "{{\"openapi\": \"3.1.0\", \"info\": {{\"title\": \"orders\", \"version\": \"1\"}}, \"paths\": {{\"/api/orders\": \
         {{\"post\": {{\"requestBody\": {{\"required\": true, \"content\": {{\"application/json\": {{\"schema\": {SCHEMA}}}}}}}, \
         \"responses\": {{\"200\": {{\"description\": \"taken\"}}}}}}}}}}}}"
    );
    let jwt = "auth.jwt = { issuer = 'https://bench.test', audience = 'bench', keys = 'jwks.json' }";
    let mut files = vec![
        ("key.toml", "auth.api_keys = 'keys.list'"),
        ("token.toml", jwt),
        ("rule.toml", RULE),
        ("schema.toml", "validate.body = 'order.json'"),
        ("api.toml", "api.openapi = 'api.json'"),
        ("order.json", SCHEMA),
        ("api.json", &document),
        ("jwks.json", &keys),
    ]
    .into_iter()
    .map(|(name, text)| (name, text.as_bytes()))
    .collect::<Vec<_>>();
    let components = ["hello.wasm", "key.wasm", "token.wasm", "rule.wasm", "schema.wasm", "api.wasm"];
    files.extend(components.map(|name| (name, &*wasm)));
    // The manifests are there before the components, and the keys before both.
    let directory = bench.directory("checks", &[]);
    let key = key(&directory.join("keys.list"));
    (key, format!("Bearer {token}"), bench.directory("checks", &files))
}

/// Returns a new API key in this file.
fn key(file: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lodge"));
    let output = command.args(["keys", "create", "bench", "--file"]).arg(file).output().expect("Lodge runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

/// Returns the keys of an issuer, and a token of it that is valid for an hour.
fn token() -> (String, String) {
    let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let key = json!({ "kty": "EC", "crv": "P-256", "kid": "a", "alg": "ES256", "x": encode(x), "y": encode(y) });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": "https://bench.test", "aud": "bench", "sub": "user-4711", "exp": now + 3600, "iat": now,
        "scope": "orders:read orders:write", "email": "ada@example.com", "roles": ["editor", "buyer"],
    });
    let header = json!({ "alg": "ES256", "kid": "a", "typ": "JWT" });
    let signed = [header, claims].map(|part| encode(part.to_string().as_bytes())).join(".");
    let signature = pair.sign(&random, signed.as_bytes()).unwrap();
    (json!({ "keys": [key] }).to_string(), format!("{signed}.{}", encode(signature.as_ref())))
}

fn body() -> String {
    let item = |n: usize| json!({ "sku": format!("sku-{n:05}"), "amount": n + 1, "note": "ring twice, leave it" });
    json!({ "customer": "Ada", "items": (0..ITEMS).map(item).collect::<Vec<_>>() }).to_string()
}
