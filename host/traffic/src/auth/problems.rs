//! What operators see of credentials: what they are verified with and cannot be read now, and the names of keys that are refused.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderValue};

use super::api_keys::KeyRing;
use super::denial::Cause;
use super::jwt::Verifier;
use super::{Authentication, CredentialCheck, RouteCheck, bearer};
use crate::live_files::{LiveValue, OF_HOST, OF_SERVICE};
use lodge_manifest::auth::KeyHeader;

/// What becomes of what a server does not give.
const FETCHED: &str = "what was fetched last is used, if there is any";

impl Authentication {
    /// Returns why files, and what is fetched from providers, cannot be used now, a line each.
    pub fn problems(&self) -> Vec<String> {
        let routes = self.routes.iter().flatten().filter_map(|route| match route {
            RouteCheck::Identified(check) => Some(&**check),
            RouteCheck::Anyone => None,
        });
        let lines: BTreeSet<_> = self.service.iter().chain(routes).flat_map(CredentialCheck::problems).collect();
        lines.into_iter().collect()
    }
}

impl CredentialCheck {
    /// Returns the API key in a value of its header.
    pub(super) fn key_in<'a>(&self, value: &'a HeaderValue) -> Result<&'a [u8], Cause> {
        match self.settings.header {
            KeyHeader::Bearer => bearer(value),
            KeyHeader::Usual | KeyHeader::Named(_) => Ok(value.as_bytes()),
        }
    }

    /// Returns the name of the API key of a request that is refused for this cause, if it is that of a key.
    pub(super) fn key_name(&self, cause: Cause, headers: &HeaderMap) -> Option<Arc<str>> {
        let keys = self.keys.as_ref().filter(|_| matches!(cause, Cause::ExpiredKey | Cause::Scope | Cause::Claim))?;
        let value = headers.get(self.settings.header.name())?;
        keys.load().name_of(self.key_in(value).ok()?).map(Arc::from)
    }

    fn problems(&self) -> Vec<String> {
        let Self { keys, passwords, tokens, remote, logins, .. } = self;
        let [cookie_keys, client_secret] = logins.as_ref().map(|logins| logins.file_problems()).unwrap_or_default();
        let files = [
            ("auth.api_keys", keys.as_ref().and_then(|keys| keys.problem_of(OF_SERVICE))),
            ("auth.passwords", passwords.as_ref().and_then(|passwords| passwords.problem())),
            ("auth.jwt.keys", tokens.as_ref().and_then(Verifier::problem)),
            ("auth.login.cookie_keys", cookie_keys),
            ("auth.login.client_secret", client_secret),
        ];
        let fetched = [
            ("auth.jwt.keys", remote.as_ref().and_then(|remote| remote.problem())),
            ("auth.login.issuer", logins.as_ref().and_then(|logins| logins.problem())),
        ];
        let fetched = fetched.into_iter().map(|(key, why)| (key, why.map(|why| format!("{why}; {FETCHED}"))));
        files.into_iter().chain(fetched).filter_map(|(key, line)| Some(format!("{key}: {}", line?))).collect()
    }
}

/// Returns why the file of operators' keys cannot be used now, or that it has none, if that is so.
pub fn operator_keys_problem(keys: &LiveValue<KeyRing>) -> Option<String> {
    let refused = keys.problem_of(OF_HOST).map(|line| format!("admin_keys: {line}"));
    let doubtful = || keys.hints().first().map(|hint| format!("admin_keys: {}: {hint}", keys.path().display()));
    refused.or_else(doubtful)
}
