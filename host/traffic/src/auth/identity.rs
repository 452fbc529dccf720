//! Whose request it is, and the headers in which the host says so.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::denial::Cause;

/// How the sender was identified: `api-key`, `basic`, `jwt`, `client-certificate`, `login`, `call` for a service of this host, or `host` for a message or a schedule.
pub const METHOD: HeaderName = HeaderName::from_static("x-lodge-auth-method");

const SUBJECT: HeaderName = HeaderName::from_static("x-lodge-auth-subject");
const ISSUER: HeaderName = HeaderName::from_static("x-lodge-auth-issuer");
const CLAIMS: HeaderName = HeaderName::from_static("x-lodge-auth-claims");
const SCOPES: HeaderName = HeaderName::from_static("x-lodge-auth-scopes");

/// The sender of a request, as its credentials say.
#[derive(Debug)]
pub struct Identity {
    method: AuthMethod,
    subject: String,
    /// The issuer of the token; empty without one.
    issuer: String,
    scopes: Vec<String>,
    /// The claims of the token.
    claims: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The claims of a verified token.
pub(crate) struct Claims<'a> {
    /// Who says so.
    pub(crate) issuer: &'a str,
    /// The claims as the token has them: base64url of JSON.
    pub(crate) payload: &'a str,
    /// The claims.
    pub(crate) all: Map<String, Value>,
}

/// How a sender is identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// By an API key.
    ApiKey,
    /// By a password.
    Basic,
    /// By a token.
    Jwt,
    /// By the certificate of its connection.
    Certificate,
    /// By the session of a browser.
    Login,
    /// As a service of this host, whose manifest grants the call.
    Call,
    /// As the host itself.
    Host,
}

impl AuthMethod {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::ApiKey, Self::Basic, Self::Jwt, Self::Certificate, Self::Login, Self::Call, Self::Host];

    /// Returns its name in headers and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::ApiKey => "api-key",
            Self::Basic => "basic",
            Self::Jwt => "jwt",
            Self::Certificate => "client-certificate",
            Self::Login => "login",
            Self::Call => "call",
            Self::Host => "host",
        }
    }
}

impl Identity {
    /// Returns the sender `subject` with these scopes.
    pub(super) fn new(method: AuthMethod, subject: &str, scopes: &[String]) -> Self {
        let mut identity = Self {
            method,
            subject: subject.to_owned(),
            issuer: String::new(),
            scopes: scopes.to_vec(),
            claims: Map::new(),
            headers: Vec::with_capacity(5),
        };
        identity.headers.push((METHOD, HeaderValue::from_static(method.name())));
        identity.add(SUBJECT, &escaped(subject));
        if !scopes.is_empty() {
            identity.add(SCOPES, &scopes.join(" "));
        }
        identity
    }

    /// Returns the sender of a verified token.
    pub(crate) fn of_token(subject: &str, scopes: &[String], claims: Claims<'_>) -> Self {
        Self::with_claims(AuthMethod::Jwt, subject, scopes, claims)
    }

    /// Returns a sender with claims.
    pub(super) fn with_claims(method: AuthMethod, subject: &str, scopes: &[String], claims: Claims<'_>) -> Self {
        let mut identity = Self::new(method, subject, scopes);
        identity.add(ISSUER, &escaped(claims.issuer));
        identity.add(CLAIMS, claims.payload);
        Self { issuer: claims.issuer.to_owned(), claims: claims.all, ..identity }
    }

    /// Adds a header whose value is visible ASCII.
    fn add(&mut self, name: HeaderName, value: &str) {
        self.headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
    }

    /// Returns how the sender was identified.
    pub fn method(&self) -> AuthMethod {
        self.method
    }

