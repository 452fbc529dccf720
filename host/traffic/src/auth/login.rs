//! Logins of people at an OpenID provider (OpenID Connect Core 3.1, the code flow) with their browser.
//!
//! * [`browser`] is what a login needs of a request, and [`cookies`] are those of the host.
//! * `state` is a login in progress, `session` what it leads to; both are encrypted (`lodge_base::sealing`), and no host stores anything.
//! * `provider` is its configuration, and the exchange of codes.
//! * `authorization` is what that says when it sends a browser back.
//! * `secret` is that of a client.

mod authorization;
pub mod browser;
pub mod cookies;
mod problems;
mod provider;
pub(super) mod secret;
mod session;
mod state;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use form_urlencoded::Serializer;
use http::header::{HeaderMap, HeaderValue};
use http::{Method, Uri};
use quick_cache::sync::Cache;
use serde_json::Map;

use self::authorization::AuthorizationResponse;
use self::browser::BrowserRequest;
use self::provider::{Granted, Provider, ProviderConfiguration, redirect_uri};
use self::secret::ClientSecret;
use self::session::LoginSession;
use self::state::{LoginState, local, random, seconds};
use super::denial::Cause;
use super::identity::Identity;
use super::jwt::id_token::{self, IdToken};
use super::redirect::LoginRedirect;
use crate::live_files::LiveValue;
use lodge_base::canonical;
use lodge_base::sealing::{SALT, SealingKeys};
use lodge_base::telemetry::metrics::Metrics;
use lodge_manifest::auth::is_scope;
use lodge_manifest::auth::login as settings;

/// How many logins are remembered as completed, so that none is twice.
const COMPLETED: usize = 16_384;

/// The most bytes of a code.
const MOST_CODE: usize = 2 << 10;

/// How long a browser is not sent to the host of the login again: a redirect takes less, and a person who opens another page more.
const MOVED: Duration = Duration::from_secs(5);

/// The bytes of the cookie by which a browser is known while it logs in, as base64url.
const BROWSER: usize = 22;

/// The logins of a service.
#[derive(Debug)]
pub struct Logins {
    settings: settings::Login,
    /// What sealed texts are for: this service and this client of this provider.
    context: Vec<u8>,
    names: CookieNames,
    keys: Arc<LiveValue<SealingKeys>>,
    secret: Option<Arc<LiveValue<ClientSecret>>>,
    provider: Arc<Provider>,
    completed: Cache<[u8; SALT], ()>,
    metrics: Arc<Metrics>,
}

/// The names of the cookies of a service.
#[derive(Debug)]
struct CookieNames {
    session: String,
    /// By which a browser is known while it logs in.
    login: String,
    /// By which a browser is known that was sent to the host of the login.
    moved: String,
}

/// Whose session a browser has.
#[derive(Debug)]
pub(super) struct KnownBrowser {
    pub(super) identity: Arc<Identity>,
    /// The cookie with the last use, which replaces that of the browser.
    pub(super) renewed: Option<HeaderValue>,
}

/// What becomes of a browser that the provider has sent back.
#[derive(Debug)]
pub struct CompletedLogin {
    /// Where it goes.
    pub redirect: LoginRedirect,
    /// Who has logged in now, or why nobody has: the browser had a session before.
    pub result: Result<Arc<Identity>, Cause>,
}

/// The time of a request that waits for the provider: what that issues meanwhile is not of the future.
#[derive(Clone, Copy)]
struct Clock {
    start: SystemTime,
    began: Instant,
}

impl Clock {
    fn now(self) -> SystemTime {
        self.start.checked_add(self.began.elapsed()).unwrap_or(self.start)
    }
}

/// A path of the login itself, which no service handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginPath {
    /// Where the provider sends browsers back.
    Callback,
    /// Where a session ends.
    Logout,
}

impl Logins {
    /// Returns the logins of a service. Until the configuration of its provider is known, nobody can log in; of `former` ones of the
    /// same provider it is known.
    pub(super) async fn open(
        service: &str,
        settings: settings::Login,
        keys: Arc<LiveValue<SealingKeys>>,
        secret: Option<Arc<LiveValue<ClientSecret>>>,
        former: Option<&Self>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let known = former.filter(|former| former.knows(&settings)).and_then(|former| former.provider.configuration());
        let provider = Provider::open(&settings, known, Arc::clone(metrics)).await;
        let context = [service, &settings.issuer, &settings.client_id, &settings.origin].join("\0").into_bytes();
        let [session, login, moved] = ["session", "login", "moved"].map(|kind| cookies::name(kind, service));
        let names = CookieNames { session, login, moved };
        let (completed, metrics) = (Cache::new(COMPLETED), Arc::clone(metrics));
        Self { settings, context, names, keys, secret, provider, completed, metrics }
    }

