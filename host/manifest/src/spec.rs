//! The files of a service, and the names of services and versions.

use std::path::{Path, PathBuf};

use super::Manifest;
use super::digest::Digest;

/// A service or version as it is on disk. A comparable value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestSpec {
    /// The name of the file without `.wasm`; `service@label` for a version.
    pub name: String,
    /// The file in the directory that stands for it: the component or, if that is elsewhere, the manifest.
    pub path: PathBuf,
    /// The file of a component that is not at `path`: pulled from a registry, or not placed yet.
    pub content: Option<PathBuf>,
    /// The digest of the component.
    pub digest: Digest,
    /// Size of the component in bytes.
    pub size: u64,
    /// The manifest.
    pub manifest: Manifest,
}

impl GuestSpec {
    /// Returns the host under which the service gets every path, whatever its routes. `None` if a route has its own
    /// policies, which this host would bypass.
    pub fn host(&self) -> Option<String> {
        (!self.manifest.policies.has_routes()).then(|| host_of(&self.name))
    }

    /// Returns the file of the component.
    pub fn component(&self) -> &Path {
        self.content.as_deref().unwrap_or(&self.path)
    }

    /// Returns the service of a version and the version's label; `None` for a service.
    pub fn version_of(&self) -> Option<(&str, &str)> {
        let (service, label) = split(&self.name);
        Some((service, label?))
    }
}

/// Splits the name of a version: `users@2` into `users` and `2`.
pub fn split(name: &str) -> (&str, Option<&str>) {
    name.split_once('@').map_or((name, None), |(service, label)| (service, Some(label)))
}

/// Returns the host of the service `name`, `<service>.localhost`, or of a version, `<label>.<service>.localhost`. Host
/// names have no `_`, so it becomes `-`.
pub fn host_of(name: &str) -> String {
    let (service, label) = split(name);
    let label = label.map_or(String::new(), |label| format!("{label}."));
    format!("{label}{service}.localhost").replace('_', "-").to_ascii_lowercase()
}

/// Whether this is a valid label of a version: a name that may also contain dots, such as `1.4.2`.
pub fn is_label(label: &str) -> bool {
    is_name(&label.replace('.', "-")) && !label.ends_with('.')
}

/// Whether this is a valid service name: 1 to 63 letters, digits, `-` and `_`, of which the first is a letter or digit.
pub fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=63).contains(&name.len())
        && name.bytes().all(plain)
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
}
