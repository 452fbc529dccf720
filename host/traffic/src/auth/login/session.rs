//! A session: who has logged in, in a cookie that only hosts can read.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::state::seconds;
use crate::auth::identity::{AuthMethod, Claims, Identity};
use lodge_base::sealing::{SealPurpose, SealingKeys};
use lodge_manifest::auth::login::Login;

/// The part of the idle time after which a cookie is replaced by one with the last use.
const RENEWALS: u64 = 8;

/// Who has logged in.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LoginSession {
    /// The `sub` of the ID token.
    pub(super) subject: String,
    /// The scopes that the provider granted.
    pub(super) scopes: Vec<String>,
    /// The claims of the ID token that are chosen.
    pub(super) claims: Map<String, Value>,
    /// The time of the login, in seconds since 1970.
    pub(super) at: u64,
    /// The time of the last use that the cookie has.
    pub(super) seen: u64,
}

impl LoginSession {
    /// Returns it as the value of a cookie; `None` if the system has no random numbers.
    pub(super) fn seal(&self, keys: &SealingKeys, context: &[u8]) -> Option<String> {
        let Self { subject, scopes, claims, at, seen } = self;
        let text = json!([at, seen, subject, scopes, claims]).to_string();
        keys.seal(SealPurpose::Session, context, text.as_bytes())
    }

    /// Reads the value of a cookie. `None` if no host has made it for this login, or the session is over.
    pub(super) fn open(
        keys: &SealingKeys,
        context: &[u8],
        cookie: &[u8],
        login: &Login,
        now: SystemTime,
    ) -> Option<Self> {
        let (_, plain) = keys.open(SealPurpose::Session, context, cookie)?;
        let parts: [Value; 5] = serde_json::from_slice(&plain).ok()?;
        let [
            Value::Number(at),
            Value::Number(seen),
            Value::String(subject),
            Value::Array(scopes),
            Value::Object(claims),
        ] = parts
        else {
            return None;
        };
        let scopes = scopes.into_iter().map(|scope| scope.as_str().map(str::to_owned)).collect::<Option<_>>()?;
        let this = Self { subject, scopes, claims, at: at.as_u64()?, seen: seen.as_u64()? };
        let latest = seconds(now).saturating_add(login.leeway.as_secs());
        let is_past = this.at <= latest && this.seen <= latest;
        (is_past && this.seconds_left(login, now) > 0).then_some(this)
    }

    /// Returns for how long the session lasts if it is not used again; 0 if it is over.
    pub(super) fn seconds_left(&self, login: &Login, now: SystemTime) -> u64 {
        let end = self.at.saturating_add(login.session.as_secs()).min(self.seen.saturating_add(login.idle.as_secs()));
        end.saturating_sub(seconds(now))
    }

    /// Returns the session with its use now, if its cookie is to be replaced.
    pub(super) fn renewed(&self, login: &Login, now: SystemTime) -> Option<Self> {
        let now = seconds(now);
        let is_due = now.saturating_sub(self.seen) >= (login.idle.as_secs() / RENEWALS).max(1);
        is_due.then(|| Self { seen: now, ..self.clone() })
    }

    /// Returns the sender.
    pub(super) fn identity(self, issuer: &str) -> Identity {
        let mut all = self.claims;
        all.insert("iss".to_owned(), issuer.into());
        all.insert("sub".to_owned(), self.subject.as_str().into());
        let all = Value::Object(all);
        let payload = URL_SAFE_NO_PAD.encode(all.to_string());
        let Value::Object(all) = all else { return Identity::new(AuthMethod::Login, &self.subject, &self.scopes) };
        Identity::with_claims(AuthMethod::Login, &self.subject, &self.scopes, Claims { issuer, payload: &payload, all })
    }
}
