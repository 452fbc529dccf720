//! Whose request is it? Credentials are verified after routing: before the cache is asked, and before a sandbox is made.
//!
//! * [`jwt`]: tokens of an issuer, whose keys are in a file or on its server ([`remote`]).
//! * [`api_keys`]: keys that are known by their SHA-256.
//! * [`certificate`]: certificates of clients, which the handshake has verified.
//! * [`identity`]: what a request with verified credentials may say of its sender, and the headers that say it.
//! * [`denial`]: why a request is not taken.
//! * [`login`]: sessions of browsers, which begin at an OpenID provider.
//! * [`passwords`]: passwords of users, whose hashes take long.
//! * `problems`: what cannot be read now.
//! * [`redirect`]: where browsers are sent during a login.
//! * [`sources`]: the files that credentials are verified with, which are read again while the host runs.
//! * `taken`: what clients send as credentials, which no guest sees.
//!
//! A request has one credential; the session of its browser, or the certificate of its connection, counts if there is no other. Several, or one header twice, are refused: what the host verifies must be what the
//! service would see.

pub mod api_keys;
pub mod certificate;
pub mod denial;
pub mod identity;
pub mod jwt;
pub mod login;
mod password_hash;
pub mod passwords;
mod problems;
pub mod redirect;
pub mod remote;
pub mod sources;
mod taken;

use std::sync::Arc;
use std::time::SystemTime;

use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use self::api_keys::KeyRing;
use self::certificate::ClientCertificate;
use self::denial::{AuthDenial, Cause};
use self::identity::{AuthMethod, Identity};
use self::jwt::Verifier;
use self::login::browser::BrowserRequest;
use self::login::{LoginPath, Logins};
use self::passwords::{HashPayer, PasswordAttempt, Passwords, is_basic};
pub use self::problems::operator_keys_problem;
use self::remote::Remote;
use self::taken::TakenCredentials;
use crate::live_files::LiveValue;
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
    /// What clients send as credentials to any of them.
    taken: TakenCredentials,
}

