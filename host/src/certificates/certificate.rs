//! A certificate with its chain and its key.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The most certificates of a chain or of the authorities in a file.
const MOST_CHAIN: usize = 1_000;

/// The time before its expiry from which a certificate is warned of at the start.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// A usable certificate.
pub(super) struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    /// DNS names in lower case; of a wildcard, `*.` and the rest.
    pub(super) names: Vec<String>,
    /// When it begins to be valid, in seconds since 1970.
    pub(super) not_before: i64,
    /// When the chain expires, in seconds since 1970.
    pub(super) not_after: i64,
}

impl Certificate {
    /// Checks a chain and its key, which may be in one text.
    pub(super) fn new(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain = read_chain(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("its key is not PEM: {error}"))?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(|error| format!("its key is of an unknown kind: {error}"))?;
        let (names, not_before, not_after) = describe(&chain)?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => return Err("its key belongs to another certificate".into()),
        }
        Ok(Self { key: Arc::new(key), names, not_before, not_after })
    }

    /// Logs what clients will object to.
    pub(super) fn warn(&self, file: &str, now: SystemTime) {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = self.not_after.saturating_sub(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        // One that is only valid for days is renewed by a program.
        let soon = left.unsigned_abs() < SOON.as_secs()
            && self.not_after.saturating_sub(self.not_before).unsigned_abs() > 2 * SOON.as_secs();
        if left <= 0 {
            tracing::warn!("certificate {file} has expired, so clients refuse it; renew it");
        } else if soon {
            tracing::warn!("certificate {file} expires in {} hours; renew it", left / 3_600);
        }
        if self.names.is_empty() {
            tracing::warn!("certificate {file} has no DNS name, so clients that use a name refuse it");
        }
    }
}

/// Returns the certificates in a PEM text, at least one.
///
/// # Errors
/// One line.
pub fn read_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).take(MOST_CHAIN).collect();
    let chain = chain.map_err(|error| format!("it is not PEM: {error}"))?;
    if chain.is_empty() { Err("it contains no certificate (BEGIN CERTIFICATE)".into()) } else { Ok(chain) }
}

/// Returns the DNS names of the first certificate, when it begins to be valid, and when the chain expires.
fn describe(chain: &[CertificateDer<'_>]) -> Result<(Vec<String>, i64, i64), String> {
    let mut names = Vec::new();
    let (mut not_before, mut not_after) = (0, i64::MAX);
    for (number, certificate) in chain.iter().enumerate() {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| format!("it is not X.509: {error}"))?;
        not_after = not_after.min(parsed.validity().not_after.timestamp());
        if number > 0 {
            continue;
        }
        not_before = parsed.validity().not_before.timestamp();
        let subject = parsed.subject_alternative_name().map_err(|error| format!("its names are not valid: {error}"))?;
        for name in subject.iter().flat_map(|names| &names.value.general_names) {
            if let GeneralName::DNSName(name) = name {
                names.push(name.to_ascii_lowercase());
            }
        }
    }
    Ok((names, not_before, not_after))
}
