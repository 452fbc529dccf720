//! Files of certificates and keys (PEM), which other programs write.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::files;

/// The most bytes of a file.
const MOST_BYTES: u64 = 256 << 10;

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
    for certificate in chain(pem)? {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(roots)
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

/// Returns what the first certificate of a chain is for, and when the first one of the chain expires, in seconds since 1970.
///
/// # Errors
/// One line, if a certificate cannot be parsed.
pub fn describe(chain: &[CertificateDer<'_>]) -> Result<(CertificateNames, i64), String> {
    let mut names = CertificateNames::default();
    let mut not_after = i64::MAX;
    for (number, certificate) in chain.iter().enumerate() {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| format!("it is not X.509: {error}"))?;
        not_after = not_after.min(parsed.validity().not_after.timestamp());
        if number > 0 {
            continue;
        }
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
    Ok((names, not_after))
}
