//! An OpenID provider: its configuration, which is fetched again while the host runs, and the exchange of codes for ID tokens.
//! `exchanges` are those in progress.

mod exchanges;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use form_urlencoded::Serializer;
use http::{HeaderValue, StatusCode, Uri};
use serde_json::{Map, Value};
use tokio::time::{sleep, timeout};

use self::exchanges::{ExchangePlace, Exchanges};
use crate::auth::denial::Cause;
use crate::auth::jwt::json;
use crate::auth::remote::{PAUSE, Remote, jittered};
use lodge_base::fetch;
use lodge_base::lock::lock;
use lodge_base::telemetry::metrics::Metrics;
use lodge_manifest::auth::jwt::{JwkSource, Jwt};
use lodge_manifest::auth::login::{Login, server_url};

/// The most bytes of a configuration, and of the response to a code.
const MOST: usize = 64 << 10;

/// The time for one exchange with the provider.
const TIME: Duration = Duration::from_secs(5);

/// How often the configuration is fetched.
const REFRESH: Duration = Duration::from_secs(3600);

/// How long keys that were fetched are used.
const KEYS: (Duration, Duration) = (Duration::from_secs(900), Duration::from_secs(24 * 3600));

/// The least time between two log lines that say the same of exchanges.
const QUIET: Duration = Duration::from_secs(60);

/// What to do if the provider does not accept the service.
const CHECK: &str = "check `auth.login.client_id` and the file of `auth.login.client_secret`";

/// The most characters of a text of the provider that are shown.
const SHOWN: usize = 256;

/// A provider.
#[derive(Debug)]
pub(super) struct Provider {
    /// What its ID tokens must be.
    pub(super) tokens: Jwt,
    configuration: ArcSwapOption<ProviderConfiguration>,
    exchanges: Exchanges,
    metrics: Arc<Metrics>,
    /// When the log was last told of a login that failed, by the name of the cause.
    said: Mutex<BTreeMap<&'static str, Instant>>,
    /// When a login failed last, and why.
    refusal: Mutex<Option<(SystemTime, String)>>,
    /// Why the last attempt to fetch the configuration failed.
    problem: Mutex<Option<String>>,
}

/// What a provider says of itself.
#[derive(Debug)]
pub(super) struct ProviderConfiguration {
    /// Where people log in.
    pub(super) authorization: Uri,
    token: Uri,
    /// Where their session with the provider ends, if it can.
    pub(super) end_session: Option<Uri>,
    /// Whether secrets are sent in the header, and not in the form.
    basic: bool,
    /// Whether it names itself when it sends a browser back (RFC 9207).
    pub(super) names_itself: bool,
    keys_at: Uri,
    /// Its keys.
    pub(super) keys: Arc<Remote>,
}

/// The ID token that the provider gave for a code, and the scopes that it granted, if it says so.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) id_token: String,
    pub(super) scope: Option<String>,
}

impl Provider {
    /// Begins to fetch the configuration, and returns after the first attempt, whether it succeeds or not: until there is one,
    /// nobody can log in. The `last` one is in force until then.
    pub(super) async fn open(
        login: &Login,
        last: Option<Arc<ProviderConfiguration>>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let tokens = Jwt {
            issuer: login.issuer.clone(),
            audience: vec![login.client_id.clone()],
            // Replaced by the URL that the provider names.
            keys: JwkSource::File(std::path::PathBuf::new()),
            algorithms: login.algorithms.clone(),
            leeway: login.leeway,
            refresh: KEYS.0,
            stale: KEYS.1,
        };
        let this = Arc::new(Self {
            tokens,
            configuration: ArcSwapOption::new(last),
            exchanges: Exchanges::new(),
            metrics,
            said: Mutex::default(),
            refusal: Mutex::default(),
            problem: Mutex::default(),
        });
        let first = this.refresh().await;
        tokio::spawn(follow(Arc::downgrade(&this), first));
        this
    }

    /// Returns its configuration; `None` as long as it has not been fetched.
    pub(super) fn configuration(&self) -> Option<Arc<ProviderConfiguration>> {
        self.configuration.load_full()
    }

    /// Returns why the last attempt to fetch the configuration failed, if it did.
    pub(super) fn problem(&self) -> Option<String> {
        lock(&self.problem).clone()
    }

    /// Returns when a login failed last for a reason that operators see, and the reason.
    pub(super) fn refusal(&self) -> Option<(SystemTime, String)> {
        lock(&self.refusal).clone()
    }

    /// Fetches the configuration.
    async fn refresh(&self) -> Result<(), String> {
        let fetched = self.fetch().await;
        *lock(&self.problem) = fetched.as_ref().err().cloned();
        fetched
    }

