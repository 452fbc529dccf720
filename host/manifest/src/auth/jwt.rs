//! `[auth.jwt]`: tokens of an issuer, and the keys that verify them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use serde_json::{Value, json};

use super::texts;
use crate::schema;
use crate::written::{Problems, Written, with_defaults};
use lodge_base::config::key::{Key, duration, word};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The most bytes of an issuer.
const MOST_ISSUER: usize = 1 << 10;

/// The signature algorithms, by their names in tokens (RFC 7518 3.1, RFC 8037 3.1). There is none with a shared secret:
/// a service that can verify such a token can make one.
pub const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::Rs256),
    ("RS384", Algorithm::Rs384),
    ("RS512", Algorithm::Rs512),
    ("PS256", Algorithm::Ps256),
    ("PS384", Algorithm::Ps384),
    ("PS512", Algorithm::Ps512),
    ("ES256", Algorithm::Es256),
    ("ES384", Algorithm::Es384),
    ("EdDSA", Algorithm::EdDsa),
];

/// The keys with one value.
const KEYS: &[Key<Jwt>] = &[
    Key {
        name: "issuer",
        default: "",
        help: "the issuer of the tokens: their `iss` must be exactly this",
        set: |jwt, text| {
            let fits = (1..=MOST_ISSUER).contains(&text.len());
            jwt.issuer = text.to_owned();
            if fits { Ok(()) } else { Err("write the issuer as its tokens have it".into()) }
        },
    },
    Key {
        name: "keys",
        default: "",
        help: "the keys of the issuer (a JWK Set): an `https://` URL, or a file relative to the directory of the manifest",
        set: |jwt, text| source(text).map(|source| jwt.keys = source),
    },
    Key {
        name: "leeway",
        default: "30s",
        help: "how far the clocks of issuer and host may differ",
        set: |jwt, text| duration(text, Duration::ZERO..=5 * MINUTE).map(|leeway| jwt.leeway = leeway),
    },
    Key {
        name: "refresh",
        default: "15m",
        help: "how often keys are fetched from a URL; also when a token names an unknown key, at most once a minute",
        set: |jwt, text| duration(text, 30 * SECOND..=DAY).map(|refresh| jwt.refresh = refresh),
    },
    Key {
        name: "stale",
        default: "1day",
        help: "how long fetched keys are used while their server does not respond",
        set: |jwt, text| duration(text, MINUTE..=7 * DAY).map(|stale| jwt.stale = stale),
    },
];

/// Tokens of an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwt {
    /// The issuer.
    pub issuer: String,
    /// The audiences, of which a token must have one; any if empty.
    pub audience: Vec<String>,
    /// The keys of the issuer.
    pub keys: JwkSource,
    /// The algorithms that are accepted.
    pub algorithms: Vec<Algorithm>,
    /// How far the clocks may differ.
    pub leeway: Duration,
    /// How often keys are fetched.
    pub refresh: Duration,
    /// How long fetched keys are used without being fetched again.
    pub stale: Duration,
}

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwkSource {
    /// In a file, relative to the directory of the manifest.
    File(PathBuf),
    /// On a server.
    Url(Uri),
}

/// A signature algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

pub(super) fn schema() -> Value {
    let mut table = schema::settings(KEYS, &blank(), &["issuer", "keys", "audience"]);
    let audience = schema::texts(json!({ "type": "string" }));
    let help = "the audiences, of which a token must have one, or `*` for any; one or a list";
    schema::add(&mut table, "audience", schema::described(audience, help));
    let algorithms = schema::texts(json!({ "enum": ALGORITHMS.map(|(name, _)| name) }));
    let help = "the algorithms that are accepted, one or a list; all without it";
    schema::add(&mut table, "algorithms", schema::described(algorithms, help));
    table
}

/// Returns a value for [`KEYS`] to fill in. It is never used as it is.
fn blank() -> Jwt {
    Jwt {
        issuer: String::new(),
        audience: Vec::new(),
        keys: JwkSource::File(PathBuf::new()),
        algorithms: ALGORITHMS.map(|(_, algorithm)| algorithm).to_vec(),
        leeway: Duration::ZERO,
        refresh: Duration::ZERO,
        stale: Duration::ZERO,
    }
}

/// Reads the section. Returns `None` if there is a problem.
pub(super) fn read(written: &Written<'_>, problems: &mut Problems) -> Option<Jwt> {
    let known: Vec<_> = KEYS.iter().map(|key| key.name).chain(["audience", "algorithms"]).collect();
    let keys = written.section(&known, problems)?;
    let (mut jwt, mut sound) = (with_defaults(KEYS, blank()), true);
    for key in keys {
        let read = match key.inside(written) {
            "audience" => texts(&key, "[\"users\"]", |_| true).map(|audience| jwt.audience = audience),
            "algorithms" => algorithms(&key).map(|algorithms| jwt.algorithms = algorithms),
            _ => key.set(&written.name, KEYS, &mut jwt),
        };
        sound &= problems.take(read).is_some();
    }
    for name in ["issuer", "keys"] {
        sound &= problems.take(written.require(name, KEYS)).is_some();
    }
    if !written.has("audience") {
        let missing =
            format!("{}.audience is missing: for whom the tokens are, or \"*\" if that does not matter", written.name);
        problems.push(written.at(missing));
        sound = false;
    }
    if jwt.audience.iter().any(|audience| audience == "*") {
        jwt.audience.clear();
    }
    sound.then_some(jwt)
}

/// Reads a list of algorithms.
pub(super) fn algorithms(key: &Written<'_>) -> Result<Vec<Algorithm>, String> {
    let names = texts(key, "[\"ES256\"]", |_| true)?;
    names.iter().map(|name| word(name, &ALGORITHMS).map_err(|wrong| key.error(wrong))).collect()
}

fn source(text: &str) -> Result<JwkSource, String> {
    let wrong = || format!("`{text}` is neither a file nor a URL such as https://issuer.example/jwks.json");
    if text.is_empty() {
        return Err(wrong());
    }
    if !text.contains("://") {
        return Ok(JwkSource::File(text.into()));
    }
    let url: Uri = text.parse().map_err(|_| wrong())?;
    url.host().ok_or_else(wrong)?;
    match url.scheme_str() {
        Some("https") => {}
        // A peer that can change the keys in transit can make tokens.
        Some("http") if is_here(&url) => {}
        Some("http") => return Err("keys are fetched by https; http is for servers on this machine".into()),
        _ => return Err(wrong()),
    }
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("the URL must not have a user or password".into());
    }
    Ok(JwkSource::Url(url))
}

/// Whether a URL leads to this machine, where no peer can change what is sent.
pub(super) fn is_here(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
