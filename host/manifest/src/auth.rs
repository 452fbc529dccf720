//! `[auth]`: whose requests a service or a route takes, by the credentials that they carry.
//!
//! A route uses the credentials of its service unless it names its own. The `scopes` and `claims` of the service hold
//! for its routes as well: a route can require more, or no credentials at all with `auth = false`.

pub mod certificate;
pub mod jwt;
pub mod login;
mod requirements;
mod settle;

use std::path::PathBuf;

use http::header::{self, HeaderName};
use serde_json::{Value, json};

use self::certificate::CertificatePattern;
use self::jwt::{JwkSource, Jwt};
use self::login::Login;
pub use self::requirements::is_scope;
use self::requirements::{claims, texts};
pub(crate) use self::settle::settle;
use crate::Manifest;
use crate::schema;
use crate::section::{Owner, Section, View, words};
use crate::written::{Problems, Written, with_defaults};
use lodge_base::config::key::{Key, word};
use lodge_base::headers::plain_name;

const CALLS: [(&str, CallCredentials); 2] =
    [("trusted", CallCredentials::Trusted), ("checked", CallCredentials::Checked)];

/// The keys with one value. A key without a default may be absent.
const KEYS: &[Key<Settings>] = &[
    Key {
        name: "api_keys",
        default: "",
        help: "the file of API keys, which `lodge keys` writes; relative to the directory of the manifest",
        set: |auth, text| file(text).map(|path| auth.api_keys = Some(path)),
    },
    Key {
        name: "header",
        default: "x-api-key",
        help: "the header with the API key; in `authorization` it follows the word `Bearer`",
        set: |auth, text| key_header(text).map(|header| auth.header = header),
    },
    Key {
        name: "passwords",
        default: "",
        help: "the file with the passwords of users (`Basic`), which `lodge keys create --password` writes; relative to the directory of the manifest",
        set: |auth, text| file(text).map(|path| auth.passwords = Some(path)),
    },
    Key {
        name: "forward",
        default: "false",
        help: "whether the service receives the credentials; without it they are removed once they are verified",
        set: |auth, text| word(text, &[("true", true), ("false", false)]).map(|forward| auth.forward = Some(forward)),
    },
    Key {
        name: "calls",
        default: "trusted",
        help: "whether calls of other services of this host need credentials: `trusted` (none, since their manifests grant the call) or `checked`",
        set: |auth, text| word(text, &CALLS).map(|calls| auth.calls = Some(calls)),
    },
];

/// The lists among the keys.
const LISTS: [(&str, &str); 2] = [
    (
        "client_certificates",
        "names of which a client certificate must have one: `spiffe://example.org/orders`, `spiffe://example.org/jobs/*`, `orders.example.org`, `*.jobs.example.org`",
    ),
    ("scopes", "scopes that credentials must have, all of them; one or a list"),
];

/// The help of `claims`.
const CLAIMS: &str = "claims that credentials must have, each with one of these values";

/// `[auth]`.
pub(crate) const SECTION: Section = Section {
    name: "auth",
    page: "auth",
    schema: || {
        let mut table = schema::settings(KEYS, &blank(), &[]);
        for (name, help) in LISTS {
            schema::add(&mut table, name, schema::described(schema::texts(json!({ "type": "string" })), help));
        }
        let values = schema::texts(json!({ "type": "string" }));
        let claims = json!({ "type": "object", "additionalProperties": values, "description": CLAIMS });
        schema::add(&mut table, "claims", claims);
        schema::add(&mut table, "jwt", jwt::schema());
        schema::add(&mut table, "login", login::schema());
        json!({ "anyOf": [{ "type": "boolean", "enum": [false] }, table] })
    },
    owner: Owner::Route(|settings, written, problems| settings.policies.auth = read(written, problems)),
    view: Some(View { label: "auth", value: view, text: words }),
    ..Section::DEFAULT
};

/// Whose requests are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Everybody's.
    Anyone,
    /// Those with credentials that meet these settings.
    Identified(Box<Settings>),
}

