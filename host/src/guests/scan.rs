//! One scan of the directory: every `*.wasm` is a [`GuestSpec`] or a [`Refusal`].
//!
//! Reads files whole to hash them, compiles nothing and keeps no bytes of components. What a scan says of a component is
//! true of the moment it looked; [`compile`](lodge_runtime::compile) checks the digest again when it reads the file. A manifest
//! is taken once it is whole (`settle`): until then a service goes on by the one before.

mod file;
pub mod scanner;
mod settle;

use std::collections::BTreeMap;
use std::time::Duration;

pub use self::file::{MANIFEST, is_component};
pub use self::settle::{PLACED, SETTLE};
pub use crate::guests::scan::scanner::{Scanner, pinned};
use lodge_manifest::refusal::Refusal;
pub use lodge_manifest::refusal::file_name;
use lodge_manifest::spec::GuestSpec;

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

#[cfg(test)]
mod tests;
