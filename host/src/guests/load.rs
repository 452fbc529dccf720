//! One scan of the directory: every `*.wasm` is a [`GuestSpec`] or a [`Refusal`].
//!
//! Reads files whole to hash them, compiles nothing and keeps no bytes of components. What a scan says of a component is
//! true of the moment it looked; [`compile`](super::compile) checks the digest again when it reads the file. A manifest
//! is taken once it is whole (`settle`): until then a service goes on by the one before.

mod file;
mod scan;
mod settle;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use self::file::{MANIFEST, file_name, is_component, read};
pub use self::scan::{Scanner, pinned};
pub use self::settle::{PLACED, SETTLE};
use super::digest::Digest;
use super::manifest::Manifest;

/// What is on disk of a service: a comparable value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestSpec {
    /// Its name: the file's, without `.wasm`. A version's is `service@label`.
    pub name: String,
    /// Where the component is.
    pub path: PathBuf,
    /// What the component is.
    pub digest: Digest,
    /// Size of the component in bytes.
    pub size: u64,
    /// How it wants to be served.
    pub manifest: Manifest,
}

/// A file that is not served: which, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The file, as it is named in the directory.
    pub file: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to do.
    pub remedy: String,
    /// It may pass without the file being changed, so it is worth another try.
    pub passing: bool,
    /// The end of what its build has said.
    pub output: Option<Arc<str>>,
}

/// A service as a scan found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What there is of it.
    pub state: State,
    /// Its files have not changed for [`SETTLE`]; otherwise they may be half written.
    pub settled: bool,
    /// Its component was written or touched since the last scan, and is what it was.
    pub touched: bool,
    /// It has no manifest, and this is not the first scan: one may follow its component.
    pub bare: bool,
}

/// All services as a scan found them.
#[derive(Debug, Default)]
pub struct Scan {
    /// By name.
    pub found: BTreeMap<String, Found>,
    /// Files that look like components or manifests and are neither, by their names.
    pub ignored: Vec<String>,
    /// When to scan again although nothing may have happened: what is being written may be whole by then.
    pub again: Option<Duration>,
}

/// What there is of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one per file, and most of them are ready")]
pub enum State {
    /// Files that can be compiled.
    Ready(GuestSpec),
    /// Files that cannot.
    Refused(Refusal),
    /// A manifest without a component: no service, and probably a mistake.
    Orphan(Refusal),
    /// A manifest that says that there is no service.
    Disabled,
    /// Its manifest, or its service's, is changing: what serves goes on, and what is new waits.
    Changing,
}

/// What is wrong with a manifest alone.
pub(super) const NO_COMPONENT: &str = "it has no component";

impl GuestSpec {
    /// The host whose every path is the service's, whatever its routes: host names have no `_`. None where a route
    /// has policies of its own, which nobody must go around.
    pub fn host(&self) -> Option<String> {
        (!self.manifest.terms.has_routes()).then(|| host_of(&self.name))
    }

    /// The service of which this is a version, and the version's label; `None` for the service itself.
    pub fn version_of(&self) -> Option<(&str, &str)> {
        let (service, label) = split(&self.name);
        Some((service, label?))
    }
}

/// `users@2` is version `2` of `users`.
fn split(name: &str) -> (&str, Option<&str>) {
    name.split_once('@').map_or((name, None), |(service, label)| (service, Some(label)))
}

/// The host whose every path is the service `name`'s; of a version of it, its label goes before.
pub fn host_of(name: &str) -> String {
    let (service, label) = split(name);
    let label = label.map_or(String::new(), |label| format!("{label}."));
    format!("{label}{service}.localhost").replace('_', "-").to_ascii_lowercase()
}

impl Refusal {
    /// A refusal of `file`.
    pub fn new(file: &str, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { file: file.to_owned(), reason: reason.into(), remedy: remedy.into(), passing: false, output: None }
    }

    /// One that may pass by itself.
    #[must_use]
    pub fn passing(self) -> Self {
        Self { passing: true, ..self }
    }
}

/// A version's label may be a number such as `1.4.2`.
fn is_label(label: &str) -> bool {
    is_name(&label.replace('.', "-")) && !label.ends_with('.')
}

/// Whether this can be the name of a service: letters, digits, `-` and `_`, at most 63.
pub fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=63).contains(&name.len())
        && name.bytes().all(plain)
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.file, self.reason, self.remedy)
    }
}

#[cfg(test)]
mod tests;
