//! The proofs that an authority looks for while it decides whether a name is this host's.
//!
//! A proof exists only while an order is in progress, and is found only by exactly its token or its name.

use std::sync::{Arc, Mutex};

use std::time::Duration;

use bytes::Bytes;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::ORDER;
use super::failure::OrderFailure;
use super::shared::SharedFiles;
use lodge_base::config::acme::AcmeChallenge;
use lodge_base::lock::lock;

/// Where the path of a proof over HTTP begins (RFC 8555 8.3).
pub const PATH: &str = "/.well-known/acme-challenge/";

/// The protocol of a proof in a handshake (RFC 8737).
pub const PROTOCOL: &[u8] = b"acme-tls/1";

/// The most bytes of a token: they have 43, and 22 at least.
const MOST_TOKEN: usize = 256;

/// The most bytes of what proves a name: the token, a dot, and a digest.
const MOST_AUTHORIZATION: usize = MOST_TOKEN + 64;

/// The name under which hosts share the proofs of the order in progress.
const SHARED: &str = "proofs";

/// The most proofs of an order: a certificate has no more names.
const MOST_SHARED: usize = 100;

/// How often a host looks for the proofs of others.
const LOOK: Duration = Duration::from_secs(2);

/// The time after which all hosts have found a proof.
const SEEN: Duration = Duration::from_secs(5);

/// The proofs of the orders in progress.
#[derive(Debug, Default)]
pub struct Proofs(Mutex<Vec<Arc<Proof>>>);

/// A proof.
#[derive(Debug)]
pub(super) enum Proof {
    /// The response to a request whose path ends with the token.
    Http { token: String, response: Bytes },
    /// The certificate of a handshake for this name.
    Tls { name: String, certificate: Arc<CertifiedKey> },
}

/// What a proof is made of.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct ProofText {
    /// The name that is proven.
    pub(super) name: String,
    pub(super) token: String,
    /// The token and the digest of the account's key.
    pub(super) authorization: String,
}

/// Where an authority may look for proofs.
#[derive(Clone, Copy)]
pub(super) struct ProofPlaces<'a> {
    /// This host.
    pub(super) own: &'a Proofs,
    /// The other hosts.
    pub(super) shared: Option<&'a SharedFiles>,
}

/// Proofs that are found until this is dropped.
pub(super) struct PublishedProofs<'a> {
    proofs: &'a Proofs,
    published: Vec<Arc<Proof>>,
}

impl Proof {
    /// Creates the proof for a challenge of the authority, which is not trusted to be well-formed.
    ///
    /// # Errors
    /// One line.
    pub(super) fn new(challenge: AcmeChallenge, text: &ProofText) -> Result<Self, String> {
        let ProofText { name, token, authorization } = text;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if token.is_empty() || token.len() > MOST_TOKEN || !token.bytes().all(plain) {
            return Err(format!("the token of the authority for {name} is not base64url, or too long"));
        }
        if authorization.len() > MOST_AUTHORIZATION {
            return Err(format!("the proof of {name} is too long"));
        }
        Ok(match challenge {
            AcmeChallenge::Http01 => Self::Http { token: token.clone(), response: Bytes::from(authorization.clone()) },
            AcmeChallenge::TlsAlpn01 => {
                let digest = ring::digest::digest(&ring::digest::SHA256, authorization.as_bytes());
                let certificate = certificate(name, digest.as_ref())?;
                Self::Tls { name: name.to_ascii_lowercase(), certificate: Arc::new(certificate) }
            }
        })
    }
}

/// Returns the certificate that proves a name: it has this name, and the digest in an extension (RFC 8737 3).
fn certificate(name: &str, digest: &[u8]) -> Result<CertifiedKey, String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot make the certificate that proves {name}: {error}");
    if digest.len() != 32 {
        return Err(failed(&"the digest is not that of SHA-256"));
    }
    let mut params = CertificateParams::new([name.to_owned()]).map_err(|error| failed(&error))?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate().map_err(|error| failed(&error))?;
    let certificate = params.self_signed(&key).map_err(|error| failed(&error))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|error| failed(&error))?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

