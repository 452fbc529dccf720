//! JSON Web Tokens (RFC 7519), signed by an issuer, with the checks of RFC 8725.
//!
//! * `token` takes a token apart; `json` reads its parts, and no name twice.
//! * [`keys`] are those of the issuer. A token names one; it never brings one.
//! * `claims` says whether a token is for this service and this time.
//! * `id_token` is what a login ends with.
//! * `verified` remembers tokens, so that the next request with one costs a digest.

mod claims;
#[doc(hidden)]
pub mod fuzz;
pub(super) mod id_token;
pub(super) mod json;
pub mod keys;
mod token;
mod verified;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use self::claims::Validity;
use self::keys::KeySet;
use self::token::SignedToken;
use self::verified::{Verified, VerifiedTokens};
use super::denial::Cause;
use super::identity::{Claims, Identity};
use crate::live_files::{LiveValue, OF_SERVICE};
use lodge_manifest::auth::jwt::Jwt;

/// Verifies the tokens of an issuer.
#[derive(Debug)]
pub(super) struct Verifier {
    settings: Jwt,
    keys: Arc<LiveValue<KeySet>>,
    verified: VerifiedTokens,
}

impl Verifier {
    /// Returns why the file of its keys cannot be used now; `None` of keys on a server.
    pub(super) fn problem(&self) -> Option<String> {
        self.keys.problem_of(OF_SERVICE)
    }

    pub(super) fn new(settings: Jwt, keys: Arc<LiveValue<KeySet>>) -> Self {
        Self { settings, keys, verified: VerifiedTokens::new() }
    }

    /// Returns whose token this is.
    pub(super) fn verify(&self, token: &[u8], now: SystemTime) -> Result<Arc<Identity>, Cause> {
        let keys = self.keys.load();
        if !keys.is_usable(Instant::now()) {
            return Err(Cause::NoKeys);
        }
        let digest = VerifiedTokens::digest(token);
        let leeway = self.settings.leeway;
        if let Some(verified) = self.verified.get(&digest, keys.mark()) {
            return verified.validity.check(now, leeway).map(|()| verified.identity);
        }
        let parsed = SignedToken::parse(token)?;
        if !self.settings.algorithms.contains(&parsed.algorithm) {
            return Err(Cause::Algorithm);
        }
        keys.verify(&parsed)?;
        let claims = parsed.claims()?;
        let validity = Validity::of(&claims)?;
        validity.check(now, leeway)?;
        let subject = claims::subject(&claims, &self.settings)?.to_owned();
        let scopes = claims::scopes(&claims)?;
        let claims = Claims { issuer: &self.settings.issuer, payload: parsed.payload, all: claims };
        let identity = Arc::new(Identity::of_token(&subject, &scopes, claims));
        let verified = Verified { identity: Arc::clone(&identity), validity, mark: keys.mark(), length: token.len() };
        self.verified.insert(digest, verified);
        Ok(identity)
    }
}

#[cfg(test)]
mod tests;
