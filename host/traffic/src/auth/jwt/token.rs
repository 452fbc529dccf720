//! A token in its parts: the JWS Compact Serialization (RFC 7515 7.1), before anything of it is verified.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::json;
use crate::auth::denial::Cause;
use lodge_manifest::auth::jwt::{ALGORITHMS, Algorithm};

/// The most bytes of a token.
const MOST: usize = 8 << 10;

/// The most bytes of the name of a key.
const MOST_KID: usize = 256;

/// Parameters that change what the signature covers or what the payload is. None of them is supported, and a token with
/// one must not be read as if it had none.
const UNSUPPORTED: [&str; 5] = ["crit", "b64", "zip", "enc", "cty"];

/// The types of tokens that give access: a token for another purpose must not be used for this one (RFC 8725 3.11).
const TYPES: [&str; 2] = ["jwt", ACCESS];

/// The type of tokens that only give access.
const ACCESS: &str = "at+jwt";

/// A token.
pub(super) struct SignedToken<'a> {
    /// The algorithm that its header names.
    pub(super) algorithm: Algorithm,
    /// The name of the key that its header names. Keys in the header, and URLs of keys, are not looked at.
    pub(super) kid: Option<String>,
    /// Whether its type is that of tokens that give access (RFC 9068).
    pub(super) gives_access: bool,
    /// The bytes that are signed.
    pub(super) signed: &'a [u8],
    /// The claims as they are written.
    pub(super) payload: &'a str,
    /// The signature.
    pub(super) signature: Vec<u8>,
}

impl<'a> SignedToken<'a> {
    /// Takes a token apart.
    pub(super) fn parse(token: &'a [u8]) -> Result<Self, Cause> {
        if token.len() > MOST {
            return Err(Cause::TooLong);
        }
        let token = std::str::from_utf8(token).map_err(|_| Cause::Malformed)?;
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Cause::Malformed);
        };
        if payload.is_empty() {
            return Err(Cause::Malformed);
        }
        let fields = json::object(&decode(header)?).ok_or(Cause::Malformed)?;
        let algorithm = algorithm(&fields)?;
        let signature = decode(signature)?;
        let kind = kind(&fields)?;
        if UNSUPPORTED.iter().any(|name| fields.contains_key(*name)) {
            return Err(Cause::Malformed);
        }
        let kid = match fields.get("kid") {
            None => None,
            Some(Value::String(kid)) if (1..=MOST_KID).contains(&kid.len()) => Some(kid.clone()),
            Some(_) => return Err(Cause::Malformed),
        };
        // The end of the payload is that of what is signed.
        let signed = token.as_bytes().get(..header.len() + 1 + payload.len()).unwrap_or_default();
        Ok(Self { algorithm, kid, gives_access: kind == Some(ACCESS), signed, payload, signature })
    }

    /// Returns the claims.
    pub(super) fn claims(&self) -> Result<Map<String, Value>, Cause> {
        json::object(&decode(self.payload)?).ok_or(Cause::Malformed)
    }
}

/// Decodes base64url without padding, in its only spelling.
fn decode(part: &str) -> Result<Vec<u8>, Cause> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Cause::Malformed)?;
    if bytes.is_empty() { Err(Cause::Malformed) } else { Ok(bytes) }
}

fn algorithm(fields: &Map<String, Value>) -> Result<Algorithm, Cause> {
    let Some(Value::String(name)) = fields.get("alg") else { return Err(Cause::Malformed) };
    let known = ALGORITHMS.iter().find(|(known, _)| known == name);
    known.map(|(_, algorithm)| *algorithm).ok_or(Cause::Algorithm)
}

/// Returns the type of a token, if it has one.
fn kind(fields: &Map<String, Value>) -> Result<Option<&'static str>, Cause> {
    match fields.get("typ") {
        None => Ok(None),
        Some(Value::String(kind)) => {
            let kind = kind.to_ascii_lowercase();
            let kind = kind.strip_prefix("application/").unwrap_or(&kind);
            TYPES.into_iter().find(|known| *known == kind).map(Some).ok_or(Cause::Malformed)
        }
        Some(_) => Err(Cause::Malformed),
    }
}