    async fn fetch(&self) -> Result<(), String> {
        let url = format!("{}/.well-known/openid-configuration", self.tokens.issuer.trim_end_matches('/'));
        let url: Uri = url.parse().map_err(|_| "its issuer is no URL".to_owned())?;
        let document = fetch::document(&url, MOST, TIME).await?;
        let fields = json::object(&document).ok_or("its configuration is not a JSON object, or has a name twice")?;
        let read = ProviderUrls::read(&fields, &self.tokens.issuer)?;
        let last = self.configuration();
        let keys = match last.filter(|last| last.keys_at == read.keys) {
            Some(last) => Arc::clone(&last.keys),
            None => Remote::open(read.keys.clone(), &self.tokens, Arc::clone(&self.metrics)).await,
        };
        let ProviderUrls { authorization, token, end_session, basic, names_itself, keys: keys_at } = read;
        let read = ProviderConfiguration { authorization, token, end_session, basic, names_itself, keys_at, keys };
        self.configuration.store(Some(Arc::new(read)));
        Ok(())
    }

    /// Waits until a client with these keys may have a code exchanged, for as long as an exchange may take.
    pub(super) async fn place(&self, client: Vec<u64>) -> Option<ExchangePlace> {
        timeout(TIME, self.exchanges.place(client)).await.ok()
    }

    /// Exchanges a code and its verifier for an ID token. The caller has a [`place`](Self::place).
    ///
    /// # Errors
    /// [`Cause::LoginRefused`] if the provider does not accept the code, [`Cause::ClientRefused`] if it does not accept the service,
    /// [`Cause::NoProvider`] if it does not respond as it must.
    pub(super) async fn exchange(
        &self,
        configuration: &ProviderConfiguration,
        login: &Login,
        secret: Option<&str>,
        code: (&str, &str),
    ) -> Result<Granted, Cause> {
        let (form, credentials) = configuration.form(login, secret, code);
        let result = fetch::form(&configuration.token, form, credentials, MOST, TIME).await;
        let result = result.map_err(|why| (Cause::NoProvider, why));
        result.and_then(|(status, body)| granted(status, &body)).map_err(|(cause, why)| {
            self.tell(cause, &why);
            cause
        })
    }

    /// Tells the log why a login could not be completed, for each cause at most once a minute.
    pub(super) fn tell(&self, cause: Cause, why: &str) {
        *lock(&self.refusal) = Some((SystemTime::now(), format!("{}: {why}", cause.name())));
        let mut said = lock(&self.said);
        if said.get(cause.name()).is_none_or(|at| at.elapsed() >= QUIET) {
            let (issuer, name) = (&self.tokens.issuer, cause.name());
            tracing::warn!("{issuer}: a login could not be completed: {why} (cause {name}; said once a minute)");
            said.insert(name, Instant::now());
        }
    }
}

impl ProviderConfiguration {
    /// Returns the form that exchanges a code with its verifier, and the credentials of the client in a header.
    fn form(
        &self,
        login: &Login,
        secret: Option<&str>,
        (code, verifier): (&str, &str),
    ) -> (String, Option<HeaderValue>) {
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code").append_pair("code", code);
        form.append_pair("redirect_uri", &redirect_uri(login)).append_pair("code_verifier", verifier);
        let credentials = match secret {
            Some(secret) if self.basic => basic(&login.client_id, secret),
            Some(secret) => {
                form.append_pair("client_id", &login.client_id).append_pair("client_secret", secret);
                None
            }
            None => {
                form.append_pair("client_id", &login.client_id);
                None
            }
        };
        (form.finish(), credentials)
    }
}

/// Fetches the configuration again and again, as long as it is in use.
async fn follow(provider: Weak<Provider>, mut last: Result<(), String>) {
    let (mut pause, mut problem) = (PAUSE.0, None);
    loop {
        let Some(issuer) = provider.upgrade().map(|provider| provider.tokens.issuer.clone()) else { return };
        let next = match last {
            Ok(()) => {
                if problem.take().is_some() {
                    tracing::info!("{issuer}: its configuration is known again");
                }
                pause = PAUSE.0;
                REFRESH
            }
            Err(why) => {
                if problem.as_ref() != Some(&why) {
                    tracing::warn!(
                        "{issuer}: the configuration of the provider cannot be fetched: {why}; the last good one, if there is any, stays in force"
                    );
                }
                problem = Some(why);
                pause = pause.saturating_mul(2).min(PAUSE.1);
                pause
            }
        };
        sleep(jittered(next)).await;
        let Some(provider) = provider.upgrade() else { return };
        last = provider.refresh().await;
    }
}

