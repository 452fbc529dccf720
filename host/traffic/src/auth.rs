//! Whose request is it? Credentials are verified after routing: before the cache is asked, and before a sandbox is made.
//!
//! * [`jwt`]: tokens of an issuer, whose keys are in a file or on its server ([`remote`]).
//! * [`api_keys`]: keys that are known by their SHA-256.
//! * [`identity`]: what a request with verified credentials may say of its sender, and the headers that say it.
//! * [`denial`]: why a request is not taken.
//! * [`sources`]: the files that credentials are verified with, which are read again while the host runs.
//!
//! A request has one credential. Several, or one header twice, are refused: what the host verifies must be what the
//! service would see.

pub mod api_keys;
pub mod denial;
pub mod identity;
pub mod jwt;
pub mod live;
pub mod remote;
pub mod sources;

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use self::api_keys::KeyRing;
use self::denial::{AuthDenial, Cause};
use self::identity::{AuthMethod, Identity};
use self::jwt::Verifier;
use self::live::LiveValue;
use self::remote::Remote;
use lodge_manifest::auth::{Auth, CallCredentials, KeyHeader, Settings};
use lodge_manifest::policies::Policies;

/// The most bytes of a header with credentials.
const MOST: usize = 8 << 10;

/// The checks of a service and of its routes.
pub struct Authentication {
    /// For requests on routes without checks of their own.
    service: Option<CredentialCheck>,
    /// By the number of the route. `None` where the service's applies.
    routes: Vec<Option<RouteCheck>>,
}

/// The sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestSender<'a> {
    /// The client of a connection.
    Client,
    /// A service of this host, with this name.
    Service(&'a str),
    /// The host, for a message or a schedule.
    Host,
}

/// What a route has in place of its service's check.
enum RouteCheck {
    Anyone,
    Identified(Box<CredentialCheck>),
}

/// The credentials that are accepted, and what is required of them.
struct CredentialCheck {
    /// The name of the service.
    realm: Arc<str>,
    settings: Settings,
    keys: Option<Arc<LiveValue<KeyRing>>>,
    tokens: Option<Verifier>,
    /// The server with the keys of the issuer.
    remote: Option<Arc<Remote>>,
}

impl Authentication {
    /// Returns the checks of a service named `realm`; `None` if no request needs credentials. Until its files are read,
    /// no credentials are valid.
    pub fn new(realm: &str, policies: &Policies) -> Option<Self> {
        let realm = Arc::from(realm);
        let check = |settings: &Settings| CredentialCheck {
            realm: Arc::clone(&realm),
            settings: settings.clone(),
            keys: None,
            tokens: None,
            remote: None,
        };
        let service = match &policies.service.auth {
            Some(Auth::Identified(settings)) => Some(check(settings)),
            Some(Auth::Anyone) | None => None,
        };
        let routes = policies.routes.iter().map(|(_, policies)| match &policies.auth {
            Some(Auth::Identified(settings)) => Some(RouteCheck::Identified(Box::new(check(settings)))),
            Some(Auth::Anyone) => Some(RouteCheck::Anyone),
            None => None,
        });
        let mut this = Self { service, routes: routes.collect() };
        let is_needed = this.checks().next().is_some();
        is_needed.then_some(this)
    }

    /// Returns the checks of the service and of its routes.
    fn checks(&mut self) -> impl Iterator<Item = &mut CredentialCheck> {
        let routes = self.routes.iter_mut().filter_map(|route| match route {
            Some(RouteCheck::Identified(check)) => Some(&mut **check),
            Some(RouteCheck::Anyone) | None => None,
        });
        self.service.iter_mut().chain(routes)
    }

