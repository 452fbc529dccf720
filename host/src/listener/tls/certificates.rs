//! The certificates of the host, and which of them a client gets.
//!
//! A certificate and its key are a pair of files. A pair replaces the one before only if it is complete and fits: a program that
//! renews certificates writes two files, and a handshake between the two must not fail. A pair whose files are gone stays for
//! [`GONE`] looks, since some programs delete a file before they write the new one.

mod pairs;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use self::pairs::{Pair, PairStamp};
use lodge_base::files;
use lodge_base::lock::lock;

/// The most bytes of a file.
const MOST_BYTES: u64 = 256 << 10;

/// The most certificates of a chain or of the authorities in a file.
const MOST_CHAIN: usize = 1_000;

/// The number of looks without its files after which a certificate is out of use.
const GONE: u32 = 10;

/// The time before its expiry from which a certificate is warned of at the start.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// All certificates of a host.
pub(super) struct Certificates {
    sources: Vec<PathBuf>,
    known: Mutex<BTreeMap<PathBuf, KnownPair>>,
    /// What was wrong with the sources at the last look.
    problems: Mutex<Vec<String>>,
    serving: ArcSwap<Serving>,
}

/// When a certificate expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateExpiry {
    /// The path of its file.
    pub file: String,
    /// Seconds since 1970.
    pub at: i64,
}

/// What is known of a pair of files.
#[derive(Default)]
struct KnownPair {
    stamp: Option<PairStamp>,
    /// The last good content.
    good: Option<Arc<Certificate>>,
    /// Why the present content cannot be used.
    problem: Option<String>,
    /// Looks since the files were seen last.
    missing: u32,
}

/// A usable certificate.
struct Certificate {
    key: Arc<CertifiedKey>,
    /// DNS names in lower case; of a wildcard, `*.` and the rest.
    names: Vec<String>,
    /// Seconds since 1970.
    not_after: i64,
}

/// What handshakes use.
#[derive(Default)]
struct Serving {
    /// Certificates by DNS name, in the order of their files: one per kind of key, and newer ones for the same name.
    names: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// All certificates, in the order of the configuration. The first is for clients that name no host, or an unknown one.
    all: Vec<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Reads all certificates in these files and directories.
    ///
    /// # Errors
    /// One line, if none of them can be used.
    pub(super) fn new(sources: Vec<PathBuf>) -> Result<Self, String> {
        let this = Self { sources, known: Mutex::default(), problems: Mutex::default(), serving: ArcSwap::default() };
        let problems = this.look(SystemTime::now());
        if this.serving.load().all.is_empty() {
            let why = problems.first().map_or("there is no certificate", String::as_str);
            return Err(format!("tls.certificates: {why}"));
        }
        Ok(this)
    }

    /// Reads what has changed, logs what cannot be used once, and returns it.
    pub(super) fn look(&self, now: SystemTime) -> Vec<String> {
        let (pairs, mut problems) = pairs::find(&self.sources);
        let before = std::mem::replace(&mut *lock(&self.problems), problems.clone());
        for problem in problems.iter().filter(|problem| !before.contains(problem)) {
            tracing::warn!("tls.certificates: {problem}");
        }
        let mut known = lock(&self.known);
        let mut changed = false;
        for entry in known.values_mut() {
            entry.missing += 1;
        }
        for pair in &pairs {
            let entry = known.entry(pair.certificate.clone()).or_default();
            entry.missing = 0;
            changed |= entry.look(pair, now);
        }
        let gone = |entry: &KnownPair| entry.missing >= GONE || (entry.missing > 0 && entry.good.is_none());
        // The last certificate stays: without one, no handshake succeeds.
        if known.values().any(|entry| entry.good.is_some() && !gone(entry)) {
            let before = known.len();
            known.retain(|_, entry| !gone(entry));
            changed |= known.len() != before;
        }
        problems.extend(known.iter().filter_map(|(file, entry)| {
            entry.problem.as_ref().map(|problem| format!("{}: {problem}", file.display()))
        }));
        if changed {
            let mut order: Vec<_> = pairs.iter().map(|pair| &pair.certificate).collect();
            order.extend(known.keys().filter(|file| !pairs.iter().any(|pair| pair.certificate == **file)));
            let good = order.into_iter().filter_map(|file| known.get(file)?.good.as_ref());
            self.serving.store(Arc::new(Serving::new(good)));
        }
        problems
    }

    /// Returns when each certificate expires.
    pub(super) fn expiries(&self) -> Vec<CertificateExpiry> {
        let known = lock(&self.known);
        let good = known.iter().filter_map(|(file, entry)| Some((file, entry.good.as_ref()?)));
        good.map(|(file, good)| CertificateExpiry { file: file.display().to_string(), at: good.not_after }).collect()
    }
}

