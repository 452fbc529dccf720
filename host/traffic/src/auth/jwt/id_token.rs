//! ID tokens (OpenID Connect Core 3.1.3.7): what a provider says of a person who has just logged in.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use super::claims::{self, Validity};
use super::keys::KeySet;
use super::token::SignedToken;
use crate::auth::denial::Cause;
use lodge_manifest::auth::jwt::Jwt;

/// How long ago a token may have been issued: it comes from the provider itself.
const AGE: Duration = Duration::from_secs(600);

/// What an ID token says.
#[derive(Debug)]
pub(in crate::auth) struct IdToken {
    /// Who has logged in.
    pub(in crate::auth) subject: String,
    /// All claims.
    pub(in crate::auth) claims: Map<String, Value>,
}

/// Verifies an ID token for the login with this nonce. The audience of the settings is the client.
pub(in crate::auth) fn verify(
    settings: &Jwt,
    keys: &KeySet,
    token: &str,
    nonce: &str,
    now: SystemTime,
) -> Result<IdToken, Cause> {
    if !keys.is_usable(Instant::now()) {
        return Err(Cause::NoKeys);
    }
    let parsed = SignedToken::parse(token.as_bytes())?;
    if !settings.algorithms.contains(&parsed.algorithm) {
        return Err(Cause::Algorithm);
    }
    // A token that gives access is no proof of a login.
    if parsed.gives_access {
        return Err(Cause::Malformed);
    }
    keys.verify(&parsed)?;
    let claims = parsed.claims()?;
    Validity::of(&claims)?.check(now, settings.leeway)?;
    let subject = claims::subject(&claims, settings)?.to_owned();
    check_party(&claims, settings)?;
    if claims.get("nonce").and_then(Value::as_str) != Some(nonce) {
        return Err(Cause::Nonce);
    }
    check_age(&claims, now, settings.leeway)?;
    Ok(IdToken { subject, claims })
}

/// Returns what is wrong with an ID token, for the log.
pub(in crate::auth) fn fault(cause: Cause) -> &'static str {
    match cause {
        Cause::NoKeys => "the keys that verify its ID token could not be fetched",
        Cause::Malformed => "its ID token is no signed JWT, or one that gives access",
        Cause::Algorithm => {
            "its ID token has an algorithm that `auth.login.algorithms` does not allow, or not for its key"
        }
        Cause::UnknownKid => "its ID token names no key of the provider",
        Cause::Signature => "the signature of its ID token is not by the key that it names",
        Cause::Issuer => "`iss` of its ID token is another issuer than `auth.login.issuer`",
        Cause::Audience => "`aud` or `azp` of its ID token is not `auth.login.client_id`",
        Cause::ExpiredToken => "`exp` of its ID token is over, or `iat` was more than 10 minutes ago; check the clocks",
        Cause::EarlyToken => "`nbf` or `iat` of its ID token is to come; check the clocks",
        Cause::Nonce => "`nonce` of its ID token is that of another login",
        _ => "a claim of its ID token is missing or of a wrong type",
    }
}

/// Checks that the token was issued for this client, and not for another one that passes it on.
fn check_party(claims: &Map<String, Value>, settings: &Jwt) -> Result<(), Cause> {
    let several = matches!(claims.get("aud"), Some(Value::Array(list)) if list.len() > 1);
    let is_ours = |party: &str| settings.audience.iter().any(|own| own == party);
    match claims.get("azp") {
        None if several => Err(Cause::Audience),
        None => Ok(()),
        Some(Value::String(party)) if is_ours(party) => Ok(()),
        Some(Value::String(_)) => Err(Cause::Audience),
        Some(_) => Err(Cause::Claims),
    }
}

fn check_age(claims: &Map<String, Value>, now: SystemTime, leeway: Duration) -> Result<(), Cause> {
    let issued = claims.get("iat").and_then(Value::as_f64).filter(|at| at.is_finite()).ok_or(Cause::Claims)?;
    let (now, leeway) = (now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(), leeway.as_secs_f64());
    match issued {
        _ if issued > now + leeway => Err(Cause::EarlyToken),
        _ if issued + AGE.as_secs_f64() + leeway < now => Err(Cause::ExpiredToken),
        _ => Ok(()),
    }
}