    /// Verifies the credentials of a request on the route with this number. Returns whose request it is; `None` where
    /// none are required. On success, removes the credentials unless the service receives them, and writes the headers
    /// that say whose request it is.
    ///
    /// A call of another service of this host needs no credentials, unless the manifest says otherwise. What the host
    /// itself sends never needs any.
    ///
    /// # Errors
    /// If the credentials are missing or not valid, or do not allow this.
    pub fn check(
        &self,
        route: usize,
        headers: &mut HeaderMap,
        sender: RequestSender<'_>,
        now: SystemTime,
    ) -> Result<Option<Arc<Identity>>, AuthDenial> {
        let Some(check) = self.of_route(route) else { return Ok(None) };
        let identity = match (sender, check.settings.calls()) {
            (RequestSender::Host, _) => Arc::new(Identity::new(AuthMethod::Host, "lodge", &[])),
            (RequestSender::Service(name), CallCredentials::Trusted) => {
                Arc::new(Identity::new(AuthMethod::Call, name, &[]))
            }
            (RequestSender::Client, _) | (RequestSender::Service(_), CallCredentials::Checked) => {
                check.identify(headers, now).map_err(|cause| check.denial(cause))?
            }
        };
        identity.write(headers);
        Ok(Some(identity))
    }

    /// Returns the server of the keys whose next fetch may turn this denial into a success.
    pub fn may_change(&self, route: usize, denial: &AuthDenial) -> Option<Arc<Remote>> {
        let remote = self.of_route(route)?.remote.as_ref().filter(|remote| remote.may_change());
        remote.filter(|_| denial.cause == Cause::UnknownKid).cloned()
    }

    /// Returns the check of the route with this number; `None` if it takes everybody's requests.
    fn of_route(&self, route: usize) -> Option<&CredentialCheck> {
        match self.routes.get(route) {
            Some(Some(RouteCheck::Anyone)) => None,
            Some(Some(RouteCheck::Identified(check))) => Some(&**check),
            Some(None) | None => self.service.as_ref(),
        }
    }
}

impl CredentialCheck {
    /// Verifies the credentials and what is required of them, and removes them unless the service receives them.
    fn identify(&self, headers: &mut HeaderMap, now: SystemTime) -> Result<Arc<Identity>, Cause> {
        let name = self.settings.header.name();
        let key = match &self.keys {
            Some(keys) => one(headers, name)?.map(|value| (value, keys)),
            None => None,
        };
        let token = match &self.tokens {
            Some(tokens) => one(headers, &header::AUTHORIZATION)?.map(|value| (value, tokens)),
            None => None,
        };
        let (name, identity) = match (key, token) {
            (None, None) => return Err(Cause::Missing),
            (Some(_), Some(_)) => return Err(Cause::Several),
            (None, Some((value, tokens))) => (&header::AUTHORIZATION, tokens.verify(bearer(value)?, now)?),
            (Some((value, keys)), None) => {
                let key = match self.settings.header {
                    KeyHeader::Bearer => bearer(value)?,
                    KeyHeader::Usual | KeyHeader::Named(_) => value.as_bytes(),
                };
                (name, keys.load().find(key, now)?)
            }
        };
        identity.meets(&self.settings.scopes, &self.settings.claims)?;
        if !self.settings.forwards() {
            headers.remove(name);
        }
        Ok(identity)
    }

    fn denial(&self, cause: Cause) -> AuthDenial {
        let (settings, mut challenges) = (&self.settings, Vec::new());
        let in_header = settings.api_keys.is_some() && settings.header != KeyHeader::Bearer;
        if settings.jwt.is_some() || !in_header {
            let of_key = in_header && matches!(cause, Cause::UnknownKey | Cause::ExpiredKey);
            let cause = if of_key { Cause::Missing } else { cause };
            challenges.push(cause.bearer_challenge(&self.realm, &settings.scopes));
        }
        if in_header {
            challenges.push(format!("ApiKey realm=\"{}\", header=\"{}\"", self.realm, settings.header.name()));
        }
        // Names of services, headers and scopes have only characters that a quoted text may have.
        let challenges = challenges.into_iter().filter_map(|challenge| HeaderValue::try_from(challenge).ok()).collect();
        AuthDenial { cause, challenges }
    }
}

/// Returns the only value of a header.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Cause> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Cause::Several),
        (Some(value), None) if value.len() > MOST => Err(Cause::TooLong),
        (value, None) => Ok(value),
    }
}

/// Returns the token in a value of `Authorization` (RFC 6750 2.1).
fn bearer(value: &HeaderValue) -> Result<&[u8], Cause> {
    let (scheme, token) = value.as_bytes().split_at_checked(7).ok_or(Cause::NoBearer)?;
    let token = token.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty() { Ok(token) } else { Err(Cause::NoBearer) }
}

#[cfg(test)]
mod tests;
