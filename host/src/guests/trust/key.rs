//! Keys of signatures, in the files that `openssl` and `cosign` write: Ed25519 (RFC 8032) and ECDSA over P-256 with SHA-256.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::agreement::{self, ECDH_P256, EphemeralPrivateKey};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    UnparsedPublicKey,
};
use rustls::pki_types::pem::{PemObject, SectionKind};
use sha2::{Digest as _, Sha256};

/// What is before the key in a SubjectPublicKeyInfo: the algorithm Ed25519 (RFC 8410), and a bit string of 32 bytes.
const ED25519_INFO: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The same for a point on P-256 (RFC 5480), of 65 bytes.
const P256_INFO: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The first byte of a point that is not compressed.
const UNCOMPRESSED: u8 = 4;

/// The bytes of an Ed25519 signature (RFC 8032).
const ED25519_SIGNATURE: usize = 64;

/// The most bytes of an ECDSA signature over P-256 in DER: a sequence of two integers of up to 33 bytes.
const P256_SIGNATURE: usize = 72;

/// The tag of a sequence in DER.
const SEQUENCE: u8 = 0x30;

/// The key types that are supported, for messages.
const TYPES: &str = "Ed25519 and ECDSA P-256 are supported";

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    kind: KeyType,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyType {
    Ed25519,
    P256,
}

impl PublicKey {
    /// Reads all public keys of a PEM file.
    ///
    /// # Errors
    /// If there is none, or anything else than public keys of these types: what is not understood may be a key whose signatures an
    /// operator believes in, or one that was to be removed.
    pub fn read(pem: &[u8]) -> Result<Vec<Self>, String> {
        const BEGIN: &[u8] = b"-----BEGIN";
        let mut keys = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
            match section.map_err(|_| "it is not valid PEM".to_owned())? {
                (SectionKind::PublicKey, der) => keys.push(Self::of_info(&der)?),
                (SectionKind::PrivateKey | SectionKind::EcPrivateKey, _) => {
                    return Err("it has a private key; name the file with the public one".into());
                }
                (SectionKind::Certificate, _) => {
                    return Err("it has a certificate; write its key as `openssl x509 -pubkey -noout` prints it".into());
                }
                _ => return Err("it has something else than public keys; remove that".into()),
            }
        }
        // The parser skips sections with other labels, and those that do not begin their line.
        let sections = pem.windows(BEGIN.len()).filter(|window| *window == BEGIN).count();
        if sections != keys.len() {
            let read = keys.len();
            return Err(format!(
                "it has {sections} sections (PEM), and {read} of them can be read as public keys; each begins with \
                 `-----BEGIN PUBLIC KEY-----` at the beginning of its line, in a file without a byte order mark"
            ));
        }
        if keys.is_empty() { Err("it has no public key (PEM)".into()) } else { Ok(keys) }
    }

    fn of_info(der: &[u8]) -> Result<Self, String> {
        match (der.strip_prefix(ED25519_INFO), der.strip_prefix(P256_INFO)) {
            (Some(key), _) if key.len() == 32 => Ok(Self { kind: KeyType::Ed25519, bytes: key.to_owned() }),
            (_, Some(point)) if point.len() == 65 && point.first() == Some(&UNCOMPRESSED) => {
                if is_on_p256(point) {
                    Ok(Self { kind: KeyType::P256, bytes: point.to_owned() })
                } else {
                    Err("its key is not a point on the curve P-256".into())
                }
            }
            _ => Err(format!("it has a key of another type; {TYPES}")),
        }
    }

    /// The PEM file of the key.
    pub fn pem(&self) -> String {
        pem("PUBLIC KEY", &self.der())
    }

    /// The first 16 digits of the SHA-256 of the key in DER, as `openssl pkey -pubin -outform DER` writes it.
    pub fn fingerprint(&self) -> String {
        let digits: String = Sha256::digest(self.der()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{digits}")
    }

    fn der(&self) -> Vec<u8> {
        let info = match self.kind {
            KeyType::Ed25519 => ED25519_INFO,
            KeyType::P256 => P256_INFO,
        };
        [info, &self.bytes].concat()
    }

    /// Whether this is a signature over `content` by this key. DER is strict: no bytes after it, and no other form of a number. Both
    /// values of `s` are valid, as for `openssl` and `cosign`: a signature is not the name of anything, so a second one for the
    /// same file does no harm.
    pub fn verifies(&self, content: &[u8], signature: &[u8]) -> bool {
        // The digest of a large file costs more than all else, so it is not computed for signatures of another type.
        let verified = match self.kind {
            KeyType::Ed25519 if signature.len() != ED25519_SIGNATURE => return false,
            KeyType::P256 if signature.len() > P256_SIGNATURE || signature.first() != Some(&SEQUENCE) => return false,
            KeyType::Ed25519 => UnparsedPublicKey::new(&ED25519, &self.bytes).verify(content, signature),
            KeyType::P256 => UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.bytes).verify(content, signature),
        };
        verified.is_ok()
    }
}

