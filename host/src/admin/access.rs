//! Who may use the API, and which part of it: the token `admin_token` all of it, a key of `admin_keys` what its scopes say, and
//! without both, this machine.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, Scheme};
use http::{Response, StatusCode, Uri};
use sha2::{Digest, Sha256};

use super::Admin;
use super::body::{Body, problem};
use super::routes::{Needed, Scope};
use lodge_base::canonical;
use lodge_base::config::Config;
use lodge_base::config::trust::NamePattern;
use lodge_base::files;
use lodge_base::lock::lock;
use lodge_traffic::admission::rate::Attempter;
use lodge_traffic::auth::identity::Identity;
use lodge_traffic::proxy::headers::{Peer, is_forwarded};

/// Where the page is that sends a request, as browsers say it.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The least bytes of a token that nobody can guess, however often.
const LEAST_TOKEN: usize = 32;

/// The most characters of a path in a line of the log.
const LOGGED_PATH: usize = 200;

/// Why credentials are those of nobody.
enum Unknown {
    /// They were those of the key with this name, and are not any more.
    Expired(String),
    /// They may be a guess.
    Other,
}

/// The refusal of a client that may not use the API.
type AccessRefusal = Box<Response<Body>>;

/// Who sends a request.
pub(super) enum Requester {
    /// A client on this machine, where nobody needs a token.
    Local,
    /// The holder of `admin_token`.
    Token,
    /// The holder of a key of `admin_keys`.
    Key(Arc<Identity>),
}

impl Requester {
    /// Returns how the sender is known, for the audit trail.
    pub(super) fn auth(&self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Token => "admin-token",
            Self::Key(key) => key.method().name(),
        }
    }

    /// Whether the sender may do only what scopes say.
    pub(super) fn is_key(&self) -> bool {
        matches!(self, Self::Key(_))
    }

    /// Returns a name of the sender that no other one has.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Key(key) => format!("key {}", key.subject()),
            Self::Local | Self::Token => self.auth().to_owned(),
        }
    }

    /// Returns how log lines call the sender.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Key(key) => format!("the operator {}", key.subject()),
            Self::Local | Self::Token => "an operator".to_owned(),
        }
    }

    /// Returns the name of the key.
    pub(super) fn subject(&self) -> Option<&str> {
        match self {
            Self::Key(key) => Some(key.subject()),
            Self::Local | Self::Token => None,
        }
    }

    /// Returns why the sender may not do what a request needs, if it may not.
    pub(super) fn lacks(&self, needed: Needed<'_>) -> Option<String> {
        let Self::Key(key) = self else { return None };
        if key.scopes().iter().any(|scope| grants(scope, needed)) {
            return None;
        }
        let scope = needed.scope.name();
        let wanted = match (needed.scope, needed.service) {
            (Scope::Deploy, Some(service)) => format!("`{scope}:{service}` or `{scope}`"),
            (Scope::Read, Some(service)) => format!("`{scope}` or `deploy:{service}`"),
            _ => format!("`{scope}`"),
        };
        Some(format!("this request needs the scope {wanted}, which the key {} has not", key.subject()))
    }
}

/// The names of the scopes that keys of `admin_keys` can have.
pub(crate) const OPERATOR_SCOPES: [&str; 4] =
    [Scope::Read.name(), Scope::Operate.name(), Scope::Data.name(), Scope::Deploy.name()];

/// Whether a scope grants anything to a key of `admin_keys`.
pub(crate) fn is_operator_scope(scope: &str) -> bool {
    match scope.split_once(':') {
        Some((name, services)) => name == Scope::Deploy.name() && NamePattern::read(services).is_some(),
        None => OPERATOR_SCOPES.contains(&scope),
    }
}

/// Whether a scope suffices. That of deploying a service includes reading its state, which shows the result.
fn grants(scope: &str, needed: Needed<'_>) -> bool {
    let (name, services) = scope.split_once(':').map_or((scope, "*"), |(name, services)| (name, services));
    if name == Scope::Deploy.name() {
        let is_of_it = |service| NamePattern::read(services).is_some_and(|pattern| pattern.matches(service));
        return matches!(needed.scope, Scope::Deploy | Scope::Read) && needed.service.is_some_and(is_of_it);
    }
    scope == needed.scope.name()
}

