//! The keys of an issuer: a JWK Set (RFC 7517 5).
//!
//! A key decides which algorithms may be used with it, by its type and its `alg`. What a token says of its algorithm only
//! chooses among these, so that no key is used in a way that it was not made for.

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use serde_json::{Map, Value};

use super::json;
use super::token::SignedToken;
use crate::auth::denial::Cause;
use lodge_base::ids::hash_of;
use lodge_base::key_changes::KeyMarks;
use lodge_manifest::auth::jwt::{ALGORITHMS, Algorithm};

/// The most bytes of a set.
pub const MOST_BYTES: usize = 256 << 10;

/// The most keys of a set.
const MOST_KEYS: usize = 100;

/// The most keys of one name that are tried for a token.
const MOST_TRIES: usize = 4;

/// The bits of an RSA modulus.
const MODULUS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The keys of an issuer.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
    /// Differs for sets that differ.
    mark: u64,
    /// Until when they may be used; `None` for ever.
    until: Option<Instant>,
}

#[derive(Debug)]
struct Key {
    kid: Option<String>,
    /// The only algorithm for which it may be used, if it says so.
    only: Option<Algorithm>,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl KeySet {
    /// Returns a set without keys, with which nothing can be verified.
    pub fn none(now: Instant) -> Self {
        Self { keys: Vec::new(), mark: 0, until: Some(now) }
    }

    /// Reads a set. Keys that are not for signatures, and kinds of keys that are not known, are left out. A set without any other
    /// key is valid: the issuer has withdrawn all of them.
    ///
    /// # Errors
    /// One line, if it is not a set, or has a private key.
    pub fn read(text: &str) -> Result<Self, String> {
        let set = json::object(text.as_bytes()).ok_or("it is not a JSON object, or has a name twice")?;
        let Some(Value::Array(all)) = set.get("keys") else {
            return Err("it is not a JWK Set: it has no list `keys`".into());
        };
        if all.len() > MOST_KEYS {
            return Err(format!("{} keys are more than {MOST_KEYS}", all.len()));
        }
        let mut keys = Vec::new();
        for (number, key) in all.iter().enumerate() {
            let fields = key.as_object().ok_or_else(|| format!("key {number} is not an object"))?;
            if fields.contains_key("d") {
                return Err(format!("key {number} is a private key; write only public keys into the file"));
            }
            keys.extend(Key::read(fields));
        }
        Ok(Self { keys, mark: hash_of(text.as_bytes()), until: None })
    }

    /// Returns the set, which may be used until this time.
    pub fn until(self, until: Instant) -> Self {
        Self { until: Some(until), ..self }
    }

    /// Whether it may be used at this time.
    pub fn is_usable(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// Returns a number that differs for sets that differ.
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// Returns the number of keys.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Returns the names of the keys: `kid`, or a number.
    pub fn marks(&self) -> KeyMarks {
        let mut marks = KeyMarks::new();
        for (number, key) in self.keys.iter().enumerate() {
            let name = key.kid.clone().unwrap_or_else(|| format!("number {number}"));
            // Several keys may have the same name.
            *marks.entry(name).or_default() ^= hash_of(format!("{:?} {:?}", key.only, key.material).as_bytes());
        }
        marks
    }

    /// Verifies the signature of a token with the key that it names. Without a name, there must be only one key that fits.
    pub(super) fn verify(&self, token: &SignedToken<'_>) -> Result<(), Cause> {
        let fits = |key: &&Key| key.allows(token.algorithm) && (token.kid.is_none() || key.kid == token.kid);
        let named = |key: &Key| token.kid.is_some() && key.kid == token.kid;
        let keys: Vec<_> = self.keys.iter().filter(fits).take(MOST_TRIES).collect();
        match keys.len() {
            0 if self.keys.iter().any(named) => Err(Cause::Algorithm),
            0 => Err(Cause::UnknownKid),
            1.. if token.kid.is_none() && keys.len() > 1 => Err(Cause::UnknownKid),
            _ if keys.iter().any(|key| key.material.verify(token)) => Ok(()),
            _ => Err(Cause::Signature),
        }
    }
}

impl Key {
    /// Reads a key; `None` if it cannot be used for signatures.
    fn read(fields: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        if let Some(Value::Array(operations)) = fields.get("key_ops")
            && !operations.iter().any(|operation| operation == "verify")
        {
            return None;
        }
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        // An uncompressed point (SEC 1 2.3.3).
        let point = |size: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == size && y.len() == size).then(|| [&[4][..], &x, &y].concat())
        };
        let material = match (text("kty")?, text("crv")) {
            ("RSA", _) => {
                let number = |bytes: Vec<u8>| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
                let (modulus, exponent) = (number(bytes("n")?), number(bytes("e")?));
                let bits = modulus.len() * 8 - modulus.first().map_or(0, |first| first.leading_zeros() as usize);
                (MODULUS.contains(&bits) && exponent.len() <= 5).then_some(Material::Rsa { modulus, exponent })?
            }
            ("EC", Some("P-256")) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x").filter(|x| x.len() == 32)?),
            _ => return None,
        };
        let only = match text("alg") {
            None => None,
            Some(name) => Some(ALGORITHMS.iter().find(|(known, _)| *known == name)?.1),
        };
        let key = Self { kid: text("kid").map(str::to_owned), only, material };
        // A key for an algorithm that it cannot be used with is of no use.
        only.is_none_or(|only| key.allows(only)).then_some(key)
    }

