//! `[auth.login]`: people who log in at an OpenID provider with their browser.

use std::path::PathBuf;
use std::time::Duration;

use http::{Method, Uri};
use serde_json::{Value, json};

use super::jwt::{ALGORITHMS, Algorithm, algorithms, is_here};
use super::{file, is_scope, texts};
use crate::route::{Route, Segment};
use crate::schema;
use crate::written::{Problems, Written, with_defaults};
use lodge_base::canonical;
use lodge_base::config::key::{Key, duration};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The most bytes of an issuer, of a client's name and of a path.
const MOST: usize = 512;

/// The path of the configuration below the issuer (OpenID Connect Discovery 4).
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// The scope that makes a request for authorization one of OpenID.
const OPENID: &str = "openid";

/// The keys that each section needs.
const REQUIRED: [&str; 4] = ["issuer", "client_id", "url", "cookie_keys"];

/// The keys with one value.
const KEYS: &[Key<Login>] = &[
    Key {
        name: "issuer",
        default: "",
        help: "the provider: the `issuer` of its configuration, which is below it at /.well-known/openid-configuration",
        set: |login, text| issuer(text).map(|issuer| login.issuer = issuer),
    },
    Key {
        name: "client_id",
        default: "",
        help: "the name by which the provider knows the service",
        set: |login, text| {
            let fits = (1..=MOST).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
            login.client_id = text.to_owned();
            if fits { Ok(()) } else { Err("write the name as the provider has it, in visible ASCII".into()) }
        },
    },
    Key {
        name: "url",
        default: "",
        help: "the origin at which browsers reach the service, such as https://shop.example.com",
        set: |login, text| origin(text).map(|origin| login.origin = origin),
    },
    Key {
        name: "cookie_keys",
        default: "",
        help: "the file with the keys of session cookies, each a line with the base64 of 32 random bytes; the first one encrypts; relative to the directory of the manifest",
        set: |login, text| file(text).map(|path| login.cookie_keys = path),
    },
    Key {
        name: "callback",
        default: "/login/callback",
        help: "the path to which the provider sends browsers back",
        set: |login, text| path(text).map(|path| login.callback = path),
    },
    Key {
        name: "logout",
        default: "/logout",
        help: "the path that ends a session, by POST",
        set: |login, text| path(text).map(|path| login.logout = path),
    },
    Key {
        name: "after_logout",
        default: "/",
        help: "the path to which a browser is sent after that",
        set: |login, text| path(text).map(|path| login.after_logout = path),
    },
    Key {
        name: "session",
        default: "8h",
        help: "how long a session lasts",
        set: |login, text| duration(text, MINUTE..=30 * DAY).map(|session| login.session = session),
    },
    Key {
        name: "idle",
        default: "1h",
        help: "how long a session lasts without a request",
        set: |login, text| duration(text, MINUTE..=30 * DAY).map(|idle| login.idle = idle),
    },
    Key {
        name: "leeway",
        default: "30s",
        help: "how far the clocks of provider and hosts may differ",
        set: |login, text| duration(text, Duration::ZERO..=5 * MINUTE).map(|leeway| login.leeway = leeway),
    },
];

/// The lists among the keys.
const LISTS: [(&str, &str); 3] = [
    ("scopes", "scopes that are requested besides `openid`, one or a list"),
    ("claims", "claims of the ID token that a session has besides `sub`, one or a list"),
    ("algorithms", "the algorithms of ID tokens that are accepted, one or a list; all without it"),
];

/// The help of `client_secret.file`.
const SECRET: &str = "the file with the secret that the provider gave the service, relative to the directory of the manifest; without it, the service is a public client";

/// Logins at a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The provider.
    pub issuer: String,
    /// The name by which it knows the service.
    pub client_id: String,
    /// The file with the secret of the service, relative to the directory of the manifest.
    pub client_secret: Option<PathBuf>,
    /// The origin at which browsers reach the service, without a path.
    pub origin: String,
    /// The file with the keys of cookies, relative to the directory of the manifest.
    pub cookie_keys: PathBuf,
    /// The path to which the provider sends browsers back.
    pub callback: String,
    /// The path that ends a session.
    pub logout: String,
    /// The path after the end of a session.
    pub after_logout: String,
    /// The scopes that are requested, `openid` first.
    pub scopes: Vec<String>,
    /// The claims that a session has besides `sub`.
    pub claims: Vec<String>,
    /// The algorithms of ID tokens that are accepted.
    pub algorithms: Vec<Algorithm>,
    /// How long a session lasts.
    pub session: Duration,
    /// How long a session lasts without a request.
    pub idle: Duration,
    /// How far the clocks may differ.
    pub leeway: Duration,
}

