//! A scan of the directory: every `*.wasm` is a [`GuestSpec`] or a [`Refusal`].
//!
//! A scan reads whole files to hash them, but compiles nothing and keeps no bytes of components. Its result is true at
//! the time of the scan; [`compile`](lodge_runtime::compile) checks the digest again when it reads the file. A manifest
//! only takes effect when it has settled (`settle`); until then the previous one applies.

mod file;
mod in_directory;
mod in_front;
mod in_registry;
pub mod scanner;
mod settle;

use std::collections::BTreeMap;
use std::time::Duration;

pub use self::file::{MANIFEST, is_component};
pub use self::settle::{PLACED, SETTLE};
pub use crate::guests::scan::scanner::{Scanner, pinned};
use lodge_base::key_changes::KeyChange;
use lodge_manifest::Manifest;
use lodge_manifest::refusal::Refusal;
pub use lodge_manifest::refusal::file_name;
use lodge_manifest::spec::GuestSpec;

/// A service in a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScannedService {
    /// The state of its files.
    pub state: FileState,
    /// The manifest of files that are refused or pulled, or what could be read of it: what it restricts does not depend on the rest.
    pub manifest: Option<Box<Manifest>>,
    /// Its files have not changed for [`SETTLE`]. Otherwise they may be half written.
    pub settled: bool,
    /// Its component was written or touched since the last scan, without a change.
    pub touched: bool,
    /// It has no manifest, and this is not the first scan: a manifest may follow its component.
    pub bare: bool,
    /// The manifest of the service, if it is missing or empty.
    pub blank: Option<String>,
    /// How long the manifest may still turn out to be the first part of another.
    pub unsure: Duration,
    /// A problem that leaves its files as good as they are, such as that of a registry.
    pub trouble: Option<Refusal>,
}

impl ScannedService {
    /// Complete files in this state, which nobody has touched.
    pub(super) fn of(state: FileState) -> Self {
        let (settled, touched, bare, unsure) = (true, false, false, Duration::ZERO);
        Self { state, manifest: None, settled, touched, bare, blank: None, unsure, trouble: None }
    }
}

/// The result of a scan.
#[derive(Debug, Default)]
pub struct Scan {
    /// The services by name.
    pub found: BTreeMap<String, ScannedService>,
    /// The names of files that look like components or manifests, but are neither.
    pub ignored: Vec<String>,
    /// When to scan again even without an event, because files that are being written may be complete by then.
    pub again: Option<Duration>,
    /// The changes of `trust.keys` since the last scan.
    pub keys: Vec<KeyChange>,
    /// Why files of `trust.keys` cannot be read now.
    pub key_problems: Vec<String>,
}

/// The state of a service's files.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one per file, and most of them are ready")]
pub enum FileState {
    /// Files that can be compiled.
    Ready(GuestSpec),
    /// Files that cannot.
    Refused(Refusal),
    /// A manifest without a component: not a service, and probably a mistake.
    Orphan(Refusal),
    /// A manifest that disables the service.
    Disabled,
    /// The manifest, or that of the service, is changing: what is served stays, and what is new waits.
    Changing,
    /// The component is being pulled from a registry: what is served stays.
    Pulling,
}

/// The reason of a manifest without a component.
pub(super) const NO_COMPONENT: &str = "it has no component";

#[cfg(test)]
mod tests;
