//! An OpenID provider: its configuration, which is fetched again while the host runs, and the exchange of codes for ID tokens.

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use form_urlencoded::Serializer;
use http::{HeaderValue, StatusCode, Uri};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

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

/// How many codes are exchanged at once for each login. Others wait for as long as an exchange may take.
const EXCHANGES: usize = 16;

/// How often the configuration is fetched.
const REFRESH: Duration = Duration::from_secs(3600);

/// How long keys that were fetched are used.
const KEYS: (Duration, Duration) = (Duration::from_secs(900), Duration::from_secs(24 * 3600));

/// The least time between two log lines that say the same of exchanges.
const QUIET: Duration = Duration::from_secs(60);

/// A provider.
#[derive(Debug)]
pub(super) struct Provider {
    /// What its ID tokens must be.
    pub(super) tokens: Jwt,
    configuration: ArcSwapOption<ProviderConfiguration>,
    exchanges: Semaphore,
    metrics: Arc<Metrics>,
    /// When the log was last told of an exchange that failed.
    said: Mutex<Option<Instant>>,
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
    /// nobody can log in.
    pub(super) async fn open(login: &Login, metrics: Arc<Metrics>) -> Arc<Self> {
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
            configuration: ArcSwapOption::empty(),
            exchanges: Semaphore::new(EXCHANGES),
            metrics,
            said: Mutex::default(),
        });
        let first = this.refresh().await;
        tokio::spawn(follow(Arc::downgrade(&this), first));
        this
    }

    /// Returns its configuration; `None` as long as it has not been fetched.
    pub(super) fn configuration(&self) -> Option<Arc<ProviderConfiguration>> {
        self.configuration.load_full()
    }

    /// Fetches the configuration.
    async fn refresh(&self) -> Result<(), String> {
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
        let configuration =
            ProviderConfiguration { authorization, token, end_session, basic, names_itself, keys_at, keys };
        self.configuration.store(Some(Arc::new(configuration)));
        Ok(())
    }

    /// Exchanges a code and its verifier for an ID token.
    ///
    /// # Errors
    /// [`Cause::LoginRefused`] if the provider does not accept the code, [`Cause::NoProvider`] if it does not respond as it must.
    pub(super) async fn exchange(
        &self,
        configuration: &ProviderConfiguration,
        login: &Login,
        secret: Option<&str>,
        code: (&str, &str),
    ) -> Result<Granted, Cause> {
        let Ok(Ok(_place)) = timeout(TIME, self.exchanges.acquire()).await else { return Err(Cause::NoProvider) };
        let (form, credentials) = configuration.form(login, secret, code);
        let result = fetch::form(&configuration.token, form, credentials, MOST, TIME).await;
        result.and_then(|(status, body)| granted(status, &body)).unwrap_or_else(|why| {
            self.say(why);
            Err(Cause::NoProvider)
        })
    }

    /// Tells the log why a code could not be exchanged, at most once a minute.
    fn say(&self, why: String) {
        let mut said = lock(&self.said);
        if said.is_none_or(|at| at.elapsed() >= QUIET) {
            tracing::warn!("{}: a login could not be completed: {why}; said once a minute", self.tokens.issuer);
            *said = Some(Instant::now());
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
        if fields.get("issuer").and_then(Value::as_str) != Some(issuer) {
            return Err("its configuration is that of another issuer; write `issuer` exactly as it is there".into());
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

/// Reads the response to a code. The outer error is one of the provider or of the settings.
fn granted(status: StatusCode, body: &[u8]) -> Result<Result<Granted, Cause>, String> {
    let fields = json::object(body);
    let text = |name: &str| fields.as_ref()?.get(name)?.as_str();
    match text("error") {
        // The code is wrong, was used before, or is of another login.
        Some("invalid_grant") if status.is_client_error() => return Ok(Err(Cause::LoginRefused)),
        Some(error) if status.is_client_error() => {
            let shown: String = error.chars().filter(char::is_ascii_graphic).take(64).collect();
            return Err(format!("the provider responded with {status} and the error `{shown}`"));
        }
        _ => {}
    }
    if status != StatusCode::OK {
        return Err(format!("the provider responded with {status}"));
    }
    let id_token = text("id_token").ok_or("the provider gave no ID token")?.to_owned();
    let scope = fields.as_ref().and_then(|fields| fields.get("scope")).map(scope).transpose()?;
    Ok(Ok(Granted { id_token, scope }))
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
mod tests {
    use serde_json::json;

    use super::*;

    fn written(changes: &Value) -> Result<ProviderUrls, String> {
        let mut fields = json!({
            "issuer": "https://i.example",
            "authorization_endpoint": "https://i.example/authorize?tenant=1",
            "token_endpoint": "https://i.example/token",
            "jwks_uri": "https://keys.example/jwks",
        });
        for (name, value) in changes.as_object().unwrap() {
            fields[name] = value.clone();
        }
        ProviderUrls::read(fields.as_object().unwrap(), "https://i.example")
    }

    #[test]
    fn configurations() {
        let plain = written(&json!({})).unwrap();
        assert_eq!((plain.basic, plain.names_itself, plain.end_session.is_some()), (true, false, false));
        let methods = |list: &[&str]| written(&json!({ "token_endpoint_auth_methods_supported": list })).unwrap().basic;
        assert!(methods(&["client_secret_post", "client_secret_basic"]) && methods(&["private_key_jwt"]));
        assert!(!methods(&["client_secret_post"]));
        let more = json!({ "end_session_endpoint": "https://i.example/end", "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": true });
        assert!(written(&more).is_ok_and(|read| read.names_itself && read.end_session.is_some()));
        for (changes, expected) in [
            (json!({ "issuer": "https://i.example/" }), "another issuer"),
            (json!({ "issuer": "https://evil.example" }), "another issuer"),
            (json!({ "issuer": ["https://i.example"] }), "another issuer"),
            (
                json!({ "token_endpoint": "http://i.example/token" }),
                "`token_endpoint` of its configuration is no https",
            ),
            (json!({ "token_endpoint": "http://127.0.0.1/token" }), "`token_endpoint`"),
            (json!({ "token_endpoint": "https://u:p@i.example/" }), "`token_endpoint`"),
            (json!({ "authorization_endpoint": "javascript:alert(1)" }), "`authorization_endpoint`"),
            (json!({ "authorization_endpoint": "https://i.example/#x" }), "`authorization_endpoint`"),
            (json!({ "jwks_uri": null }), "`jwks_uri` of its configuration is no text"),
            (json!({ "jwks_uri": "file:///etc/passwd" }), "`jwks_uri`"),
            (json!({ "end_session_endpoint": "/end" }), "`end_session_endpoint`"),
            (json!({ "code_challenge_methods_supported": ["plain"] }), "S256"),
        ] {
            let problem = written(&changes).unwrap_err();
            assert!(problem.contains(expected), "{changes}: {problem}");
        }
    }

    #[test]
    fn responses_to_codes() {
        let check = |status: u16, body: &str| {
            granted(StatusCode::from_u16(status).unwrap(), body.as_bytes()).map(|granted| granted.map(|it| it.id_token))
        };
        assert_eq!(check(200, r#"{"id_token":"a.b.c","scope":"openid"}"#), Ok(Ok("a.b.c".into())));
        assert_eq!(check(400, r#"{"error":"invalid_grant"}"#), Ok(Err(Cause::LoginRefused)));
        for (status, body, expected) in [
            (401, r#"{"error":"invalid_client"}"#, "the error `invalid_client`"),
            (400, "{\"error\":\"a\\nb\\u001b[31m\"}", "the error `ab[31m`"),
            (500, r#"{"error":"invalid_grant"}"#, "responded with 500"),
            (302, "", "responded with 302"),
            (200, "", "no ID token"),
            (200, r#"{"id_token":7}"#, "no ID token"),
            (200, r#"{"id_token":"a","scope":null}"#, "`scope`"),
            (200, r#"{"id_token":"a","scope":7}"#, "`scope`"),
            (200, r#"{"id_token":"a","scope":{"openid":true}}"#, "`scope`"),
            (200, r#"{"id_token":"a","scope":["openid",null]}"#, "`scope`"),
            (200, r#"{"id_token":"a","id_token":"b"}"#, "no ID token"),
        ] {
            let problem = check(status, body).unwrap_err();
            assert!(problem.contains(expected), "{body}: {problem}");
        }
    }

    #[test]
    fn scopes_that_were_granted() {
        for (more, expected) in [
            ("", None),
            (r#","scope":"openid email""#, Some("openid email")),
            (r#","scope":["openid","email"]"#, Some("openid email")),
            (r#","scope":[]"#, Some("")),
            (r#","scope":"""#, Some("")),
        ] {
            let granted = granted(StatusCode::OK, format!(r#"{{"id_token":"a"{more}}}"#).as_bytes()).unwrap().unwrap();
            assert_eq!(granted.scope.as_deref(), expected, "{more}");
        }
    }

    #[test]
    fn credentials_are_encoded() {
        let shown = basic("a:b", "p w%").unwrap();
        let text = shown.to_str().unwrap().strip_prefix("Basic ").unwrap().to_owned();
        assert_eq!(STANDARD.decode(text).unwrap(), b"a%3Ab:p+w%25");
    }
}