impl KnownPair {
    /// Reads the pair if it has changed, and returns whether there is a new certificate.
    fn look(&mut self, pair: &Pair, now: SystemTime) -> bool {
        let stamp = pair.stamp();
        if stamp.is_some() && stamp == self.stamp {
            return false;
        }
        self.stamp = stamp;
        let file = pair.certificate.display();
        match pair.read() {
            Ok(certificate) => {
                tracing::info!("certificate {file} for {} is in use", certificate.names.join(", "));
                certificate.warn(&file.to_string(), now);
                self.good = Some(Arc::new(certificate));
                self.problem = None;
                true
            }
            Err(problem) => {
                if self.problem.as_ref() != Some(&problem) {
                    let kept = if self.good.is_some() { "; the one before stays in use" } else { "" };
                    tracing::warn!("certificate {file} cannot be used: {problem}{kept}");
                }
                self.problem = Some(problem);
                false
            }
        }
    }
}

impl Certificate {
    /// Checks a chain and its key.
    fn new(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain = read_chain(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("its key is not PEM: {error}"))?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(|error| format!("its key is of an unknown kind: {error}"))?;
        let (names, not_after) = describe(&chain)?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => return Err("its key belongs to another certificate".into()),
        }
        Ok(Self { key: Arc::new(key), names, not_after })
    }

    /// Logs what clients will object to.
    fn warn(&self, file: &str, now: SystemTime) {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = self.not_after.saturating_sub(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        if left <= 0 {
            tracing::warn!("certificate {file} has expired, so clients refuse it; renew it");
        } else if left.unsigned_abs() < SOON.as_secs() {
            tracing::warn!("certificate {file} expires in {} hours; renew it", left / 3_600);
        }
        if self.names.is_empty() {
            tracing::warn!("certificate {file} has no DNS name, so clients that use a name refuse it");
        }
    }
}

impl Serving {
    fn new<'a>(certificates: impl Iterator<Item = &'a Arc<Certificate>>) -> Self {
        let mut serving = Self::default();
        for certificate in certificates {
            for name in &certificate.names {
                serving.names.entry(name.clone()).or_default().push(Arc::clone(&certificate.key));
            }
            serving.all.push(Arc::clone(&certificate.key));
        }
        serving
    }

    /// Returns the certificates for a DNS name. A wildcard covers one label (RFC 9525 6.3).
    fn named(&self, name: &str) -> Option<&Vec<Arc<CertifiedKey>>> {
        let name = name.to_ascii_lowercase();
        let wildcard = || self.names.get(&format!("*.{}", name.split_once('.')?.1));
        self.names.get(&name).or_else(wildcard)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let serving = self.serving.load();
        let named = hello.server_name().and_then(|name| serving.named(name));
        let usable = |keys: &Vec<Arc<CertifiedKey>>| {
            keys.iter().find(|key| key.key.choose_scheme(hello.signature_schemes()).is_some()).cloned()
        };
        named.and_then(usable).or_else(|| usable(&serving.all))
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").field("sources", &self.sources).finish_non_exhaustive()
    }
}

/// Reads a file of certificates or keys.
///
/// # Errors
/// One line with the path.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    files::read(path, MOST_BYTES).map_err(|error: io::Error| format!("{} cannot be read: {error}", path.display()))
}

/// Returns the certificates in a PEM text, at least one.
///
/// # Errors
/// One line.
pub(super) fn read_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).take(MOST_CHAIN).collect();
    let chain = chain.map_err(|error| format!("it is not PEM: {error}"))?;
    if chain.is_empty() { Err("it contains no certificate (BEGIN CERTIFICATE)".into()) } else { Ok(chain) }
}

/// Returns the DNS names of the first certificate, and when the chain expires.
fn describe(chain: &[CertificateDer<'_>]) -> Result<(Vec<String>, i64), String> {
    let mut names = Vec::new();
    let mut not_after = i64::MAX;
    for (number, certificate) in chain.iter().enumerate() {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| format!("it is not X.509: {error}"))?;
        not_after = not_after.min(parsed.validity().not_after.timestamp());
        if number > 0 {
            continue;
        }
        let subject = parsed.subject_alternative_name().map_err(|error| format!("its names are not valid: {error}"))?;
        for name in subject.iter().flat_map(|names| &names.value.general_names) {
            if let GeneralName::DNSName(name) = name {
                names.push(name.to_ascii_lowercase());
            }
        }
    }
    Ok((names, not_after))
}

#[cfg(test)]
mod tests;
