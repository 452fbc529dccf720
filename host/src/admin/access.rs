//! Who may use the API, and which part of it: the token `admin_token` all of it, a key of `admin_keys` what its scopes say, and
//! without both, this machine.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::{self, HeaderMap, HeaderValue};
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
use lodge_traffic::admission::rate::Attempter;
use lodge_traffic::auth::identity::Identity;
use lodge_traffic::proxy::headers::is_forwarded;

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

    /// Returns the name of the key.
    pub(super) fn subject(&self) -> Option<&str> {
        match self {
            Self::Key(key) => Some(key.subject()),
            Self::Local | Self::Token => None,
        }
    }

    /// Returns the refusal of a request that needs more than the sender may do.
    pub(super) fn refuse(&self, needed: Needed<'_>) -> Option<Response<Body>> {
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
        let why = format!("this request needs the scope {wanted}, which the key {} has not", key.subject());
        Some(problem(StatusCode::FORBIDDEN, "scope", &why))
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
        if let Some(origin) = header(&header::ORIGIN)
            && origin.split_once("://").is_none_or(|(_, of)| of != host)
        {
            let why = "a page of another origin may not use the API";
            return Err(problem(StatusCode::FORBIDDEN, "foreign-origin", why).into());
        }
        if self.config.admin_token.is_some() || self.keys.is_some() {
            return self.verify(peer, header(&header::AUTHORIZATION));
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
            return Err(problem(StatusCode::FORBIDDEN, "foreign-host", why).into());
        }
        Ok(Requester::Local)
    }

    /// Finds whose credentials these are.
    fn verify(&self, peer: IpAddr, authorization: Option<&str>) -> Result<Requester, AccessRefusal> {
        let client = Attempter::new(peer.to_canonical(), None);
        let now = Instant::now();
        let Some(shown) = authorization.and_then(|value| value.strip_prefix("Bearer ")) else {
            let way_out = if self.keys.is_some() { ", or a key of `admin_keys`" } else { "" };
            let why = format!("send the token `admin_token`{way_out}: `authorization: Bearer …`");
            return Err(unauthorized(&why).into());
        };
        if let Some(wait) = self.attempts.as_ref().and_then(|attempts| attempts.check(client, now).err()) {
            let why = "too many attempts with tokens that are not valid; try again later";
            let mut response = problem(StatusCode::TOO_MANY_REQUESTS, "auth-limited", why);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
            return Err(response.into());
        }
        // Hashes are compared, so that the time of the comparison reveals nothing about the token.
        let is_token = |token: &String| Sha256::digest(shown) == Sha256::digest(token);
        if self.config.admin_token.as_ref().is_some_and(is_token) {
            return Ok(Requester::Token);
        }
        let found = self.keys.as_ref().map(|keys| keys.load().find(shown.as_bytes(), SystemTime::now()));
        match found {
            Some(Ok(key)) => return Ok(Requester::Key(key)),
            Some(Err(cause)) if !cause.is_guess() => return Err(unauthorized("this key has expired").into()),
            _ => {}
        }
        if let Some(attempts) = &self.attempts {
            attempts.count(client, now);
        }
        Err(unauthorized("this token is not valid: it is neither `admin_token` nor a key of `admin_keys`").into())
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

fn unauthorized(why: &str) -> Response<Body> {
    let mut response = problem(StatusCode::UNAUTHORIZED, "unauthorized", why);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
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
