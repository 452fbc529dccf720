//! `lodge dev`: builds the guests of a directory from source, and rebuilds them when their sources change.
//!
//! The host serves the components as they appear. It knows about builds only to show them. When a build fails, the
//! component of the last successful one stays.

mod build;
mod tee;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::notice;
use crate::certificates::local::LocalCertificate;
use crate::guests::builds::Builds;
use crate::guests::scan::MANIFEST;
use crate::guests::watch::DirectoryWatch;
use lodge_base::config::{Config, keys};
use lodge_base::files;
use lodge_manifest::build::Build;
use lodge_manifest::spec::{host_of, is_label, is_name, split};

/// Directories that hold no sources: output of builds, and files of tools.
const NOT_SOURCES: [&str; 3] = ["target", "node_modules", "__pycache__"];

/// The directory below that of the services whose crates are built into it: components in front of services, and no services.
const MIDDLEWARE: &str = "middleware";

/// The interval of checks for changed sources without file events.
const POLL: Duration = Duration::from_secs(1);

/// The guests of a directory that have sources.
pub(super) struct Projects {
    directory: PathBuf,
    /// By source directory.
    known: BTreeMap<PathBuf, Project>,
    /// The builds that the host shows.
    builds: Arc<Builds>,
}

struct Project {
    recipe: Recipe,
    /// Source files outside of the source directory, as reported by the last build.
    outside: Vec<PathBuf>,
    /// The state of the sources when the last build began.
    built: Sources,
}

#[derive(Clone, PartialEq)]
enum Recipe {
    Cargo,
    /// A crate of a component that is no service.
    Middleware,
    Command {
        command: String,
        component: PathBuf,
    },
}

/// Prepares HTTPS at `address`, if there is one, with a certificate for this machine. Returns the directory of that.
///
/// # Errors
/// One line.
pub(super) fn https(config: &mut Config, address: Option<&String>) -> Result<Option<PathBuf>, String> {
    let Some(address) = address else { return Ok(None) };
    let listen = keys::address(address).map_err(|expected| format!("--https: {expected}"))?;
    let directory = config.guests.join(".lodge").join("https");
    let local = LocalCertificate::prepare(&directory, &host_names(&config.guests), SystemTime::now())?;
    let listen = *config.tls.listen.get_or_insert(listen);
    config.tls.certificates.push(local.certificate);
    let authority = local.authority.display();
    notice(&format!(
        "HTTPS with a certificate for localhost: curl --cacert {authority} https://localhost:{}/",
        listen.port()
    ));
    Ok(Some(directory))
}

/// Returns the host names of the services in a directory, in order: those that are built, and those that are there.
pub(super) fn host_names(directory: &Path) -> Vec<String> {
    let mut names = BTreeSet::new();
    names.extend(find(directory).unwrap_or_default().iter().filter_map(|(source, recipe)| recipe.service(source)));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "wasm" || extension == "toml") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    let is_service = |name: &&String| {
        let (service, label) = split(name);
        is_name(service) && label.is_none_or(is_label)
    };
    let hosts: BTreeSet<_> = names.iter().filter(is_service).map(|name| host_of(name)).collect();
    hosts.into_iter().collect()
}

impl Recipe {
    /// Returns the name of the service that the build makes.
    fn service(&self, source: &Path) -> Option<String> {
        (*self != Self::Middleware).then(|| self.component(source))
    }

    /// Returns the name of the component. For a crate, that is the name of its library.
    fn component(&self, source: &Path) -> String {
        match self {
            Self::Cargo | Self::Middleware => {
                let manifest = fs::read_to_string(source.join("Cargo.toml")).unwrap_or_default();
                let table: toml::Table = manifest.parse().unwrap_or_default();
                let name = |section: &str| table.get(section)?.get("name")?.as_str().map(str::to_owned);
                let directory = || source.file_name().unwrap_or_default().to_string_lossy().into_owned();
                name("lib").or_else(|| name("package")).unwrap_or_else(directory).replace('-', "_")
            }
            Self::Command { component, .. } => component.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }
}

/// Source files with modification time and size.
type Sources = BTreeMap<PathBuf, (SystemTime, u64)>;

impl Projects {
    /// Finds the projects in `directory`. Announces them to the host before its first scan, so that it is not ready
    /// before they are built.
    pub(super) fn new(directory: &Path, builds: Arc<Builds>) -> Self {
        let projects = Self { directory: directory.to_owned(), known: BTreeMap::new(), builds };
        // An unreadable directory is reported by the first build.
        projects.announce(&find(directory).unwrap_or_default());
        projects
    }

    /// Announces builds that are due, so that the host does not report their components as missing.
    fn announce(&self, found: &BTreeMap<PathBuf, Recipe>) {
        for (source, recipe) in found {
            if self.known.get(source).is_none_or(|project| project.recipe != *recipe) {
                recipe.service(source).iter().for_each(|service| self.builds.begins(service));
            }
        }
    }

