//! The files of a service, and the names of services and versions.

use std::path::{Path, PathBuf};

use super::Manifest;
use super::digest::Digest;
use super::guards::Openness;
use super::policies::PolicySettings;
use super::route::Route;

pub use super::name::{is_label, is_name, split};

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
    /// The components in front of it, the outermost first.
    pub middleware: Vec<Middleware>,
    /// The manifest.
    pub manifest: Manifest,
}

/// The file of a component in front of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Middleware {
    /// The file.
    pub path: PathBuf,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// The routes of a service, with that of its host.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceRoutes {
    /// The routes of the manifest in its order, and then that of the host, if it has one.
    pub routes: Vec<Route>,
    /// Whose requests each of these routes takes.
    pub openness: Vec<Openness>,
    /// Whether every request of the service is under policies.
    pub guarded: bool,
}

impl ServiceRoutes {
    /// Returns all routes of the service `name` with this manifest, whatever its other files are.
    pub fn of(name: &str, manifest: &Manifest) -> Self {
        let host = own_host(name, manifest).map(|host| manifest.host_route(host));
        let guarded = manifest.partial || manifest.policies.service != PolicySettings::default();
        let numbers = (0..manifest.routes.len()).map(Some).chain(host.is_some().then_some(None));
        let openness = numbers.map(|number| manifest.openness(number)).collect();
        Self { routes: manifest.routes.iter().cloned().chain(host).collect(), openness, guarded }
    }
}

impl GuestSpec {
    /// Returns all routes of the service.
    pub fn all_routes(&self) -> ServiceRoutes {
        ServiceRoutes::of(&self.name, &self.manifest)
    }

    /// Returns the digest of all that is executed: that of the component or, with middleware, one of all parts in their order.
    pub fn code_digest(&self) -> Digest {
        if self.middleware.is_empty() {
            return self.digest;
        }
        Digest::of_all(self.middleware.iter().map(|part| part.digest).chain([self.digest]))
    }

    /// Returns the parts of a composition, the outermost first, each as a component by itself.
    pub fn parts(&self) -> Vec<Self> {
        let part = |Middleware { path, digest, size }: &Middleware| {
            let (path, digest, size) = (path.clone(), *digest, *size);
            Self { path, content: None, digest, size, middleware: Vec::new(), ..self.clone() }
        };
        let service = Self { middleware: Vec::new(), ..self.clone() };
        self.middleware.iter().map(part).chain([service]).collect()
    }

    /// Returns the host under which the service gets every path, whatever its routes. `None` if a route has its own
    /// policies, which this host would bypass.
    pub fn host(&self) -> Option<String> {
        own_host(&self.name, &self.manifest)
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

/// Returns the host of a service with this manifest, as [`GuestSpec::host`].
fn own_host(name: &str, manifest: &Manifest) -> Option<String> {
    (!manifest.policies.has_routes()).then(|| host_of(name))
}

/// Returns the host of the service `name`, `<service>.localhost`, or of a version, `<label>.<service>.localhost`. Host
/// names have no `_`, so it becomes `-`.
pub fn host_of(name: &str) -> String {
    let (service, label) = split(name);
    let label = label.map_or(String::new(), |label| format!("{label}."));
    format!("{label}{service}.localhost").replace('_', "-").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The host of a service has what its routes have, whatever section that is from.
    #[test]
    fn the_host_has_what_routes_have() {
        let text = "routes = '/*'\ncache = true\ncors.origins = '*'\nheaders.security = true\ncompress = { min_size = '0B' }\n\
                    errors.pages = { 404 = '404.html' }";
        for text in [text, ""] {
            let manifest = crate::tests::read(text).unwrap();
            let (path, digest) = ("users.toml".into(), Digest::of(b""));
            let spec = GuestSpec {
                name: "users".into(),
                path,
                content: None,
                digest,
                size: 1,
                middleware: Vec::new(),
                manifest,
            };
            let all = spec.all_routes();
            let [own, host] = &*all.routes else { panic!("{all:?}") };
            let expected = Route { host: host.host.clone(), path: host.path.clone(), named: true, ..own.clone() };
            assert_eq!((host, host.host.as_deref()), (&expected, Some("users.localhost")));
            assert_eq!([own.cache.is_some(), own.errors.is_some(), own.cors.is_some()], [!text.is_empty(); 3]);
        }
    }
}