    /// Returns the issuer of the token; empty without one.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Returns the name of the sender: that of an API key or of a service, or the subject of a token.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Returns the scopes of the credentials.
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// Returns the claims of the token; none without one.
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// Returns a claim as text; `None` if there is none of this name. `sub` is the name of the sender.
    pub fn claim(&self, name: &str) -> Option<Cow<'_, str>> {
        match self.claims.get(name) {
            _ if name == "sub" => Some(Cow::Borrowed(&self.subject)),
            Some(Value::String(text)) => Some(Cow::Borrowed(text)),
            Some(value) => Some(Cow::Owned(value.to_string())),
            None => None,
        }
    }

    /// Whether a claim has one of these values; a list has each of its items.
    fn has_claim(&self, name: &str, values: &[String]) -> bool {
        let is = |claim: &str| values.iter().any(|value| value == claim);
        let is_value = |value: &Value| match value {
            Value::String(text) => is(text),
            Value::Number(_) | Value::Bool(_) => is(&value.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => false,
        };
        match self.claims.get(name) {
            _ if name == "sub" => is(&self.subject),
            Some(Value::Array(items)) => items.iter().any(is_value),
            Some(value) => is_value(value),
            None => false,
        }
    }

    /// Checks that all of these scopes are there, and every claim with one of its values.
    pub(super) fn meets(&self, scopes: &[String], claims: &[(String, Vec<String>)]) -> Result<(), Cause> {
        if !scopes.iter().all(|scope| self.scopes.contains(scope)) {
            return Err(Cause::Scope);
        }
        if claims.iter().all(|(name, values)| self.has_claim(name, values)) { Ok(()) } else { Err(Cause::Claim) }
    }

    /// Writes the headers.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
    }
}

/// Returns the text as visible ASCII: other bytes, spaces and `%` are percent-encoded, so that different texts stay
/// different.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            escaped.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name cannot add a header, and two names never have the same value.
    #[test]
    fn names_are_visible_ascii() {
        assert_eq!(escaped("ann@example.com"), "ann@example.com");
        assert_eq!(escaped("a b\r\nx: y%20"), "a%20b%0D%0Ax:%20y%2520");
        assert_eq!(escaped("zo\u{eb}"), "zo%C3%AB");
        let mut headers = HeaderMap::new();
        Identity::new(AuthMethod::ApiKey, "zo\u{eb}\n", &["a".into(), "b:c".into()]).write(&mut headers);
        let shown = |name: &str| headers[name].to_str().unwrap().to_owned();
        assert_eq!(shown("x-lodge-auth-subject"), "zo%C3%AB%0A");
        assert_eq!((shown("x-lodge-auth-method"), shown("x-lodge-auth-scopes")), ("api-key".into(), "a b:c".into()));
        assert!(headers.keys().all(|name| name.as_str().starts_with(lodge_base::headers::IDENTITY)));
    }

    #[test]
    fn all_scopes_and_claims_are_required() {
        let identity = Identity::new(AuthMethod::ApiKey, "ci", &["read".into(), "write".into()]);
        let meets = |scopes: &[&str], claims: &[(&str, &[&str])]| {
            let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
            let claims: Vec<_> = claims.iter().map(|(name, values)| ((*name).to_owned(), texts(values))).collect();
            identity.meets(&texts(scopes), &claims)
        };
        assert_eq!(meets(&[], &[]), Ok(()));
        assert_eq!(meets(&["write", "read"], &[("sub", &["other", "ci"])]), Ok(()));
        assert_eq!(meets(&["read", "admin"], &[]), Err(Cause::Scope));
        assert_eq!(meets(&["rea"], &[]), Err(Cause::Scope));
        assert_eq!(meets(&["read"], &[("sub", &["other"])]), Err(Cause::Claim));
        assert_eq!(meets(&["read"], &[("sub", &["ci"]), ("tenant", &["acme"])]), Err(Cause::Claim));
    }

    #[test]
    fn claims_have_values() {
        let all = serde_json::json!({
            "tenant": "acme", "roles": ["a", "b", 7, ["c"]], "level": 3, "staff": true, "none": null, "deep": { "a": "b" },
        });
        let Value::Object(all) = all else { panic!() };
        let claims = Claims { issuer: "https://i", payload: "e30", all };
        let identity = Identity::of_token("ann", &[], claims);
        let has = |name: &str, values: &[&str]| {
            identity.has_claim(name, &values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>())
        };
        for (name, values) in [
            ("tenant", &["x", "acme"][..]),
            ("roles", &["b"]),
            ("roles", &["7"]),
            ("level", &["3"]),
            ("staff", &["true"]),
            ("sub", &["ann"]),
        ] {
            assert!(has(name, values), "{name} {values:?}");
        }
        for (name, values) in [
            ("tenant", &["acm", "Acme"][..]),
            ("roles", &["c", "[\"c\"]"]),
            ("level", &["3.0"]),
            ("none", &["null"]),
            ("deep", &["{\"a\":\"b\"}"]),
            ("other", &[""]),
        ] {
            assert!(!has(name, values), "{name} {values:?}");
        }
    }
}
