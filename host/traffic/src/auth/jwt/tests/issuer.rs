//! An issuer of tokens, good and bad ones.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents};
use serde_json::{Value, json};

pub(super) const ISSUER: &str = "https://issuer.example";

/// The time of the tests, in seconds since 1970.
pub(super) const NOW: u64 = 1_800_000_000;

pub(super) const CLAIMS: &str =
    r#"{"iss":"https://issuer.example","aud":"users","sub":"ann","exp":1800000600,"scope":"a b"}"#;

/// The private key is used by tests only. Keys of RSA cannot be generated here.
const RSA: &[u8] = include_bytes!("rsa.pk8");

pub(super) struct Issuer {
    random: SystemRandom,
    es256: (EcdsaKeyPair, EcdsaKeyPair),
    es384: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    rsa: RsaKeyPair,
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Issuer {
    pub(super) fn new() -> Self {
        let random = SystemRandom::new();
        let fixed = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(fixed, &random).unwrap();
        let pair = |algorithm| EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
        let es256 = (pair(fixed), pair(&signature::ECDSA_P256_SHA256_ASN1_SIGNING));
        let wide = &signature::ECDSA_P384_SHA384_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(wide, &random).unwrap();
        let es384 = EcdsaKeyPair::from_pkcs8(wide, document.as_ref(), &random).unwrap();
        let ed = Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&random).unwrap().as_ref()).unwrap();
        Self { es256, es384, ed, rsa: RsaKeyPair::from_pkcs8(RSA).unwrap(), random }
    }

    /// The name of the key for an algorithm.
    pub(super) fn kid(&self, algorithm: &str) -> &'static str {
        match algorithm {
            "ES256" => "es256",
            "ES384" => "es384",
            "EdDSA" => "ed",
            _ => "rsa",
        }
    }

    fn rsa_key(&self, kid: &str) -> Value {
        let public = RsaPublicKeyComponents::<Vec<u8>>::from(self.rsa.public());
        json!({ "kty": "RSA", "kid": kid, "n": encode(public.n), "e": encode(public.e), "use": "sig" })
    }

    /// The public keys, of which one is for PS256 only, with others that are not for signatures.
    pub(super) fn jwks(&self) -> String {
        let point = |key: &EcdsaKeyPair, crv: &str, kid: &str| {
            let public = key.public_key().as_ref();
            let (x, y) = public[1..].split_at(public.len() / 2);
            json!({ "kty": "EC", "crv": crv, "kid": kid, "x": encode(x), "y": encode(y) })
        };
        let mut only = self.rsa_key("only-ps256");
        only["alg"] = "PS256".into();
        let ed = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": encode(self.ed.public_key()) });
        let mut encryption = self.rsa_key("encryption");
        encryption["use"] = "enc".into();
        let secret = json!({ "kty": "oct", "kid": "secret", "k": encode([7; 32]), "alg": "HS256" });
        let [p256, p384] = [point(&self.es256.0, "P-256", "es256"), point(&self.es384, "P-384", "es384")];
        json!({ "keys": [p256, p384, ed, self.rsa_key("rsa"), only, encryption, secret] }).to_string()
    }

    /// The public keys as an attacker might use them for a secret.
    pub(super) fn public_keys(&self) -> Vec<Vec<u8>> {
        let components = RsaPublicKeyComponents::<Vec<u8>>::from(self.rsa.public());
        let der = self.rsa.public().as_ref().to_vec();
        let set = self.jwks().into_bytes();
        vec![components.n, der, self.es256.0.public_key().as_ref().to_vec(), set, Vec::new(), vec![7; 32]]
    }

    /// A token of this header and these claims, signed by this algorithm whatever the header says.
    pub(super) fn sign(&self, algorithm: &str, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", encode(header), encode(claims));
        let rsa = |encoding: &'static dyn RsaEncoding| {
            let mut signature = vec![0; self.rsa.public().modulus_len()];
            self.rsa.sign(encoding, &self.random, signed.as_bytes(), &mut signature).unwrap();
            signature
        };
        let signature = match algorithm {
            "RS256" => rsa(&signature::RSA_PKCS1_SHA256),
            "RS384" => rsa(&signature::RSA_PKCS1_SHA384),
            "RS512" => rsa(&signature::RSA_PKCS1_SHA512),
            "PS256" => rsa(&signature::RSA_PSS_SHA256),
            "PS384" => rsa(&signature::RSA_PSS_SHA384),
            "PS512" => rsa(&signature::RSA_PSS_SHA512),
            "ES256" => self.es256.0.sign(&self.random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            "ES384" => self.es384.sign(&self.random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            _ => self.ed.sign(signed.as_bytes()).as_ref().to_vec(),
        };
        format!("{signed}.{}", encode(signature))
    }

    pub(super) fn es256(&self, claims: &str) -> String {
        self.sign("ES256", "{\"alg\":\"ES256\",\"kid\":\"es256\"}", claims)
    }

    /// The signature of P-256 in the form of ASN.1.
    pub(super) fn der(&self, signed: &str) -> Vec<u8> {
        self.es256.1.sign(&self.random, signed.as_bytes()).unwrap().as_ref().to_vec()
    }

    /// A token with the HMAC by this secret in place of a signature.
    pub(super) fn hmac(&self, secret: &[u8], header: &str) -> String {
        let signed = format!("{}.{}", encode(header), encode(CLAIMS));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        format!("{signed}.{}", encode(ring::hmac::sign(&key, signed.as_bytes())))
    }
}