/// The sender of a request.
#[derive(Clone, Copy, Debug)]
pub enum RequestSender<'a> {
    /// The client of a connection, with its certificate.
    Client(Option<&'a ClientCertificate>),
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
    passwords: Option<Arc<Passwords>>,
    tokens: Option<Verifier>,
    /// The server with the keys of the issuer.
    remote: Option<Arc<Remote>>,
    logins: Option<Arc<Logins>>,
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
            passwords: None,
            tokens: None,
            remote: None,
            logins: None,
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
        let mut this = Self { service, routes: routes.collect(), taken: TakenCredentials::default() };
        let mut taken = TakenCredentials::default();
        this.checks().for_each(|check| taken.add(&check.settings));
        let is_needed = this.checks().next().is_some();
        this.taken = taken;
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
        (sender, mut browser): (RequestSender<'_>, Option<&mut BrowserRequest>),
        now: SystemTime,
    ) -> Result<Option<Arc<Identity>>, AuthDenial> {
        let Some(check) = self.of_route(route) else {
            self.taken.remove(headers, None);
            return Ok(None);
        };
        let mut identify =
            |headers: &mut HeaderMap, certificate: Option<&ClientCertificate>| -> Result<_, AuthDenial> {
                let identity = check.identify(headers, certificate, browser.as_deref_mut(), now);
                let identity = identity.map_err(|cause| {
                    let key = check.key_name(cause, headers);
                    AuthDenial { key, ..check.denial_at(cause, browser.as_deref(), now) }
                })?;
                self.taken.remove(headers, Some(&check.settings).filter(|settings| settings.forwards()));
                Ok(identity)
            };
        let identity = match (sender, check.settings.calls()) {
            (RequestSender::Host, _) => Arc::new(Identity::new(AuthMethod::Host, "lodge", &[])),
            (RequestSender::Service(name), CallCredentials::Trusted) => {
                Arc::new(Identity::new(AuthMethod::Call, name, &[]))
            }
            (RequestSender::Client(certificate), _) => identify(headers, certificate)?,
            (RequestSender::Service(_), CallCredentials::Checked) => identify(headers, None)?,
        };
        identity.write(headers);
        Ok(Some(identity))
    }

    /// Returns the logins of the service, if browsers can log in.
    pub fn logins(&self) -> Option<&Arc<Logins>> {
        self.service.as_ref()?.logins.as_ref()
    }

    /// Returns which path of its login a path of the service is, if it is one, or the method that the path has.
    pub fn login_path(&self, path: &str, method: &Method) -> Option<Result<LoginPath, &'static str>> {
        self.logins()?.path(path, method)
    }

    /// Returns the refusal of a login.
    pub fn login_denial(&self, cause: Cause) -> AuthDenial {
        let challenges = self.service.as_ref().map(|check| check.denial(cause).challenges);
        AuthDenial { cause, challenges: challenges.unwrap_or_default(), login: None, ends_login: true, key: None }
    }

    /// Whether requests on the route with this number need credentials.
    pub fn is_needed(&self, route: usize) -> bool {
        self.of_route(route).is_some()
    }

    /// Returns the header in which clients send API keys, on this route or others of the service.
    pub fn key_header(&self, route: usize) -> Option<&HeaderName> {
        let check = self.of_route(route).or(self.service.as_ref())?;
        check.settings.api_keys.as_ref().map(|_| check.settings.header.name())
    }

    /// Whether a header has an API key, which the service does not get on the route with this number.
    pub fn takes(&self, route: usize, name: &HeaderName) -> bool {
        let forwarded = self.of_route(route).map(|check| &check.settings).filter(|settings| settings.forwards());
        self.taken.is_key(name, forwarded)
    }

    /// Returns what may turn this denial of a request with these headers into a success.
    pub fn may_change(&self, route: usize, denial: &AuthDenial, headers: &HeaderMap) -> Option<PendingVerification> {
        let check = self.of_route(route)?;
        match denial.cause {
            Cause::UnknownKid => {
                check.remote.as_ref().filter(|remote| remote.may_change()).cloned().map(PendingVerification::Keys)
            }
            Cause::UnverifiedPassword => {
                let value = headers.get(header::AUTHORIZATION)?;
                check.passwords.as_ref()?.attempt(value).map(Box::new).map(PendingVerification::Password)
            }
            _ => None,
        }
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

/// What has to be done before it is known whether credentials are valid.
pub enum PendingVerification {
    /// The keys of the issuer are fetched.
    Keys(Arc<Remote>),
    /// The hash of a password is computed.
    Password(Box<PasswordAttempt>),
}

impl PendingVerification {
    /// Does so. The credentials can be verified again then. Returns whether `take` was called, which is before a hash is computed
    /// for this request. A request that joins the hash of another one takes nothing: it learns no more than that one.
    ///
    /// # Errors
    /// That of `take`; nothing is done then.
    pub async fn resolve<E>(self, payers: Vec<HashPayer>, take: impl FnOnce() -> Result<(), E>) -> Result<bool, E> {
        match self {
            Self::Keys(remote) => remote.refetch().await,
            Self::Password(attempt) => {
                let Some(hash) = attempt.begin(payers, take)? else { return Ok(false) };
                let taken = hash.is_own;
                hash.finished().await;
                return Ok(taken);
            }
        }
        Ok(false)
    }
}

impl CredentialCheck {
    /// Verifies the credentials and what is required of them.
    fn identify(
        &self,
        headers: &HeaderMap,
        certificate: Option<&ClientCertificate>,
        browser: Option<&mut BrowserRequest>,
        now: SystemTime,
    ) -> Result<Arc<Identity>, Cause> {
        let name = self.settings.header.name();
        let password = match &self.passwords {
            Some(passwords) => {
                one(headers, &header::AUTHORIZATION)?.filter(|value| is_basic(value)).map(|value| (value, passwords))
            }
            None => None,
        };
        // `Authorization` has one credential, of which scheme it may be.
        let is_other = |of: &HeaderName| password.is_none() || of != header::AUTHORIZATION;
        let key = match &self.keys {
            Some(keys) if is_other(name) => one(headers, name)?.map(|value| (value, keys)),
            Some(_) | None => None,
        };
        let token = match &self.tokens {
            Some(tokens) if password.is_none() => one(headers, &header::AUTHORIZATION)?.map(|value| (value, tokens)),
            Some(_) | None => None,
        };
        let identity = match (key, token) {
            (Some(_), None) if password.is_some() => return Err(Cause::Several),
            (None, None) if let Some((value, passwords)) = password => passwords.find(value, now)?,
            (None, None) => self.known(certificate, browser, now)?,
            (Some(_), Some(_)) => return Err(Cause::Several),
            (None, Some((value, tokens))) => tokens.verify(bearer(value)?, now)?,
            (Some((value, keys)), None) => keys.load().find(self.key_in(value)?, now)?,
        };
        identity.meets(&self.settings.scopes, &self.settings.claims)?;
        Ok(identity)
    }

    /// Returns whose request it is by what a client sends with all of its requests.
    fn known(
        &self,
        certificate: Option<&ClientCertificate>,
        browser: Option<&mut BrowserRequest>,
        now: SystemTime,
    ) -> Result<Arc<Identity>, Cause> {
        if let (Some(logins), Some(browser)) = (&self.logins, browser)
            && let Some(known) = logins.session(browser, now)?
        {
            if browser.is_foreign {
                return Err(Cause::ForeignPage);
            }
            browser.renewed = known.renewed;
            return Ok(known.identity);
        }
        let allowed = &self.settings.client_certificates;
        certificate.filter(|_| !allowed.is_empty()).ok_or(Cause::Missing)?.identify(allowed, now)
    }

    /// Returns the refusal of a request. A browser without a session can log in instead.
    fn denial_at(&self, cause: Cause, browser: Option<&BrowserRequest>, now: SystemTime) -> AuthDenial {
        let browser = browser.filter(|browser| browser.navigates && matches!(cause, Cause::Missing | Cause::Session));
        match self.logins.as_ref().zip(browser).map(|(logins, browser)| logins.begin(browser, now)) {
            None => self.denial(cause),
            Some(Err(cause)) => self.denial(cause),
            Some(Ok(login)) => AuthDenial { login: Some(Box::new(login)), ..self.denial(cause) },
        }
    }

    fn denial(&self, cause: Cause) -> AuthDenial {
        let (settings, mut challenges) = (&self.settings, Vec::new());
        let has_keys = settings.api_keys.is_some();
        let in_header = has_keys && settings.header != KeyHeader::Bearer;
        if settings.jwt.is_some() || has_keys && !in_header {
            let of_key = in_header && matches!(cause, Cause::UnknownKey | Cause::ExpiredKey);
            let cause = if of_key { Cause::Missing } else { cause };
            challenges.push(cause.bearer_challenge(&self.realm, &settings.scopes));
        }
        if in_header {
            challenges.push(format!("ApiKey realm=\"{}\", header=\"{}\"", self.realm, settings.header.name()));
        }
        if settings.passwords.is_some() {
            challenges.push(format!("Basic realm=\"{}\", charset=\"UTF-8\"", self.realm));
        }
        if !settings.client_certificates.is_empty() {
            challenges.push(format!("ClientCertificate realm=\"{}\"", self.realm));
        }
        if settings.login.is_some() {
            challenges.push(format!("Login realm=\"{}\"", self.realm));
        }
        // Names of services, headers and scopes have only characters that a quoted text may have.
        let challenges = challenges.into_iter().filter_map(|challenge| HeaderValue::try_from(challenge).ok()).collect();
        AuthDenial { cause, challenges, login: None, ends_login: false, key: None }
    }
}

/// Returns the only value of a header; `None` if that is empty.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Cause> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Cause::Several),
        (Some(value), None) if value.len() > MOST => Err(Cause::TooLong),
        (Some(value), None) if value.is_empty() => Ok(None),
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