/// The parts of a configuration (OpenID Connect Discovery 3) that a login needs.
#[derive(Debug, PartialEq, Eq)]
struct ProviderUrls {
    authorization: Uri,
    token: Uri,
    end_session: Option<Uri>,
    basic: bool,
    names_itself: bool,
    keys: Uri,
}

impl ProviderUrls {
    /// Reads the configuration of this issuer.
    fn read(fields: &Map<String, Value>, issuer: &str) -> Result<Self, String> {
        match fields.get("issuer").and_then(Value::as_str) {
            Some(own) if own == issuer => {}
            Some(other) => {
                let other: String = other.escape_debug().take(SHOWN).collect();
                return Err(format!(
                    "its configuration is that of another issuer, `{other}`; write `auth.login.issuer` exactly as it is there"
                ));
            }
            None => return Err("its configuration has no `issuer`".into()),
        }
        let plain = issuer.starts_with("http://");
        let url = |name: &str| match fields.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => match server_url(text, plain) {
                Some(url) => Ok(Some(url)),
                None => Err(format!("`{name}` of its configuration is no https:// URL")),
            },
            Some(_) => Err(format!("`{name}` of its configuration is no text")),
        };
        let required = |name: &str| url(name)?.ok_or_else(|| format!("its configuration has no `{name}`"));
        let lists = |name: &str, value: &str| match fields.get(name) {
            Some(Value::Array(list)) => Some(list.iter().any(|item| item == value)),
            _ => None,
        };
        if lists("code_challenge_methods_supported", "S256") == Some(false) {
            return Err("it does not support PKCE with S256".into());
        }
        const METHODS: &str = "token_endpoint_auth_methods_supported";
        Ok(Self {
            authorization: required("authorization_endpoint")?,
            token: required("token_endpoint")?,
            end_session: url("end_session_endpoint")?,
            basic: lists(METHODS, "client_secret_basic") != Some(false)
                || lists(METHODS, "client_secret_post") != Some(true),
            names_itself: fields.get("authorization_response_iss_parameter_supported") == Some(&Value::Bool(true)),
            keys: required("jwks_uri")?,
        })
    }
}

/// Returns where the provider sends browsers back.
pub(super) fn redirect_uri(login: &Login) -> String {
    format!("{}{}", login.origin, login.callback)
}

/// Returns the credentials of a client (RFC 6749 2.3.1).
fn basic(id: &str, secret: &str) -> Option<HeaderValue> {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{}:{}", encoded(id), encoded(secret))))).ok()
}

/// Reads the response to a code.
fn granted(status: StatusCode, body: &[u8]) -> Result<Granted, (Cause, String)> {
    let fields = json::object(body);
    let text = |name: &str| fields.as_ref()?.get(name)?.as_str();
    if status.is_client_error() {
        let error = text("error").unwrap_or_default();
        let shown: String = error.chars().filter(char::is_ascii_graphic).take(64).collect();
        let said = if shown.is_empty() { String::new() } else { format!(" and the error `{shown}`") };
        let why = format!("the provider responded with {status}{said}");
        return Err(match error {
            // The code is wrong, was used before, or is of another login.
            "invalid_grant" => (Cause::LoginRefused, why),
            // RFC 6749 5.2: the one is for credentials, the other for what a client may do.
            "invalid_client" | "unauthorized_client" => (Cause::ClientRefused, format!("{why}; {CHECK}")),
            _ if status == StatusCode::UNAUTHORIZED => (Cause::ClientRefused, format!("{why}; {CHECK}")),
            _ => (Cause::NoProvider, why),
        });
    }
    if status != StatusCode::OK {
        return Err((Cause::NoProvider, format!("the provider responded with {status}")));
    }
    let wrong = |why: &str| (Cause::NoProvider, why.to_owned());
    let id_token = text("id_token").ok_or_else(|| wrong("the provider gave no ID token"))?.to_owned();
    let scope = fields.as_ref().and_then(|fields| fields.get("scope")).map(scope).transpose();
    Ok(Granted { id_token, scope: scope.map_err(|why| (Cause::NoProvider, why))? })
}

/// Reads the scopes that a provider granted. Some send a list. What is neither must not count as absent, which would grant all.
fn scope(value: &Value) -> Result<String, String> {
    let words = match value {
        Value::String(words) => Some(words.clone()),
        Value::Array(list) => list.iter().map(Value::as_str).collect::<Option<Vec<_>>>().map(|list| list.join(" ")),
        _ => None,
    };
    words.ok_or_else(|| "the `scope` that the provider gave is no text".to_owned())
}

#[cfg(test)]
mod tests;