    /// Builds new and changed projects. Reports a failed build and continues with the others.
    ///
    /// # Errors
    /// If the directory cannot be read.
    async fn build(&mut self) -> Result<(), String> {
        let found = find(&self.directory)?;
        for (source, project) in self.known.extract_if(.., |source, _| !found.contains_key(source)) {
            project.recipe.service(&source).iter().for_each(|service| self.builds.forget(service));
        }
        self.announce(&found);
        let mut due: Vec<_> = found.into_iter().filter(|(source, recipe)| self.is_due(source, recipe)).collect();
        // A service that names a middleware is refused without it.
        due.sort_by_key(|(_, recipe)| *recipe != Recipe::Middleware);
        let total = due.len();
        for (n, (source, recipe)) in due.into_iter().enumerate() {
            let outside = self.outside(&source);
            let built = sources(&source, &outside);
            let service = recipe.service(&source);
            service.iter().for_each(|service| self.builds.begins(service));
            notice(&progress(n, total, &recipe.component(&source), &recipe));
            let result = match &recipe {
                Recipe::Cargo => build::with_cargo(&source, &self.directory).await,
                Recipe::Middleware => build::with_cargo(&source, &self.directory.join(MIDDLEWARE)).await,
                Recipe::Command { command, component } => {
                    build::with_command(command, &source, component).await.map(|()| Vec::new())
                }
            };
            match &result {
                Ok(_) => service.iter().for_each(|service| self.builds.made(service)),
                Err(failed) => {
                    notice(&failed.message);
                    let failed = |service| self.builds.failed(service, &failed.summary, &failed.output);
                    service.as_deref().into_iter().for_each(failed);
                }
            }
            let (built, outside) = match result {
                Ok(now) if now != outside => (with_files(built, &now), now),
                Ok(now) => (built, now),
                Err(_) => (built, outside),
            };
            self.known.insert(source, Project { recipe, outside, built });
        }
        Ok(())
    }

    /// Returns whether the project is new, or has changed since its last build began.
    fn is_due(&self, source: &Path, recipe: &Recipe) -> bool {
        let known = self.known.get(source).filter(|project| project.recipe == *recipe);
        known.is_none_or(|project| project.built != sources(source, &project.outside))
    }

    fn outside(&self, source: &Path) -> Vec<PathBuf> {
        self.known.get(source).map_or_else(Vec::new, |project| project.outside.clone())
    }

    /// Builds all projects, and rebuilds them on changes, for ever.
    pub(super) async fn keep_building(mut self) {
        let mut watch = DirectoryWatch::new(&self.directory, POLL).recursive();
        let mut first = true;
        loop {
            watch.arm();
            if let Err(problem) = self.build().await {
                notice(&problem);
            }
            if std::mem::take(&mut first) && self.known.is_empty() {
                notice(&format!("{} has no sources; serving the components in it", self.directory.display()));
            }
            watch.tick().await;
        }
    }
}

/// Returns the line that announces the build number `n` (from 0) of `total`.
fn progress(n: usize, total: usize, service: &str, recipe: &Recipe) -> String {
    let place = if total > 1 { format!("[{}/{total}] ", n.saturating_add(1)) } else { String::new() };
    let command = match recipe {
        Recipe::Cargo | Recipe::Middleware => String::new(),
        Recipe::Command { command, .. } => format!(" with `{command}`"),
    };
    format!("{place}building {service}{command}")
}

/// Finds the projects in `directory`: crates, those of middleware, and directories named by `[build]` in a manifest.
fn find(directory: &Path) -> Result<BTreeMap<PathBuf, Recipe>, String> {
    let unreadable = |error| format!("cannot read {}: {error}", directory.display());
    let mut found = BTreeMap::new();
    // Most directories have no middleware.
    for entry in fs::read_dir(directory.join(MIDDLEWARE)).into_iter().flatten() {
        let path = entry.map_err(unreadable)?.path();
        if path.join("Cargo.toml").is_file() {
            found.insert(path, Recipe::Middleware);
        }
    }
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.join("Cargo.toml").is_file() {
            found.insert(path, Recipe::Cargo);
        } else if path.extension().is_some_and(|extension| extension == "toml")
            && path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
            && let Some(build) = files::read_text(&path, MANIFEST).ok().and_then(|text| Build::of(&text))
        {
            let component = path.with_extension("wasm");
            found.insert(directory.join(build.directory), Recipe::Command { command: build.command, component });
        }
    }
    Ok(found)
}

fn sources(directory: &Path, outside: &[PathBuf]) -> Sources {
    fn walk(directory: &Path, into: &mut Sources) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let hidden = name.as_encoded_bytes().starts_with(b".") || NOT_SOURCES.iter().any(|other| name == **other);
            let Ok(metadata) = entry.metadata() else { continue };
            if hidden || entry.path().extension().is_some_and(|extension| extension == "wasm") {
                continue;
            }
            if metadata.is_dir() {
                walk(&entry.path(), into);
            } else {
                into.insert(entry.path(), (metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len()));
            }
        }
    }
    let mut found = Sources::new();
    walk(directory, &mut found);
    with_files(found, outside)
}

fn with_files(mut sources: Sources, more: &[PathBuf]) -> Sources {
    for file in more {
        if let Ok(metadata) = fs::metadata(file) {
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            sources.insert(file.clone(), (modified, metadata.len()));
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_progress() {
        let command = Recipe::Command { command: "npm run build".into(), component: "orders-js.wasm".into() };
        assert_eq!(progress(0, 3, "users", &Recipe::Cargo), "[1/3] building users");
        assert_eq!(progress(2, 3, "orders-js", &command), "[3/3] building orders-js with `npm run build`");
        assert_eq!(progress(0, 1, "users", &Recipe::Cargo), "building users", "one changed");
    }
}
