//! What a verified token claims: whether it is for this service and at this time, and of whom it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::auth::denial::Cause;
use lodge_manifest::auth::is_scope;
use lodge_manifest::auth::jwt::Jwt;

/// The most bytes of a subject.
const MOST_SUBJECT: usize = 512;

/// The most audiences and scopes of a token.
const MOST: usize = 256;

/// The time in which a token is valid, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Validity {
    from: f64,
    until: f64,
}

impl Validity {
    /// Reads `nbf` and `exp`, of which a token must have the latter.
    pub(super) fn of(claims: &Map<String, Value>) -> Result<Self, Cause> {
        let time = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(value) => value.as_f64().filter(|seconds| seconds.is_finite()).map(Some).ok_or(Cause::Claims),
        };
        time("iat")?;
        Ok(Self { from: time("nbf")?.unwrap_or(f64::MIN), until: time("exp")?.ok_or(Cause::Claims)? })
    }

    /// Checks that it is this time, or would be by a clock that differs by `leeway`.
    pub(super) fn check(self, now: SystemTime, leeway: Duration) -> Result<(), Cause> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let leeway = leeway.as_secs_f64();
        if now >= self.until + leeway {
            return Err(Cause::ExpiredToken);
        }
        if now + leeway < self.from { Err(Cause::EarlyToken) } else { Ok(()) }
    }
}

/// Checks issuer and audience, and returns the subject.
pub(super) fn subject<'a>(claims: &'a Map<String, Value>, settings: &Jwt) -> Result<&'a str, Cause> {
    if claims.get("iss").and_then(Value::as_str) != Some(&*settings.issuer) {
        return Err(Cause::Issuer);
    }
    let wanted = |audience: &str| settings.audience.is_empty() || settings.audience.iter().any(|own| own == audience);
    let is_for_us = match claims.get("aud") {
        None => settings.audience.is_empty(),
        Some(Value::String(audience)) => wanted(audience),
        Some(Value::Array(list)) if list.len() <= MOST => {
            let texts: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
            texts.ok_or(Cause::Claims)?.into_iter().any(wanted)
        }
        Some(_) => return Err(Cause::Claims),
    };
    if !is_for_us {
        return Err(Cause::Audience);
    }
    let subject = claims.get("sub").and_then(Value::as_str);
    subject.filter(|subject| (1..=MOST_SUBJECT).contains(&subject.len())).ok_or(Cause::Claims)
}

/// Returns the scopes: `scope` as RFC 8693 4.2 has it, or `scp`, a text or a list.
pub(super) fn scopes(claims: &Map<String, Value>) -> Result<Vec<String>, Cause> {
    let words = |text: &str| text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let scopes = match claims.get("scope").or_else(|| claims.get("scp")) {
        None => Vec::new(),
        Some(Value::String(text)) => words(text),
        Some(Value::Array(list)) => {
            let text = |item: &Value| item.as_str().map(str::to_owned);
            list.iter().map(text).collect::<Option<_>>().ok_or(Cause::Claims)?
        }
        Some(_) => return Err(Cause::Claims),
    };
    if scopes.len() <= MOST && scopes.iter().all(|scope| is_scope(scope)) { Ok(scopes) } else { Err(Cause::Claims) }
}
