//! Signatures of components: by whom a component is signed, and whether that is enough for its service.
//!
//! The scan verifies the signature over the same bytes from which it computes the digest, and everything after it (compilation, the
//! cache of machine code, unloading) goes by that digest. So what was verified is what is loaded.

pub mod key;
pub mod signature;

use std::sync::Arc;

use self::key::PublicKey;
use self::signature::Signature;
use lodge_base::config::Config;
use lodge_base::config::trust::{NamePattern, Trust, TrustedFile};
use lodge_base::files;
use lodge_base::key_changes::{KeyChange, KeyMarks};
use lodge_manifest::refusal::Refusal;

/// The most bytes of a file of keys.
pub const MAX_FILE: u64 = 64 << 10;

/// The most keys of all files. Those for a service are tried on every new component of it.
const MOST_KEYS: usize = 64;

/// The remedy for a component without a valid signature.
const SIGN: &str = "sign it, as with `lodge sign`, and put the signature beside it; what still serves keeps its manifest until \
                    then, except that `enabled = false` stops it";

/// The remedy for a signature that the host cannot read.
const READABLE: &str = "make the file one that the host can read";

/// Public keys, each with the services whose components it may sign.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TrustedKeys {
    keys: Vec<(PublicKey, Vec<NamePattern>)>,
    /// Why there are no keys of some files.
    missing: Vec<String>,
}

impl TrustedKeys {
    /// Reads the files. Blocking.
    ///
    /// # Errors
    /// The first file that cannot be read or has no key, and why.
    pub fn read(sources: &[TrustedFile]) -> Result<Self, String> {
        let (mut all, mut count) = (Self::default(), 0);
        for source in sources {
            let keys = read(source, count)?;
            count += keys.len();
            all.add(&keys, &source.services);
        }
        Ok(all)
    }

    fn add(&mut self, keys: &[PublicKey], services: &NamePattern) {
        for key in keys {
            match self.keys.iter_mut().find(|(known, _)| known == key) {
                Some((_, patterns)) => patterns.push(services.clone()),
                None => self.keys.push((key.clone(), vec![services.clone()])),
            }
        }
    }

    /// Checks whether `content`, a component of this service in `file`, has a signature by a key for the service. Tries no other
    /// keys, since each computes a digest of all of it.
    ///
    /// # Errors
    /// Why it has none.
    pub fn admits(&self, service: &str, file: &str, content: &[u8], signature: &Signature) -> Result<(), Refusal> {
        let refused = |reason: String, remedy: &str| {
            Err(Refusal::new(file, format!("{reason} ({file}{})", signature::ENDING), remedy))
        };
        let signatures = match signature {
            Signature::Bytes(signatures) => signatures,
            Signature::Absent => return refused("it has no signature".into(), SIGN),
            Signature::Unreadable(why) => return refused(format!("its signature cannot be read: {why}"), READABLE),
            Signature::Invalid(why) => return refused(format!("its signature is not valid: {why}"), SIGN),
        };
        let mut own =
            self.keys.iter().filter(|(_, services)| services.iter().any(|pattern| pattern.matches(service))).peekable();
        let has_keys = own.peek().is_some();
        if own.any(|(key, _)| signatures.iter().any(|signature| key.verifies(content, signature))) {
            return Ok(());
        }
        let keys = format!("the keys that `trust.keys` has for {service}");
        let reason = if has_keys {
            format!("its signature is not valid: it is by none of {keys}, or of another file")
        } else {
            format!("its signature is not valid: there are none of {keys}")
        };
        match self.missing.first() {
            Some(missing) => {
                let remedy =
                    "if the signature is by a key of that file, make it one with public keys that the host can read";
                refused(format!("{reason}; {missing}"), remedy)
            }
            None => refused(reason, SIGN),
        }
    }
}

/// Reads the keys of a file, where the other files have `others`.
fn read(source: &TrustedFile, others: usize) -> Result<Vec<PublicKey>, String> {
    // A relative path is relative to the working directory, which the message shows.
    let path = std::path::absolute(&source.path).unwrap_or_else(|_| source.path.clone());
    let begins = if source.path.is_relative() { "; a relative path begins at the working directory" } else { "" };
    let problem = |why: String| format!("trust.keys: {}: {why}{begins}", path.display());
    let content = files::read(&path, MAX_FILE).map_err(|error| problem(error.to_string()))?;
    let keys = PublicKey::read(&content).map_err(problem)?;
    if others + keys.len() > MOST_KEYS {
        return Err(problem(format!("more than {MOST_KEYS} keys in all files")));
    }
    Ok(keys)
}