/// The credentials that are accepted, and what is required of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The file of API keys, relative to the directory of the manifest.
    pub api_keys: Option<PathBuf>,
    /// Where a request has its API key.
    pub header: KeyHeader,
    /// The file with the passwords of users, relative to the directory of the manifest.
    pub passwords: Option<PathBuf>,
    /// The tokens of an issuer.
    pub jwt: Option<Jwt>,
    /// The logins of people at a provider.
    pub login: Option<Box<Login>>,
    /// The names of which a client certificate must have one; empty if certificates are no credentials.
    pub client_certificates: Vec<CertificatePattern>,
    /// The scopes that credentials must have.
    pub scopes: Vec<String>,
    /// The claims that credentials must have, each with one of these values.
    pub claims: Vec<(String, Vec<String>)>,
    /// Whether the service receives the credentials.
    forward: Option<bool>,
    /// Whether calls between services need credentials.
    calls: Option<CallCredentials>,
}

/// Where a request has its API key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeyHeader {
    /// In `X-Api-Key`.
    #[default]
    Usual,
    /// In this header.
    Named(HeaderName),
    /// In `Authorization`, as a bearer token.
    Bearer,
}

/// Whether calls between services need credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CallCredentials {
    /// They need none: the manifest of the caller grants the call.
    #[default]
    Trusted,
    /// They need what clients need.
    Checked,
}

impl KeyHeader {
    /// Returns the name of the header.
    pub fn name(&self) -> &HeaderName {
        static USUAL: HeaderName = HeaderName::from_static("x-api-key");
        match self {
            Self::Usual => &USUAL,
            Self::Named(name) => name,
            Self::Bearer => &header::AUTHORIZATION,
        }
    }
}

impl Settings {
    /// Whether the service receives the credentials.
    pub fn forwards(&self) -> bool {
        self.forward.unwrap_or_default()
    }

    /// Whether calls between services need credentials.
    pub fn calls(&self) -> CallCredentials {
        self.calls.unwrap_or_default()
    }

    /// Whether any credentials are accepted.
    fn accepts_any(&self) -> bool {
        self.accepts_secrets() || !self.client_certificates.is_empty()
    }

    /// Whether any credentials are accepted that a client sends in a header.
    fn accepts_secrets(&self) -> bool {
        self.api_keys.is_some() || self.passwords.is_some() || self.jwt.is_some() || self.login.is_some()
    }

    /// Whether nothing meets the settings: a client certificate has neither scopes nor claims.
    fn is_unmet(&self) -> bool {
        let certificates = !self.client_certificates.is_empty() && !self.accepts_secrets();
        certificates && (!self.scopes.is_empty() || !self.claims.is_empty())
    }

    /// Whether this header is removed from a request once it is verified.
    fn removes(&self, name: &HeaderName) -> bool {
        let is_key = self.api_keys.is_some() && name == self.header.name();
        let is_token = (self.jwt.is_some() || self.passwords.is_some()) && *name == header::AUTHORIZATION;
        !self.forwards() && (is_key || is_token)
    }

    /// Adds to the settings of a route what it has from its service.
    fn inherit(&mut self, service: &Self) {
        if !self.accepts_any() {
            (self.api_keys, self.header) = (service.api_keys.clone(), service.header.clone());
            (self.passwords, self.jwt) = (service.passwords.clone(), service.jwt.clone());
            self.client_certificates.clone_from(&service.client_certificates);
            self.login.clone_from(&service.login);
        }
        self.scopes.extend(service.scopes.iter().cloned());
        self.claims.extend(service.claims.iter().cloned());
        self.forward = self.forward.or(service.forward);
    }
}

/// Returns a value for [`KEYS`] to fill in. It is never used as it is.
fn blank() -> Settings {
    Settings::default()
}

fn read(written: &Written<'_>, problems: &mut Problems) -> Option<Auth> {
    const FORM: &str = "write a section [auth], or false";
    let Some(keys) = written.table() else {
        let required = problems.take(written.boolean().map_err(|_| written.error(FORM)))?;
        if required {
            problems.push(written.error(FORM));
        }
        return Some(Auth::Anyone);
    };
    let mut auth = with_defaults(KEYS, blank());
    // Whether a key is written decides what a route has from its service.
    (auth.forward, auth.calls) = (None, None);
    let mut sound = true;
    for key in keys {
        match key.inside(written) {
            "scopes" => auth.scopes = problems.take(texts(&key, "[\"users:read\"]", is_scope)).unwrap_or_default(),
            "claims" => auth.claims = problems.take(claims(&key)).unwrap_or_default(),
            "client_certificates" => match problems.take(certificate::read(&key)) {
                Some(names) => auth.client_certificates = names,
                None => sound = false,
            },
            "jwt" => {
                auth.jwt = jwt::read(&key, problems);
                sound &= auth.jwt.is_some();
            }
            "login" => {
                auth.login = login::read(&key, problems).map(Box::new);
                sound &= auth.login.is_some();
            }
            name if KEYS.iter().any(|known| known.name == name) => {
                sound &= problems.take(key.set("auth", KEYS, &mut auth)).is_some();
            }
            _ => {
                let others = ["client_certificates", "scopes", "claims", "jwt", "login"];
                let known: Vec<_> = KEYS.iter().map(|key| key.name).chain(others).collect();
                problems.push(key.unknown(&written.name, &known));
                sound = false;
            }
        }
    }
    if auth.api_keys.is_none() && written.has("header") {
        problems.push(written.error("`header` has no effect without `api_keys` beside it"));
    }
    if auth.jwt.is_some() && auth.header == KeyHeader::Bearer {
        problems.push(written.error("keys and tokens cannot both be in `authorization`; write another `header`"));
    }
    // What is not understood must not leave a route open.
    sound.then(|| Auth::Identified(Box::new(auth)))
}