impl Proofs {
    /// Lets clients find these proofs, until the result is dropped.
    pub(super) fn publish(&self, proofs: Vec<Proof>) -> PublishedProofs<'_> {
        let published: Vec<_> = proofs.into_iter().map(Arc::new).collect();
        lock(&self.0).extend(published.iter().cloned());
        PublishedProofs { proofs: self, published }
    }

    /// Lets clients find the proofs of other hosts as well, which one of them shows for an order of its own. Never returns.
    pub(super) async fn follow(&self, challenge: AcmeChallenge, shared: &SharedFiles) {
        let (mut known, mut published, mut told) = (Vec::new(), None, false);
        loop {
            match shared.read(SHARED).await {
                Ok(found) => {
                    let found = found.unwrap_or_default();
                    if found != known {
                        drop(published.take());
                        published = Some(self.publish(read(challenge, &found)));
                        known = found;
                    }
                    told = false;
                }
                Err(OrderFailure { why, .. }) if !told => {
                    tracing::warn!("an authority that asks this host finds no proofs of others: {why}");
                    told = true;
                }
                Err(_) => {}
            }
            sleep(LOOK).await;
        }
    }

    /// Returns the response to a request for this path; `None` if it is not that of a proof.
    pub fn response(&self, path: &str) -> Option<Bytes> {
        let wanted = path.strip_prefix(PATH)?;
        lock(&self.0).iter().find_map(|proof| match &**proof {
            Proof::Http { token, response } if token == wanted => Some(response.clone()),
            _ => None,
        })
    }

    /// Returns the certificate that proves this name.
    fn named(&self, wanted: &str) -> Option<Arc<CertifiedKey>> {
        lock(&self.0).iter().find_map(|proof| match &**proof {
            Proof::Tls { name, certificate } if name.eq_ignore_ascii_case(wanted) => Some(Arc::clone(certificate)),
            _ => None,
        })
    }
}

/// For handshakes of [`PROTOCOL`] only.
impl ResolvesServerCert for Proofs {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.named(hello.server_name()?)
    }
}

/// Shows proofs to the other hosts, and waits until they have found them.
///
/// # Errors
/// If the server cannot be used: the authority may ask any of them.
pub(super) async fn show(shared: &SharedFiles, proofs: &[ProofText]) -> Result<(), OrderFailure> {
    let text = serde_json::to_vec(proofs).map_err(OrderFailure::unusable)?;
    shared.write(SHARED, &text, Some(ORDER)).await?;
    sleep(SEEN).await;
    Ok(())
}

/// Takes the proofs back from the other hosts.
///
/// # Errors
/// If the server cannot be used. They expire by themselves.
pub(super) async fn take_back(shared: &SharedFiles) -> Result<(), OrderFailure> {
    shared.write(SHARED, b"[]", Some(ORDER)).await
}

/// Returns the proofs in a text of another host; none if it is damaged.
fn read(challenge: AcmeChallenge, text: &[u8]) -> Vec<Proof> {
    let texts = serde_json::from_slice::<Vec<ProofText>>(text).unwrap_or_default();
    texts.iter().take(MOST_SHARED).filter_map(|text| Proof::new(challenge, text).ok()).collect()
}

/// Whether a client offers [`PROTOCOL`] and nothing else, as an authority does (RFC 8737 3).
pub fn wants_proof(hello: &ClientHello<'_>) -> bool {
    let mut protocols = hello.alpn().into_iter().flatten();
    protocols.next() == Some(PROTOCOL) && protocols.next().is_none()
}

impl Drop for PublishedProofs<'_> {
    fn drop(&mut self) {
        lock(&self.proofs.0).retain(|proof| !self.published.iter().any(|own| Arc::ptr_eq(own, proof)));
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    /// Nothing but the exact token or name of a proof finds it, and nothing once its order has ended.
    #[test]
    fn proofs_are_found_while_they_are_published() {
        let proofs = Proofs::default();
        let http = |token: &str| Proof::Http { token: token.into(), response: Bytes::from(format!("{token}.x")) };
        let tls =
            |name: &str| Proof::Tls { name: name.into(), certificate: Arc::new(certificate(name, &[7; 32]).unwrap()) };
        let published = proofs.publish(vec![http("abc"), tls("a.test")]);
        let other = proofs.publish(vec![http("def")]);
        assert_eq!(proofs.response("/.well-known/acme-challenge/abc").as_deref(), Some(&b"abc.x"[..]));
        assert_eq!(proofs.response("/.well-known/acme-challenge/def").as_deref(), Some(&b"def.x"[..]));
        for path in [
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/ab",
            "/abc",
            "/.well-known/acme-challenge/abc/",
        ] {
            assert_eq!(proofs.response(path), None, "{path}");
        }
        assert!(proofs.named("A.test").is_some() && proofs.named("b.test").is_none() && proofs.named("abc").is_none());
        drop(published);
        assert!(proofs.named("a.test").is_none());
        assert_eq!(proofs.response("/.well-known/acme-challenge/abc"), None);
        assert!(proofs.response("/.well-known/acme-challenge/def").is_some(), "the order of this one goes on");
        drop(other);
        assert!(lock(&proofs.0).is_empty());
    }

    /// The extension is critical, and has the digest as an octet string.
    #[test]
    fn the_certificate_of_a_proof() {
        let made = certificate("a.test", &[9; 32]).unwrap();
        let (_, parsed) = X509Certificate::from_der(&made.cert[0]).unwrap();
        let extension =
            parsed.extensions().iter().find(|found| found.oid.to_id_string() == "1.3.6.1.5.5.7.1.31").unwrap();
        assert!(extension.critical);
        assert_eq!(extension.value, [&[4, 32][..], &[9; 32]].concat());
        assert!(certificate("a.test", &[9; 31]).is_err());
    }
}
