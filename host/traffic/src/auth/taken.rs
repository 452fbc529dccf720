//! What clients send as credentials to a service: its guest must not see them unverified.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::passwords::is_basic;
use lodge_manifest::auth::{KeyHeader, Settings};

/// The headers with credentials that some check of a service takes, and that its guest must not see unverified.
#[derive(Default)]
pub(super) struct TakenCredentials {
    /// The headers with API keys, with `_` in place of `-` as well.
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
        if let Some(name) = key_header(settings) {
            // Those that CGI and similar interfaces cannot distinguish.
            let names = [Some(name.clone()), alias(name)].into_iter().flatten();
            let names: Vec<_> = names.filter(|name| !self.keys.contains(name)).collect();
            self.keys.extend(names);
        }
    }

    /// Removes these credentials: clients send them on all paths of a service. What a check with the settings `forwarded` takes
    /// stays.
    pub(super) fn remove(&self, headers: &mut HeaderMap, forwarded: Option<&Settings>) {
        let forwarded_key = forwarded.and_then(key_header);
        let stays =
            |name: &HeaderName| forwarded_key.is_some_and(|key| key == name || alias(key).as_ref() == Some(name));
        self.keys.iter().filter(|name| !stays(name)).for_each(|name| drop(headers.remove(name)));
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

/// Returns the name of a header with `_` in place of `-`, if it has any.
fn alias(name: &HeaderName) -> Option<HeaderName> {
    name.as_str().contains('-').then(|| name.as_str().replace('-', "_").parse().ok()).flatten()
}
