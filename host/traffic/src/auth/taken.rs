//! What clients send as credentials to a service: its guest must not see them unverified.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::passwords::is_basic;
use lodge_base::headers::{is_same, remove_where};
use lodge_manifest::auth::{KeyHeader, Settings};

/// The headers with credentials that some check of a service takes, and that its guest must not see unverified.
#[derive(Default)]
pub(super) struct TakenCredentials {
    /// The headers with API keys.
    keys: Vec<HeaderName>,
    /// Whether `Authorization` has passwords, or tokens and keys of the scheme `Bearer`.
    passwords: bool,
    bearer: bool,
}

impl TakenCredentials {
    /// Adds what a check with these settings takes. Passwords are added even where the service receives what is verified.
    pub(super) fn add(&mut self, settings: &Settings) {
        self.passwords |= settings.passwords.is_some();
        if settings.forwards() {
            return;
        }
        self.bearer |= takes_bearer(settings);
        if let Some(name) = key_header(settings).filter(|name| !self.keys.contains(name)) {
            self.keys.push(name.clone());
        }
    }

    /// Whether a header has API keys that a check takes, also with `_` or `.` in place of `-`, which some interfaces cannot
    /// distinguish.
    /// Those that a check with the settings `forwarded` takes stay.
    pub(super) fn is_key(&self, name: &HeaderName, forwarded: Option<&Settings>) -> bool {
        let is_of = |key: &HeaderName| is_same(key.as_str(), name.as_str());
        self.keys.iter().any(is_of) && !forwarded.and_then(key_header).is_some_and(is_of)
    }

    /// Removes these credentials: clients send them on all paths of a service. What a check with the settings `forwarded` takes
    /// stays.
    pub(super) fn remove(&self, headers: &mut HeaderMap, forwarded: Option<&Settings>) {
        let forwarded_key = forwarded.and_then(key_header);
        if !self.keys.is_empty() {
            remove_where(headers, |name| self.is_key(name, forwarded));
        }
        let passwords = self.passwords && forwarded.is_none_or(|settings| settings.passwords.is_none());
        let bearer = self.bearer && !forwarded.is_some_and(takes_bearer);
        // Other schemes are of no use to the checks.
        let is_taken = |value: &HeaderValue| passwords && is_basic(value) || bearer && super::bearer(value).is_ok();
        let authorization_stays = forwarded_key.is_some_and(|key| key == header::AUTHORIZATION);
        if !authorization_stays && headers.get_all(header::AUTHORIZATION).iter().any(is_taken) {
            headers.remove(header::AUTHORIZATION);
        }
    }
}

/// Returns the header of its own that API keys have with these settings.
fn key_header(settings: &Settings) -> Option<&HeaderName> {
    let has_one = settings.api_keys.is_some() && settings.header != KeyHeader::Bearer;
    has_one.then(|| settings.header.name())
}

/// Whether these settings take tokens or API keys of the scheme `Bearer`.
fn takes_bearer(settings: &Settings) -> bool {
    settings.jwt.is_some() || settings.api_keys.is_some() && settings.header == KeyHeader::Bearer
}
