//! Signatures of components: by whom a component is signed, and whether that is enough for its service.
//!
//! The scan verifies the signature over the same bytes from which it computes the digest, and everything after it (compilation, the
//! cache of machine code, unloading) goes by that digest. So what was verified is what is loaded.

pub mod key;
pub mod signature;

use std::sync::Arc;

use self::key::PublicKey;
use self::signature::Signature;
use lodge_base::config::trust::{NamePattern, Trust, TrustedFile};
use lodge_base::files;
use lodge_manifest::refusal::Refusal;

/// The most bytes of a file of keys.
pub const MAX_FILE: u64 = 64 << 10;

/// The most keys of all files. Each is tried on every new component.
const MOST_KEYS: usize = 64;

/// The remedy for a component without a valid signature.
const SIGN: &str = "sign it, as with `lodge sign`, and put the signature beside it";

/// Public keys, each with the services whose components it may sign.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TrustedKeys {
    keys: Vec<(PublicKey, Vec<NamePattern>)>,
    /// Why there are none.
    unreadable: Option<String>,
}

/// Whose signature a component has: the services that the key is for, or why the signature is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer(Result<Vec<NamePattern>, String>);

impl TrustedKeys {
    /// Reads the files. Blocking.
    ///
    /// # Errors
    /// The first file that cannot be read or has no key, and why.
    pub fn read(sources: &[TrustedFile]) -> Result<Self, String> {
        let mut keys: Vec<(PublicKey, Vec<NamePattern>)> = Vec::new();
        for TrustedFile { services, path } in sources {
            let problem = |why: String| format!("trust.keys: {}: {why}", path.display());
            let content = files::read(path, MAX_FILE).map_err(|error| problem(error.to_string()))?;
            for key in PublicKey::read(&content).map_err(problem)? {
                match keys.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, patterns)) => patterns.push(services.clone()),
                    None => keys.push((key, vec![services.clone()])),
                }
            }
            if keys.len() > MOST_KEYS {
                return Err(problem(format!("more than {MOST_KEYS} keys in all files")));
            }
        }
        Ok(Self { keys, unreadable: None })
    }

    /// Returns whose signature this is.
    pub fn signer(&self, content: &[u8], signature: &Signature) -> Signer {
        if let Some(problem) = &self.unreadable {
            return Signer(Err(problem.clone()));
        }
        let bytes = match signature {
            Signature::Bytes(bytes) => bytes,
            Signature::Absent => return Signer(Err("it has no signature".into())),
            Signature::Invalid(why) => return Signer(Err(format!("its signature is not valid: {why}"))),
        };
        let by = self.keys.iter().find(|(key, _)| key.verifies(content, bytes));
        Signer(by.map(|(_, services)| services.clone()).ok_or_else(|| {
            "its signature is not valid: it is by none of the keys of `trust.keys`, or of another file".into()
        }))
    }
}

impl Signer {
    /// Checks whether the signature is enough for a component of this service in `file`.
    ///
    /// # Errors
    /// Why it is not.
    pub fn admits(&self, service: &str, file: &str) -> Result<(), Refusal> {
        match &self.0 {
            Ok(services) if services.iter().any(|pattern| pattern.matches(service)) => Ok(()),
            Ok(services) => {
                let services: Vec<_> = services.iter().map(ToString::to_string).collect();
                let reason =
                    format!("its key is for {} only, by `trust.keys`, and not for {service}", services.join(", "));
                Err(Refusal::new(file, reason, "sign it with a key for this service"))
            }
            Err(reason) => Err(Refusal::new(file, format!("{reason} ({file}{})", signature::ENDING), SIGN)),
        }
    }
}

/// The keys of `trust.keys`, read again at every scan.
#[derive(Debug, Default)]
pub struct LiveKeys {
    current: Option<Arc<TrustedKeys>>,
    /// Why the files cannot be read, which is logged once.
    problem: Option<String>,
}

impl LiveKeys {
    /// Reads the files, and returns the keys in force; `None` if components need no signature. Files that cannot be read do not
    /// replace keys. Blocking.
    pub fn refresh(&mut self, trust: &Trust) -> Option<Arc<TrustedKeys>> {
        if trust.keys.is_empty() {
            return None;
        }
        let known = self.current.as_ref().filter(|keys| keys.unreadable.is_none());
        match TrustedKeys::read(&trust.keys) {
            Ok(keys) => {
                self.problem = None;
                if known.is_none_or(|known| **known != keys) {
                    if known.is_some() {
                        tracing::info!("the keys of trust.keys have changed; there are {}", keys.keys.len());
                    }
                    self.current = Some(Arc::new(keys));
                }
            }
            Err(problem) => {
                if known.is_some() && self.problem.as_ref() != Some(&problem) {
                    tracing::error!("{problem}; the keys that were read before stay in force");
                }
                if known.is_none() {
                    let unreadable = Some(problem.clone());
                    self.current = Some(Arc::new(TrustedKeys { keys: Vec::new(), unreadable }));
                }
                self.problem = Some(problem);
            }
        }
        self.current.clone()
    }
}

/// Returns why the keys cannot be used, for a host that is to start.
pub fn misconfigured(trust: &Trust) -> Option<String> {
    TrustedKeys::read(&trust.keys).err()
}

#[cfg(test)]
mod tests;