/// The keys of `trust.keys`, read again at every scan.
#[derive(Debug, Default)]
pub struct LiveKeys {
    files: Vec<LiveFile>,
    current: Option<Arc<TrustedKeys>>,
    /// What has changed since this was taken.
    pub changes: Vec<KeyChange>,
}

/// A file of keys.
#[derive(Debug, Default)]
struct LiveFile {
    /// The keys that were read last.
    keys: Vec<PublicKey>,
    /// Why the file cannot be read now, which is logged once.
    problem: Option<String>,
}

impl LiveKeys {
    /// Reads the files, and returns the keys in force; `None` if components need no signature. A file that cannot be read keeps the
    /// keys that it had, and does not hold up changes of others. Blocking.
    pub fn refresh(&mut self, trust: &Trust) -> Option<Arc<TrustedKeys>> {
        if trust.keys.is_empty() {
            return None;
        }
        self.files.resize_with(trust.keys.len(), LiveFile::default);
        let mut count: usize = self.files.iter().map(|file| file.keys.len()).sum();
        let mut all = TrustedKeys::default();
        for (source, file) in trust.keys.iter().zip(&mut self.files) {
            let others = count.saturating_sub(file.keys.len());
            match read(source, others) {
                Ok(keys) => {
                    if self.current.is_some() {
                        self.changes.extend(KeyChange::between(&source.path, &marks(&file.keys), &marks(&keys)));
                    }
                    *file = LiveFile { keys, problem: None };
                }
                Err(problem) => {
                    if self.current.is_some() && file.problem.as_ref() != Some(&problem) {
                        let (left, services) = (file.keys.len(), &source.services);
                        tracing::error!(
                            "{problem}; {left} keys that it had, for {services}, stay trusted until it has others"
                        );
                    }
                    file.problem = Some(problem);
                }
            }
            count = others + file.keys.len();
            all.add(&file.keys, &source.services);
            all.missing.extend(file.problem.clone().filter(|_| file.keys.is_empty()));
        }
        if self.current.as_ref().is_none_or(|current| **current != all) {
            if self.current.is_some() {
                tracing::info!("the keys of trust.keys have changed; there are {}", all.keys.len());
            }
            self.current = Some(Arc::new(all));
        }
        self.current.clone()
    }
}

impl LiveKeys {
    /// Returns why files cannot be read now, a line each, with what is in force.
    pub fn problems(&self) -> Vec<String> {
        let said = |file: &LiveFile| {
            let (why, left) = (file.problem.as_ref()?, file.keys.len());
            let why = why.strip_prefix("trust.keys: ").unwrap_or(why);
            Some(format!("{why}; {left} keys that it had stay trusted, and the host will not start with it"))
        };
        self.files.iter().filter_map(said).collect()
    }
}

/// Returns the names of keys, which are all that files say of them.
fn marks(keys: &[PublicKey]) -> KeyMarks {
    keys.iter().map(|key| (key.fingerprint(), 0)).collect()
}

/// Returns why the keys cannot be used, for a host that is to start.
pub fn misconfigured(config: &Config) -> Option<String> {
    let misplaced = config.trust.keys.iter().find(|file| files::leads_through(&file.path, &config.guests));
    let misplaced = misplaced.map(|file| {
        format!(
            "trust.keys: {} is inside the guests directory, or a link to it is; move it to where only operators can write",
            file.path.display()
        )
    });
    misplaced.or_else(|| TrustedKeys::read(&config.trust.keys).err())
}

/// Returns whether components must be signed, as a line of the log.
pub fn described(trust: &Trust) -> String {
    match TrustedKeys::read(&trust.keys) {
        _ if trust.keys.is_empty() => "components need no signature, since trust.keys is not set".into(),
        Ok(trusted) => format!("components must be signed; keys of trust.keys: {}", trusted.keys.len()),
        Err(problem) => format!("components must be signed; {problem}"),
    }
}

#[cfg(test)]
mod tests;