impl Admin {
    /// Returns who sends a request of the API.
    ///
    /// # Errors
    /// The refusal of a client that may not use it.
    pub(super) fn identify(&self, peer: IpAddr, uri: &Uri, headers: &HeaderMap) -> Result<Requester, AccessRefusal> {
        let header = |name: &header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        // HTTP/2 sends the host in the URI.
        let host = header(&header::HOST).or(uri.authority().map(Authority::as_str)).unwrap_or_default();
        if is_foreign(host, headers) {
            let why = "a page of another origin may not use the API";
            self.note_refused(&peer.to_canonical().to_string(), uri, why);
            return Err(problem(StatusCode::FORBIDDEN, "foreign-origin", why).into());
        }
        if self.config.admin_token.is_some() || self.keys.is_some() {
            return self.verify(self.client(peer, headers), uri, headers);
        }
        if !peer.to_canonical().is_loopback() {
            let why = "set `admin_token`: without a token, only clients on the machine of the host may use the API";
            return Err(unauthorized(why).into());
        }
        if is_forwarded(headers) {
            // The peer is a proxy on this machine or a guest of this host, and the client may be anywhere.
            let why = "set `admin_token`: without a token, the API refuses requests of proxies and guests";
            return Err(unauthorized(why).into());
        }
        if !is_local(host) {
            // DNS rebinding: another site's name resolves to this machine, in a browser that runs here.
            let why = "use the host name localhost, or set `admin_token`";
            self.note_refused(&peer.to_canonical().to_string(), uri, why);
            return Err(problem(StatusCode::FORBIDDEN, "foreign-host", why).into());
        }
        Ok(Requester::Local)
    }

    /// Returns the address whose failed attempts count: that of the client for which a trusted proxy asks.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let (proxies, anywhere) = (&self.config.trusted_proxies, SocketAddr::new(peer, 0));
        Peer::new(anywhere, anywhere, proxies).client(headers, proxies)
    }

    /// Finds whose credentials these are.
    fn verify(&self, address: IpAddr, uri: &Uri, headers: &HeaderMap) -> Result<Requester, AccessRefusal> {
        let note = |why: &str| self.note_refused(&address.to_canonical().to_string(), uri, why);
        let (client, now) = (Attempter::new(address, None), Instant::now());
        let Some(shown) = bearer(headers) else {
            let way_out = if self.keys.is_some() { ", or a key of `admin_keys`" } else { "" };
            let why = format!("send the token `admin_token`{way_out}: `authorization: Bearer …`");
            return Err(unauthorized(&why).into());
        };
        // Tokens are compared before failures are counted: guesses from an address do not lock out an operator behind it.
        let holder = self.holder(shown);
        let limited = self.attempts.as_ref().and_then(|attempts| attempts.check(client, now).err());
        match (holder, limited) {
            (Ok(Requester::Token), Some(wait)) if shown.len() < LEAST_TOKEN => Err(self.limited(client, now, wait)),
            (Ok(requester), _) => Ok(requester),
            (Err(Unknown::Expired(name)), _) => {
                let why = format!("the key {name} has expired; `lodge keys create` makes another one");
                note(&why);
                Err(unauthorized(&why).into())
            }
            (Err(Unknown::Other), Some(wait)) => Err(self.limited(client, now, wait)),
            (Err(Unknown::Other), None) => {
                if let Some(attempts) = &self.attempts {
                    attempts.count(client, now);
                }
                let why = match &self.keys {
                    Some(_) => "this token is not valid: it is neither `admin_token` nor a key of `admin_keys`",
                    None => "this token is not valid: it is not `admin_token`, and the host has no `admin_keys`",
                };
                note(why);
                Err(unauthorized(why).into())
            }
        }
    }

    /// Returns the refusal of a client that has to wait, and tells the log of it.
    fn limited(&self, client: Attempter, now: Instant, wait: u32) -> AccessRefusal {
        if let Some(line) = self.attempts.as_ref().and_then(|attempts| attempts.tell(client, now)) {
            tracing::warn!("admin: {line}");
        }
        auth_limited(wait).into()
    }

    /// Tells the log of a refused request, unless it is one of many.
    pub(super) fn note_refused(&self, who: &str, uri: &Uri, why: &str) {
        let Some(unsaid) = lock(&self.refusals).record(Instant::now()) else { return };
        let path: String = uri.path().chars().take(LOGGED_PATH).collect();
        let before = if unsaid == 0 { String::new() } else { format!("; {unsaid} more before it have no line") };
        tracing::warn!("admin: refused {who} at {path}: {why}{before}");
    }

    fn holder(&self, shown: &str) -> Result<Requester, Unknown> {
        // Hashes are compared, so that the time of the comparison reveals nothing about the token.
        let is_token = |token: &String| Sha256::digest(shown) == Sha256::digest(token);
        if self.config.admin_token.as_ref().is_some_and(is_token) {
            return Ok(Requester::Token);
        }
        match self.keys.as_ref().map(|keys| keys.load().find(shown.as_bytes(), SystemTime::now())) {
            Some(Ok(key)) => Ok(Requester::Key(key)),
            Some(Err(cause)) if !cause.is_guess() => {
                let name = self.keys.as_ref().and_then(|keys| keys.load().name_of(shown.as_bytes()));
                Err(Unknown::Expired(name.unwrap_or_default()))
            }
            _ => Err(Unknown::Other),
        }
    }

    /// Whether the sender of a request with these headers may still do what it needs: its key may have been revoked meanwhile.
    pub(super) fn still_grants(&self, sender: &Requester, headers: &HeaderMap, needed: Needed<'_>) -> bool {
        let Requester::Key(_) = sender else { return true };
        let holder = bearer(headers).and_then(|shown| self.holder(shown).ok());
        holder.is_some_and(|holder| holder.lacks(needed).is_none())
    }
}