/// Whether an uncompressed point is on the curve: only then there can be an agreement on a secret with its owner.
fn is_on_p256(point: &[u8]) -> bool {
    let secret = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new());
    secret.is_ok_and(|secret| {
        let peer = agreement::UnparsedPublicKey::new(&ECDH_P256, point);
        agreement::agree_ephemeral(secret, &peer, |_| ()).is_ok()
    })
}

/// A private key.
pub enum SigningKey {
    /// Ed25519.
    Ed25519(Ed25519KeyPair),
    /// ECDSA over P-256.
    P256(EcdsaKeyPair),
}

impl SigningKey {
    /// Makes a key of P-256, which every version of `cosign` can verify with. Returns its PEM file as well.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn new() -> Result<(Self, String), String> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        let document = document.map_err(|_| "the system has no random numbers".to_owned())?;
        Ok((Self::of_pkcs8(document.as_ref())?, pem("PRIVATE KEY", document.as_ref())))
    }

    /// Reads a PEM file with one private key in the form of PKCS #8.
    ///
    /// # Errors
    /// If there is none, or another kind of key, and the way out.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        if text.windows(9).any(|word| word == b"ENCRYPTED") {
            return Err(
                "its key is encrypted; decrypt it with `openssl pkey`, or use `cosign sign-blob --key` for keys \
                        of cosign"
                    .into(),
            );
        }
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
            match section.map_err(|_| "it is not valid PEM".to_owned())? {
                (SectionKind::PrivateKey, der) => return Self::of_pkcs8(&der),
                (SectionKind::EcPrivateKey, _) => {
                    return Err(
                        "its key is not in the form of PKCS #8; convert it with `openssl pkcs8 -topk8 -nodes`".into()
                    );
                }
                _ => {}
            }
        }
        Err("it has no private key (PEM)".into())
    }

    fn of_pkcs8(der: &[u8]) -> Result<Self, String> {
        // `openssl` writes Ed25519 without the public key, which is then computed.
        if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            return Ok(Self::Ed25519(key));
        }
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &SystemRandom::new());
        key.map(Self::P256).map_err(|_| format!("its key is of another type; {TYPES}"))
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        let (kind, bytes) = match self {
            Self::Ed25519(key) => (KeyType::Ed25519, key.public_key().as_ref()),
            Self::P256(key) => (KeyType::P256, key.public_key().as_ref()),
        };
        PublicKey { kind, bytes: bytes.to_owned() }
    }

    /// Signs `content`, as a file has the signature.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn sign(&self, content: &[u8]) -> Result<String, String> {
        Ok(match self {
            Self::Ed25519(key) => STANDARD.encode(key.sign(content)),
            Self::P256(key) => {
                let signed = key.sign(&SystemRandom::new(), content);
                STANDARD.encode(signed.map_err(|_| "the system has no random numbers".to_owned())?)
            }
        })
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut lines = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while let Some((line, after)) = rest.split_at_checked(64) {
        lines.push_str(line);
        lines.push('\n');
        rest = after;
    }
    if !rest.is_empty() {
        lines.push_str(rest);
        lines.push('\n');
    }
    lines.push_str(&format!("-----END {label}-----\n"));
    lines
}
