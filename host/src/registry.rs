//! Components in registries (OCI Distribution Specification), as the CNCF describes WebAssembly artifacts.
//!
//! [`client`] sends requests: with TLS unless a setting says otherwise, with credentials only to the registry itself, and with
//! bounds on size, time and redirects. [`pull`] and [`push`] move components, [`content`] keeps those that were pulled,
//! and [`follow`] pulls what manifests name, again and again. What arrives is only used if its digest is right.

pub mod artifact;
mod authorization;
pub mod client;
pub mod content;
mod credentials;
mod destination;
mod exchange;
pub mod follow;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod partial;
pub mod pull;
pub mod push;
mod record;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

pub use self::authorization::Access;
pub use self::partial::PartialFile;

/// Why an exchange with a registry has failed: one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryError {
    why: String,
    /// The time after which the registry wants the next request.
    after: Option<Duration>,
    /// Whether there is no space left for files.
    is_full: bool,
}

impl RegistryError {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), after: None, is_full: false }
    }

    fn of_file(path: &Path, error: &io::Error) -> Self {
        let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        Self { is_full, ..Self::new(format!("{}: {error}", path.display())) }
    }

    /// Returns the time after which the registry wants the next request, if it says one.
    pub fn after(&self) -> Option<Duration> {
        self.after
    }
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}