/// The claims that every session has.
const ALWAYS: [&str; 2] = ["iss", "sub"];

impl Login {
    /// Returns the first of these claims that no session has.
    pub(super) fn lacks_claim<'a>(&self, claims: &'a [(String, Vec<String>)]) -> Option<&'a str> {
        let has = |name: &str| ALWAYS.contains(&name) || self.claims.iter().any(|claim| claim == name);
        claims.iter().map(|(name, _)| name.as_str()).find(|name| !has(name))
    }

    /// Returns the first of these scopes that no session has.
    pub(super) fn lacks_scope<'a>(&self, scopes: &'a [String]) -> Option<&'a str> {
        scopes.iter().map(String::as_str).find(|scope| !self.scopes.iter().any(|own| own == scope))
    }

    /// The host at which browsers reach the service, with the port if there is one.
    pub fn authority(&self) -> &str {
        self.origin.split_once("://").map_or("", |(_, authority)| authority)
    }

    /// The paths of the login, each with its key and the method of its requests.
    pub fn paths(&self) -> [(&'static str, &str, Method); 2] {
        [("callback", &self.callback, Method::GET), ("logout", &self.logout, Method::POST)]
    }

    /// Finds paths of the login whose requests the `routes` do not take.
    pub(super) fn find_unreachable(&self, routes: &[Route], problems: &mut Problems) {
        let host = canonical::host(self.authority());
        for (key, path, method) in self.paths() {
            let Some(best) = routes.iter().filter_map(|route| precedence(route, host, path)).max() else {
                problems.push(format!(
                    "auth.login.{key}: no route of the service has {method} {path} at {host}; write a path below one of \
                     its routes"
                ));
                continue;
            };
            let mut best =
                routes.iter().filter(|route| precedence(route, host, path).as_ref() == Some(&best)).peekable();
            let Some(route) = best.peek().copied() else { continue };
            if !best.any(|route| route.methods.is_empty() || route.methods.contains(&method)) {
                problems.push(format!(
                    "auth.login.{key}: the route {route} is the most specific one for {path} at {host}, and does not have {method}; \
                     add it there, or write another path"
                ));
            }
        }
    }
}

/// The precedence of a route among those that match a plain path, as the router has it: its host, the number of its segments,
/// where these are names, and whether it is `/` alone. `None` if it does not match.
fn precedence(route: &Route, host: &str, path: &str) -> Option<(bool, usize, Vec<bool>, bool)> {
    let segments: Vec<_> = path.strip_prefix('/').unwrap_or(path).split('/').filter(|part| !part.is_empty()).collect();
    let pattern = &route.path;
    let is_long = segments.len() == pattern.segments.len() || pattern.below && segments.len() > pattern.segments.len();
    let fits = |(own, part): (&Segment, &&str)| match own {
        Segment::Name(name) => name == part,
        Segment::Parameter(_) => true,
    };
    let at_host = route.host.as_ref().is_none_or(|own| own == host);
    let matches = at_host && is_long && pattern.segments.iter().zip(&segments).all(fits);
    let names = pattern.segments.iter().map(|segment| matches!(segment, Segment::Name(_))).collect();
    matches.then_some((route.host.is_some(), pattern.segments.len(), names, !pattern.below))
}

pub(super) fn schema() -> Value {
    let mut table = schema::settings(KEYS, &blank(), &REQUIRED);
    schema::add(&mut table, "client_secret.file", schema::described(json!({ "type": "string" }), SECRET));
    for (name, help) in LISTS {
        let item = match name {
            "algorithms" => json!({ "enum": ALGORITHMS.map(|(name, _)| name) }),
            _ => json!({ "type": "string" }),
        };
        schema::add(&mut table, name, schema::described(schema::texts(item), help));
    }
    table
}

/// Returns a value for [`KEYS`] to fill in. It is never used as it is.
fn blank() -> Login {
    Login {
        issuer: String::new(),
        client_id: String::new(),
        client_secret: None,
        origin: String::new(),
        cookie_keys: PathBuf::new(),
        callback: String::new(),
        logout: String::new(),
        after_logout: String::new(),
        scopes: vec![OPENID.to_owned()],
        claims: Vec::new(),
        algorithms: ALGORITHMS.map(|(_, algorithm)| algorithm).to_vec(),
        session: Duration::ZERO,
        idle: Duration::ZERO,
        leeway: Duration::ZERO,
    }
}