/// Returns what the service requires, and the routes that require something else.
fn view(manifest: &Manifest) -> Option<Value> {
    let mut shown = match &manifest.policies.service.auth {
        Some(Auth::Identified(settings)) => shown(settings),
        Some(Auth::Anyone) | None => serde_json::Map::new(),
    };
    for (route, policies) in &manifest.policies.routes {
        let own = match &policies.auth {
            Some(Auth::Identified(settings)) => self::shown(settings).into(),
            Some(Auth::Anyone) => "nothing".into(),
            None => continue,
        };
        shown.insert(route.to_string(), own);
    }
    if shown.is_empty() { None } else { Some(shown.into()) }
}

fn shown(auth: &Settings) -> serde_json::Map<String, Value> {
    let mut shown = serde_json::Map::new();
    if let Some(file) = &auth.api_keys {
        shown.insert("api_keys".into(), file.display().to_string().into());
        shown.insert("header".into(), auth.header.name().as_str().into());
    }
    if let Some(file) = &auth.passwords {
        shown.insert("passwords".into(), file.display().to_string().into());
    }
    if let Some(jwt) = &auth.jwt {
        let keys = match &jwt.keys {
            JwkSource::File(path) => path.display().to_string(),
            JwkSource::Url(url) => url.to_string().split('?').next().unwrap_or_default().to_owned(),
        };
        shown.insert("jwt".into(), json!({ "issuer": jwt.issuer, "keys": keys, "audience": jwt.audience }));
    }
    if let Some(login) = &auth.login {
        shown.insert("login".into(), json!({ "issuer": login.issuer, "client_id": login.client_id }));
    }
    if !auth.client_certificates.is_empty() {
        let names: Vec<_> = auth.client_certificates.iter().map(CertificatePattern::text).collect();
        shown.insert("client_certificates".into(), json!(names));
    }
    if !auth.scopes.is_empty() {
        shown.insert("scopes".into(), json!(auth.scopes));
    }
    let claims: Vec<_> = auth.claims.iter().map(|(name, values)| format!("{name}={}", values.join("|"))).collect();
    if !claims.is_empty() {
        shown.insert("claims".into(), json!(claims));
    }
    shown
}

fn file(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("write the path of a file".into()) } else { Ok(text.into()) }
}

fn key_header(text: &str) -> Result<KeyHeader, String> {
    /// Headers that have another meaning, or that clients cannot send.
    const OTHERS: [&str; 8] =
        ["cookie", "host", "connection", "content-length", "transfer-encoding", "te", "upgrade", "proxy-authorization"];
    let wrong =
        || format!("`{text}` is not a header that can have an API key; write it like x-api-key or authorization");
    let name = HeaderName::try_from(text).map_err(|_| wrong())?;
    match name {
        header::AUTHORIZATION => Ok(KeyHeader::Bearer),
        _ if name == *KeyHeader::Usual.name() => Ok(KeyHeader::Usual),
        // Proxies write these, or the host does; and a name with `_` or `.` looks like the one with `-` to some programs.
        _ if name.as_str().starts_with("x-forwarded-") || name.as_str().starts_with("x-lodge-") => Err(wrong()),
        _ if plain_name(name.as_str()).is_some() || OTHERS.contains(&name.as_str()) => Err(wrong()),
        name => Ok(KeyHeader::Named(name)),
    }
}

#[cfg(test)]
mod tests;
