//! The certificates of the host, and which of them a client gets.
//!
//! A certificate and its key are a pair of files. A pair replaces the one before only if it is complete and fits: a program that
//! renews certificates writes two files, and a handshake between the two must not fail. A pair whose files are gone stays for
//! some seconds, since some programs delete a file before they write the new one.
//!
//! `acme` gets certificates from an authority and writes them to files, from which they are read like all others.

pub mod acme;
mod certificate;
pub mod local;
mod pairs;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use self::certificate::Certificate;
use self::pairs::{Pair, PairStamp};
use lodge_base::lock::lock;

/// The most bytes of a file.
const MOST_BYTES: u64 = 256 << 10;

/// The number of looks without its files after which a certificate is out of use.
const GONE: u32 = 10;

/// All certificates of a host.
pub struct Certificates {
    sources: Vec<PathBuf>,
    /// Files that `acme` writes, which need not exist.
    issued: Vec<PathBuf>,
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

/// What handshakes use.
#[derive(Default)]
struct Serving {
    /// Certificates by DNS name, in the order of their files: one per kind of key, and newer ones for the same name.
    names: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// All certificates, in the order of the configuration. The first is for clients that name no host, or an unknown one.
    all: Vec<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Reads all certificates in these files and directories, and those in the files `issued`, which need not exist yet: without any
    /// certificate, handshakes fail.
    ///
    /// # Errors
    /// One line, if none of them can be used, and none will be issued.
    pub fn new(sources: Vec<PathBuf>, issued: Vec<PathBuf>) -> Result<Self, String> {
        let (known, problems, serving) = Default::default();
        let this = Self { sources, issued, known, problems, serving };
        let problems = this.look(SystemTime::now());
        if this.serving.load().all.is_empty() && this.issued.is_empty() {
            let why = problems.first().map_or("there is no certificate", String::as_str);
            return Err(format!("tls.certificates: {why}"));
        }
        Ok(this)
    }

    /// Reads what has changed, logs what cannot be used once, and returns it.
    pub fn look(&self, now: SystemTime) -> Vec<String> {
        let (mut pairs, mut problems) = pairs::find(&self.sources);
        pairs.extend(self.issued.iter().filter(|file| file.is_file()).map(|file| Pair::in_one(file)));
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
    pub fn expiries(&self) -> Vec<CertificateExpiry> {
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
                tracing::info!("certificate {file} for {} is in use", certificate.shown());
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

#[cfg(test)]
mod tests;