    /// Whether the configuration of the provider is known, for the issuer and the client of these settings.
    pub(super) fn knows(&self, settings: &settings::Login) -> bool {
        let own = (&self.settings.issuer, &self.settings.client_id);
        own == (&settings.issuer, &settings.client_id) && self.provider.configuration().is_some()
    }

    /// Returns whose session the browser has. `None` if it has no cookie.
    ///
    /// # Errors
    /// [`Cause::Session`] if the cookie is none of this service, or the session is over.
    pub(super) fn session(&self, browser: &BrowserRequest, now: SystemTime) -> Result<Option<KnownBrowser>, Cause> {
        let Some(cookie) = browser.cookies.get(&self.names.session) else { return Ok(None) };
        let keys = self.keys.load();
        let session = LoginSession::open(&keys, &self.context, cookie, &self.settings, now).ok_or(Cause::Session)?;
        let renewed = session.renewed(&self.settings, now).and_then(|session| self.cookie(&session, now).ok());
        Ok(Some(KnownBrowser { identity: Arc::new(session.identity(&self.settings.issuer)), renewed }))
    }

    /// Begins a login that leads back to the page that the browser requests. At another host, the login would end without its
    /// cookie: the browser is sent to the page at the host of the login first.
    ///
    /// # Errors
    /// [`Cause::NoProvider`] if the provider is not known.
    pub(super) fn begin(&self, browser: &BrowserRequest, now: SystemTime) -> Result<LoginRedirect, Cause> {
        let configuration = self.provider.configuration().ok_or(Cause::NoProvider)?;
        // Behind a proxy that changes `Host`, a browser is at the right host whatever is seen of it here. It has the cookie then.
        if browser.is_elsewhere && browser.cookies.get(&self.names.moved).is_none() {
            let cookies = Vec::from_iter(cookies::set(&self.names.moved, "1", MOVED.as_secs()));
            return Ok(LoginRedirect { location: self.at(browser.target.as_str())?, cookies });
        }
        // One cookie for all logins of a browser, so that they do not disturb each other.
        let own = browser.cookies.get(&self.names.login).and_then(|cookie| str::from_utf8(cookie).ok());
        let own = own.filter(|own| own.len() == BROWSER && !own.contains(|c: char| !c.is_ascii_graphic() || c == ';'));
        let cookie = own.map(str::to_owned).or_else(random::<16>).ok_or(Cause::NoProvider)?;
        let state = LoginState::new(now, cookie.as_bytes(), browser.target.as_str()).ok_or(Cause::NoProvider)?;
        let sealed = state.seal(&self.keys.load(), &self.context).ok_or(Cause::NoProvider)?;
        let query = Serializer::new(String::new())
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.settings.client_id)
            .append_pair("redirect_uri", &redirect_uri(&self.settings))
            .append_pair("scope", &self.settings.scopes.join(" "))
            .append_pair("state", &sealed)
            .append_pair("nonce", &state.nonce)
            .append_pair("code_challenge", &state.challenge())
            .append_pair("code_challenge_method", "S256")
            .finish();
        let location = with_query(&configuration.authorization, &query).ok_or(Cause::NoProvider)?;
        let cookie = cookies::set(&self.names.login, &cookie, state::TIME.as_secs()).ok_or(Cause::NoProvider)?;
        Ok(LoginRedirect { location, cookies: vec![cookie] })
    }

    /// Completes a login: the provider has sent the browser back. Returns where the browser goes, and who has logged in now. The
    /// exchange of the code is charged to these keys of the client.
    ///
    /// # Errors
    /// If this is not the end of a login that the browser began, or the provider does not confirm it.
    pub async fn complete(
        &self,
        browser: &BrowserRequest,
        client: Vec<u64>,
        now: SystemTime,
    ) -> Result<CompletedLogin, Cause> {
        let completed = self.completed(browser, client, now).await;
        self.metrics.logins.count(match &completed {
            Ok(_) => "ok",
            Err(Cause::NoProvider | Cause::NoKeys | Cause::ClientRefused) => "failed",
            Err(_) => "refused",
        });
        // Another page of the browser has completed its login before.
        let had_one = completed.is_err() && self.session(browser, now).is_ok_and(|session| session.is_some());
        match completed {
            Err(cause) if had_one => {
                let state =
                    AuthorizationResponse::read(browser).and_then(|answer| Some(self.state(&answer.state?, now)?.1));
                let path = state.as_ref().map_or("/", |state| &state.path);
                let redirect = LoginRedirect { location: self.at(path)?, cookies: Vec::new() };
                Ok(CompletedLogin { redirect, result: Err(cause) })
            }
            completed => completed.map(|(redirect, identity)| CompletedLogin { redirect, result: Ok(identity) }),
        }
    }

    async fn completed(
        &self,
        browser: &BrowserRequest,
        client: Vec<u64>,
        now: SystemTime,
    ) -> Result<(LoginRedirect, Arc<Identity>), Cause> {
        let answer = AuthorizationResponse::read(browser).ok_or(Cause::LoginState)?;
        let (salt, state) = answer.state.as_deref().and_then(|text| self.state(text, now)).ok_or(Cause::LoginState)?;
        let cookie = browser.cookies.get(&self.names.login).filter(|cookie| state.is_of(cookie));
        cookie.ok_or(Cause::LoginState)?;
        let configuration = self.provider.configuration().ok_or(Cause::NoProvider)?;
        let is_other = match &answer.issuer {
            Some(issuer) => *issuer != self.settings.issuer,
            None => configuration.names_itself,
        };
        if is_other {
            self.provider
                .tell(Cause::Issuer, "the browser came back without the `iss` of the provider, or with another");
            return Err(Cause::Issuer);
        }
        if let Some(said) = answer.said() {
            self.provider
                .tell(Cause::LoginRefused, &format!("the provider sent the browser back with the error {said}"));
        }
        let code = answer.code.filter(|code| answer.error.is_none() && (1..=MOST_CODE).contains(&code.len()));
        let code = code.ok_or(Cause::LoginRefused)?;
        if !self.is_first(&salt) {
            return Err(Cause::LoginState);
        }
        let clock = Clock { start: now, began: Instant::now() };
        let result = match self.provider.place(client).await {
            Some(_place) => self.confirm(&configuration, &code, &state, clock).await,
            None => Err(Cause::NoProvider),
        };
        if matches!(result, Err(Cause::NoProvider | Cause::NoKeys | Cause::ClientRefused)) {
            // The code was not used, as far as is known.
            self.completed.remove(&salt);
        }
        let session = result?;
        let ended = cookies::set(&self.names.login, "", 0).ok_or(Cause::NoProvider)?;
        let cookies = vec![self.cookie(&session, clock.now())?, ended];
        let identity = Arc::new(session.identity(&self.settings.issuer));
        Ok((LoginRedirect { location: self.at(&state.path)?, cookies }, identity))
    }

    /// Whether nobody completes this login, or has completed it. From now on, somebody does.
    fn is_first(&self, salt: &[u8; SALT]) -> bool {
        let mut is_first = false;
        let inserted = self.completed.get_or_insert_with(salt, || {
            is_first = true;
            Ok::<_, Infallible>(())
        });
        inserted.is_ok() && is_first
    }

    /// Exchanges the code, and verifies the ID token.
    async fn confirm(
        &self,
        configuration: &ProviderConfiguration,
        code: &str,
        state: &LoginState,
        clock: Clock,
    ) -> Result<LoginSession, Cause> {
        let secret = self.secret.as_ref().map(|secret| secret.load().text().to_owned());
        let code = (code, state.verifier.as_str());
        let granted = self.provider.exchange(configuration, &self.settings, secret.as_deref(), code).await?;
        let verify = || {
            let keys = configuration.keys.keys.load();
            id_token::verify(&self.provider.tokens, &keys, &granted.id_token, &state.nonce, clock.now())
        };
        let token = match verify() {
            Err(Cause::UnknownKid | Cause::NoKeys) => {
                configuration.keys.refetch().await;
                verify()
            }
            verified => verified,
        };
        let token = token.inspect_err(|cause| self.provider.tell(*cause, id_token::fault(*cause)))?;
        Ok(self.begun(token, &granted, clock.now()))
    }

    /// Returns the session of a person who has logged in now.
    fn begun(&self, IdToken { subject, mut claims }: IdToken, granted: &Granted, now: SystemTime) -> LoginSession {
        let names = self.settings.claims.iter();
        let chosen: Map<_, _> = names.filter_map(|name| claims.remove_entry(name)).collect();
        // Without it, the provider has granted what was requested (RFC 6749 5.1), and it never grants more.
        let is_granted = |scope: &&String| match &granted.scope {
            Some(all) => all.split(' ').any(|own| own == scope.as_str()),
            None => true,
        };
        let scopes = self.settings.scopes.iter().filter(is_granted).filter(|scope| is_scope(scope)).cloned().collect();
        let at = seconds(now);
        LoginSession { subject, scopes, claims: chosen, at, seen: at }
    }

    /// Ends the session of a browser. Returns where the browser goes.
    ///
    /// # Errors
    /// [`Cause::ForeignPage`] if a page of another origin sends the request.
    pub fn end(&self, headers: &HeaderMap, browser: &BrowserRequest) -> Result<LoginRedirect, Cause> {
        if !self.is_own_page(headers) {
            return Err(Cause::ForeignPage);
        }
        // Browsers send no cookie if a page of another site sends the request: then there is nothing to end.
        let mut ended = Vec::new();
        if browser.cookies.get(&self.names.session).is_some() {
            ended.extend(cookies::set(&self.names.session, "", 0));
        }
        let configuration = self.provider.configuration();
        let provider = configuration.as_ref().and_then(|it| it.end_session.as_ref()).filter(|_| !ended.is_empty());
        let after = format!("{}{}", self.settings.origin, self.settings.after_logout);
        let location = match provider {
            Some(provider) => {
                let query = Serializer::new(String::new())
                    .append_pair("client_id", &self.settings.client_id)
                    .append_pair("post_logout_redirect_uri", &after)
                    .finish();
                with_query(provider, &query).ok_or(Cause::NoProvider)?
            }
            None => self.at(&self.settings.after_logout)?,
        };
        Ok(LoginRedirect { location, cookies: ended })
    }

    /// Whether a request with these headers comes from a page of the origin of the login, or from no page at all.
    pub fn is_own_page(&self, headers: &HeaderMap) -> bool {
        browser::is_of(&self.settings.origin, headers)
    }

    /// Whether an authority has the host of the login. Cookies know no ports, so theirs may differ.
    pub fn is_at(&self, authority: &str) -> bool {
        let own = self.settings.origin.split_once("://").map_or("", |(_, own)| own);
        canonical::host(authority) == canonical::host(own)
    }

    /// Returns which path of the login this is, if it is one, or the method that the path has.
    pub(super) fn path(&self, path: &str, method: &Method) -> Option<Result<LoginPath, &'static str>> {
        let of = |kind, expected: Method, allow| if *method == expected { Ok(kind) } else { Err(allow) };
        if path == self.settings.callback {
            return Some(of(LoginPath::Callback, Method::GET, "GET"));
        }
        (path == self.settings.logout).then(|| of(LoginPath::Logout, Method::POST, "POST"))
    }

    fn state(&self, text: &str, now: SystemTime) -> Option<([u8; SALT], LoginState)> {
        LoginState::open(&self.keys.load(), &self.context, text, now, self.settings.leeway)
    }

    /// Returns the cookie of a session.
    fn cookie(&self, session: &LoginSession, now: SystemTime) -> Result<HeaderValue, Cause> {
        let text = session.seal(&self.keys.load(), &self.context).ok_or(Cause::NoProvider)?;
        let seconds = session.seconds_left(&self.settings, now);
        cookies::set(&self.names.session, &text, seconds).ok_or_else(|| {
            let (most, issuer) = (cookies::MOST, &self.settings.issuer);
            tracing::warn!(
                "{issuer}: the session of a login needs a cookie of {} bytes, and browsers keep {most}; name fewer claims \
                 in `auth.login.claims`",
                text.len() + self.names.session.len()
            );
            Cause::SessionTooLarge
        })
    }

    /// Returns the URL of a path of this origin.
    fn at(&self, path: &str) -> Result<HeaderValue, Cause> {
        let path = local(path).unwrap_or("/");
        HeaderValue::try_from(format!("{}{path}", self.settings.origin)).map_err(|_| Cause::LoginState)
    }
}

/// Returns a URL with this query behind that which it has.
fn with_query(url: &Uri, query: &str) -> Option<HeaderValue> {
    let join = if url.query().is_some() { '&' } else { '?' };
    HeaderValue::try_from(format!("{url}{join}{query}")).ok()
}

#[cfg(test)]
mod tests;
