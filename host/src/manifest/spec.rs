//! What is on disk of a service, and how services and their versions are named.

use std::path::PathBuf;

use super::Manifest;
use super::digest::Digest;

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

impl GuestSpec {
    /// The host whose every path is the service's, whatever its routes: host names have no `_`. None where a route
    /// has policies of its own, which nobody must go around.
    pub fn host(&self) -> Option<String> {
        (!self.manifest.policies.has_routes()).then(|| host_of(&self.name))
    }

    /// The service of which this is a version, and the version's label; `None` for the service itself.
    pub fn version_of(&self) -> Option<(&str, &str)> {
        let (service, label) = split(&self.name);
        Some((service, label?))
    }
}

/// `users@2` is version `2` of `users`.
pub fn split(name: &str) -> (&str, Option<&str>) {
    name.split_once('@').map_or((name, None), |(service, label)| (service, Some(label)))
}

/// The host whose every path is the service `name`'s; of a version of it, its label goes before.
pub fn host_of(name: &str) -> String {
    let (service, label) = split(name);
    let label = label.map_or(String::new(), |label| format!("{label}."));
    format!("{label}{service}.localhost").replace('_', "-").to_ascii_lowercase()
}

/// A version's label may be a number such as `1.4.2`.
pub fn is_label(label: &str) -> bool {
    is_name(&label.replace('.', "-")) && !label.ends_with('.')
}

/// Whether this can be the name of a service: letters, digits, `-` and `_`, at most 63.
pub fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=63).contains(&name.len())
        && name.bytes().all(plain)
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
}