/// Returns why the file of keys cannot be used where it is, for a host that is to start.
pub fn misplaced(config: &Config) -> Option<String> {
    let file = config.admin_keys.as_ref().filter(|file| files::leads_through(file, &config.guests))?;
    let shown = file.display();
    Some(format!(
        "admin_keys: {shown} is inside the guests directory, or a link to it is; move it to where only operators can write"
    ))
}

/// Returns the token or key that a request shows.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn auth_limited(wait: u32) -> Response<Body> {
    let why = "too many attempts with tokens that are not valid; try again later";
    let mut response = problem(StatusCode::TOO_MANY_REQUESTS, "auth-limited", why);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
    response
}

fn unauthorized(why: &str) -> Response<Body> {
    let mut response = problem(StatusCode::UNAUTHORIZED, "unauthorized", why);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Whether a page of another origin than that of this host sends the request. A browser sends `Origin` with what could change
/// something, and `Sec-Fetch-Site` also with images, scripts and links.
fn is_foreign(host: &str, headers: &HeaderMap) -> bool {
    let is_own = |origin: &HeaderValue| {
        origin.to_str().is_ok_and(|origin| origin.split_once("://").is_some_and(|(_, of)| of == host))
    };
    let mut sites = headers.get_all(SITE).iter();
    !headers.get_all(header::ORIGIN).iter().all(is_own) || sites.any(|site| site != "same-origin" && site != "none")
}

fn is_local(host: &str) -> bool {
    let Some(authority) = canonical::authority(host.as_bytes(), &Scheme::HTTP) else { return false };
    let name = canonical::host(authority.as_str());
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A scope grants what it names, and nothing else; what is no scope grants nothing.
    #[test]
    fn scopes_grant_what_they_say() {
        let read = Needed { scope: Scope::Read, service: None };
        let of = |scope, service| Needed { scope, service: Some(service) };
        for (scope, needed, expected) in [
            ("read", read, true),
            ("read", of(Scope::Read, "users"), true),
            ("read", of(Scope::Deploy, "users"), false),
            ("read", of(Scope::Data, "users"), false),
            ("operate", read, false),
            ("operate", Needed { scope: Scope::Operate, service: None }, true),
            ("data", of(Scope::Data, "users"), true),
            ("data", of(Scope::Operate, "users"), false),
            ("deploy", of(Scope::Deploy, "users"), true),
            ("deploy", of(Scope::Read, "users"), true),
            ("deploy", read, false),
            ("deploy", of(Scope::Operate, "users"), false),
            ("deploy:users", of(Scope::Deploy, "users"), true),
            ("deploy:users", of(Scope::Deploy, "users2"), false),
            ("deploy:users", of(Scope::Read, "hello"), false),
            ("deploy:team-*", of(Scope::Deploy, "team-a"), true),
            ("deploy:team-*", of(Scope::Deploy, "team"), false),
            ("deploy:", of(Scope::Deploy, "users"), false),
            ("deploy:*s", of(Scope::Deploy, "users"), false),
            ("deploys", of(Scope::Deploy, "users"), false),
            ("read:users", of(Scope::Read, "users"), false),
            ("*", read, false),
            ("", read, false),
        ] {
            assert_eq!(grants(scope, needed), expected, "{scope} {needed:?}");
        }
    }

    #[test]
    fn known_scopes() {
        for scope in ["read", "operate", "data", "deploy", "deploy:users", "deploy:team-*"] {
            assert!(is_operator_scope(scope), "{scope}");
        }
        for scope in ["", "deploys", "deploy:", "deploy:*s", "read:users", "Read"] {
            assert!(!is_operator_scope(scope), "{scope}");
        }
    }

    #[test]
    fn local_names() {
        for (host, local) in [
            ("localhost:9090", true),
            ("LocalHost", true),
            ("127.0.0.1:1", true),
            ("127.1.2.3", true),
            ("[::1]:9090", true),
            ("localhost.:9090", true),
            ("[::ffff:127.0.0.1]", true),
            ("localhost:80:80", false),
            ("localhost:x", false),
            ("", false),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com", false),
            ("10.0.0.1", false),
            ("[::2]", false),
        ] {
            assert_eq!(is_local(host), local, "{host}");
        }
    }
}