    fn allows(&self, algorithm: Algorithm) -> bool {
        use Algorithm::{EdDsa, Es256, Es384, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        let of_its_kind = match self.material {
            Material::Rsa { .. } => matches!(algorithm, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512),
            Material::P256(_) => algorithm == Es256,
            Material::P384(_) => algorithm == Es384,
            Material::Ed25519(_) => algorithm == EdDsa,
        };
        of_its_kind && self.only.is_none_or(|only| only == algorithm)
    }
}

impl Material {
    /// Whether the signature of a token is right. ECDSA signatures have the fixed form of RFC 7518 3.4, and no other.
    fn verify(&self, token: &SignedToken<'_>) -> bool {
        let with = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(token.signed, &token.signature).is_ok()
        };
        match self {
            Self::P256(key) => with(&signature::ECDSA_P256_SHA256_FIXED, key),
            Self::P384(key) => with(&signature::ECDSA_P384_SHA384_FIXED, key),
            Self::Ed25519(key) => with(&signature::ED25519, key),
            Self::Rsa { modulus, exponent } => {
                let Some(parameters) = rsa(token.algorithm) else { return false };
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(parameters, token.signed, &token.signature).is_ok()
            }
        }
    }
}

fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_strictly() {
        let check = |text: &str, expected: &str| {
            let problem = KeySet::read(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        };
        let [x, y] = [7_u8, 9].map(|byte| URL_SAFE_NO_PAD.encode([byte; 32]));
        let point = format!("\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"{x}\",\"y\":\"{y}\"");
        let set = |keys: &str| format!("{{\"keys\":[{keys}]}}");
        assert_eq!(KeySet::read(&set(&format!("{{{point}}}"))).unwrap().count(), 1);
        check("", "it is not a JSON object");
        check("[]", "it is not a JSON object");
        check("{\"keys\":[],\"keys\":[]}", "or has a name twice");
        check("{}", "it has no list `keys`");
        assert_eq!(KeySet::read("{\"keys\":[]}").unwrap().count(), 0, "the issuer has withdrawn all");
        check(&set("7"), "key 0 is not an object");
        check(&set(&format!("{{{point},\"d\":\"AQ\"}}")), "key 0 is a private key");
        for unfit in [
            "\"kty\":\"oct\",\"k\":\"AQAB\"".to_owned(),
            point.replace("P-256", "P-384"),
            point.replace("P-256", "secp256k1"),
            point.replace(&*y, &URL_SAFE_NO_PAD.encode([9; 31])),
            format!("{point},\"use\":\"enc\""),
            format!("{point},\"key_ops\":[\"sign\"]"),
            format!("{point},\"alg\":\"RS256\""),
            format!("{point},\"alg\":\"HS256\""),
            format!("\"kty\":\"RSA\",\"n\":\"{}\",\"e\":\"AQAB\"", URL_SAFE_NO_PAD.encode([0xff; 128])),
            format!("\"kty\":\"RSA\",\"n\":\"{}\",\"e\":\"AQAB\"", URL_SAFE_NO_PAD.encode([0xff; 1025])),
            "\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AQ\"".to_owned(),
        ] {
            assert_eq!(KeySet::read(&set(&format!("{{{unfit}}}"))).unwrap().count(), 0, "{unfit}");
        }
        let many = vec![format!("{{{point}}}"); MOST_KEYS + 1].join(",");
        check(&set(&many), "101 keys are more than 100");
    }
}
