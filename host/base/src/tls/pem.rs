//! Files of certificates and keys (PEM), which other programs write.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::files;

/// The most bytes of a file: that of a system with its own authorities has 0.3 MB.
const MOST_BYTES: u64 = 1 << 20;

/// The most certificates of a chain or of the authorities in a file.
const MOST_CHAIN: usize = 1_000;

/// Reads a file of certificates or keys.
///
/// # Errors
/// One line with the path.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    files::read(path, MOST_BYTES).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

/// Returns the certificates in a PEM text, at least one.
///
/// # Errors
/// One line.
pub fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).take(MOST_CHAIN).collect();
    let chain = chain.map_err(|error| format!("it is not PEM: {error}"))?;
    if chain.is_empty() { Err("it contains no certificate (BEGIN CERTIFICATE)".into()) } else { Ok(chain) }
}

/// Returns the authorities in a PEM text, at least one.
///
/// # Errors
/// One line.
pub fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    add_authorities(&mut roots, pem)?;
    Ok(roots)
}

/// Adds the authorities in a PEM text, at least one.
///
/// # Errors
/// One line.
pub fn add_authorities(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), String> {
    for certificate in chain(pem)? {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Returns a chain with the key in a PEM text, which must fit.
///
/// # Errors
/// One line.
pub fn certified(chain: Vec<CertificateDer<'static>>, key: &[u8]) -> Result<CertifiedKey, String> {
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("its key is not PEM: {error}"))?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key)
        .map_err(|error| format!("its key is of an unknown kind: {error}"))?;
    let key = CertifiedKey::new(chain, key);
    match key.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(key),
        Err(_) => Err("its key belongs to another certificate".into()),
    }
}

/// What a certificate is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateNames {
    /// Its subject, for people.
    pub subject: String,
    /// The DNS names that it is for.
    pub dns: Vec<String>,
    /// The URIs that it is for, such as SPIFFE ids.
    pub uris: Vec<String>,
}

/// What a chain says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainDescription {
    /// What its first certificate is for.
    pub names: CertificateNames,
    /// When its first certificate begins to be valid, in seconds since 1970.
    pub not_before: i64,
    /// When the first one of the chain expires, in seconds since 1970.
    pub not_after: i64,
}

/// Returns what a chain says of itself.
///
/// # Errors
/// One line, if a certificate cannot be parsed.
pub fn describe(chain: &[CertificateDer<'_>]) -> Result<ChainDescription, String> {
    let mut names = CertificateNames::default();
    let (mut not_before, mut not_after) = (0, i64::MAX);
    for (number, certificate) in chain.iter().enumerate() {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| format!("it is not X.509: {error}"))?;
        not_after = not_after.min(parsed.validity().not_after.timestamp());
        if number > 0 {
            continue;
        }
        not_before = parsed.validity().not_before.timestamp();
        names.subject = parsed.subject().to_string();
        let subject = parsed.subject_alternative_name().map_err(|error| format!("its names are not valid: {error}"))?;
        for name in subject.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
                GeneralName::URI(uri) => names.uris.push((*uri).to_owned()),
                _ => {}
            }
        }
    }
    Ok(ChainDescription { names, not_before, not_after })
}