/// Reads the section. Returns `None` if there is a problem.
pub(super) fn read(written: &Written<'_>, problems: &mut Problems) -> Option<Login> {
    let lists = LISTS.map(|(name, _)| name);
    let known: Vec<_> = KEYS.iter().map(|key| key.name).chain(["client_secret"]).chain(lists).collect();
    let keys = written.section(&known, problems)?;
    let (mut login, mut sound) = (with_defaults(KEYS, blank()), true);
    for key in keys {
        let read = match key.inside(written) {
            "client_secret" => secret(&key).map(|path| login.client_secret = Some(path)),
            "scopes" => texts(&key, "[\"email\"]", is_scope).map(|scopes| {
                login.scopes.extend(scopes.into_iter().filter(|scope| scope != OPENID));
            }),
            "claims" => texts(&key, "[\"email\"]", |_| true).map(|claims| login.claims = claims),
            "algorithms" => algorithms(&key).map(|algorithms| login.algorithms = algorithms),
            _ => key.set(&written.name, KEYS, &mut login),
        };
        sound &= problems.take(read).is_some();
    }
    for name in REQUIRED {
        sound &= problems.take(written.require(name, KEYS)).is_some();
    }
    if sound && login.callback == login.logout {
        problems.push(written.error("`callback` and `logout` must be two paths"));
        sound = false;
    }
    if sound && login.idle > login.session {
        problems.push(written.error("`idle` must not be longer than `session`; write a shorter one"));
        sound = false;
    }
    sound.then_some(login)
}

fn secret(key: &Written<'_>) -> Result<PathBuf, String> {
    const FORM: &str = "a manifest contains no secrets; write it into a file, and client_secret.file = \"PATH\" here";
    let parts = key.table().ok_or_else(|| key.error(FORM))?;
    let mut path = Err(key.error(FORM));
    for part in parts {
        if part.inside(key) != "file" {
            return Err(part.unknown(&key.name, &["file"]));
        }
        path = part.string(FORM).and_then(|text| file(text).map_err(|wrong| part.error(wrong)));
    }
    path
}

/// Reads the URL of a server of a provider: https, or http on this machine where `plain` is allowed. `None` if it is another
/// one, or longer than 2 KiB.
pub fn server_url(text: &str, plain: bool) -> Option<Uri> {
    let url: Uri = text.parse().ok().filter(|_| text.len() <= 2048 && !text.contains('#'))?;
    let named = url.host().is_some_and(|host| !host.is_empty());
    let anonymous = url.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    let secure = match url.scheme_str() {
        Some("https") => true,
        Some("http") => plain && is_here(&url),
        _ => false,
    };
    (named && anonymous && secure).then_some(url)
}

fn issuer(text: &str) -> Result<String, String> {
    const FORM: &str = "write the `issuer` of the provider's configuration, such as https://login.example.com; http is for \
                        providers on this machine";
    if text.trim_end_matches('/').ends_with(DISCOVERY) {
        return Err(format!("write the `issuer` that the configuration has, without {DISCOVERY}"));
    }
    let fits = text.len() <= MOST && !text.contains('?') && server_url(text, true).is_some();
    if fits { Ok(text.to_owned()) } else { Err(FORM.into()) }
}

fn origin(text: &str) -> Result<String, String> {
    const FORM: &str = "write an origin such as https://shop.example.com, without a path; browsers keep the cookies of http \
                        only for localhost";
    let url = server_url(text, true).filter(|url| matches!(url.path(), "" | "/") && url.query().is_none());
    let url = url.ok_or(FORM)?;
    let (scheme, authority) = url.scheme().zip(url.authority()).ok_or(FORM)?;
    let authority = canonical::authority(authority.as_str().as_bytes(), scheme).ok_or(FORM)?;
    Ok(format!("{scheme}://{authority}"))
}

fn path(text: &str) -> Result<String, String> {
    let plain = text.starts_with('/') && text.len() <= MOST && canonical::is_plain(text);
    if plain { Ok(text.to_owned()) } else { Err("write a path such as /login/callback, without a query".into()) }
}
