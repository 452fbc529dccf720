//! `lodge deploy`, `promote` and `rollback`: move files as a person would, then ask the host for the result. The
//! directory is the only state.
//!
//! Commands for one service exclude each other from start to end ([`ServiceFiles::lock`]). A file is read once, so the
//! bytes that were checked are the bytes that are written.

mod directory;
mod files;
mod verdict;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub(super) use self::directory::directory;
use self::files::{ServiceFiles, failed};
use self::verdict::{DeployResult, confirm, wait_until_gone};
use super::client::AdminClient;
use super::out::{self, CliError, notice};
use crate::guests::deployer::Deployer;
use crate::guests::scan::{is_component, pinned};
use lodge_base::config::Config;
use lodge_base::files as disk;
use lodge_manifest::Manifest;
use lodge_manifest::digest::Digest;
use lodge_manifest::share::Percent;
use lodge_manifest::spec::{GuestSpec, is_name};

/// The default label of a canary.
pub(super) const CANARY: &str = "canary";

/// The service of a command, and the directory with its files.
pub(super) struct DeployCommand<'a> {
    pub(super) config: &'a Config,
    pub(super) client: Option<&'a AdminClient>,
    /// The directory that the host serves.
    pub(super) directory: PathBuf,
    pub(super) name: &'a str,
}

/// A component that a host would serve.
struct CheckedComponent {
    content: Vec<u8>,
    digest: String,
}

impl DeployCommand<'_> {
    /// Replaces the component of a service or, with `canary`, adds a version beside it. A service that does not exist
    /// is created only with `new`.
    pub(super) fn deploy(&self, file: &Path, canary: Option<(Percent, &str)>, new: bool) -> Result<(), CliError> {
        let (name, files) = (self.name, self.files()?);
        let _lock = files.lock()?;
        let Some((percent, label)) = canary else {
            if !new {
                files.check_exists(&format!("--new creates a service at /{name}"))?;
            }
            let manifest = files.manifest(self.config)?;
            check_replaceable(&manifest, &files)?;
            let CheckedComponent { content, digest } = self.check(file, name, manifest)?;
            files.keep_previous(&content)?;
            files.write(&content, &files.component(None))?;
            return confirm(self.client, name, &digest);
        };
        if !is_name(label) {
            return Err(CliError::Usage(format!("`{label}` is not a valid label; use letters, digits, `-` and `_`")));
        }
        files.check_exists(&format!("a canary needs a service; without --canary, --new creates {name}"))?;
        let text = format!(
            "# Written by `lodge deploy`. `lodge promote {name}` gives this version all \
             requests, `lodge rollback {name}` removes it.\n\
             percent = \"{percent}\"\n\n[rollback]\n"
        );
        let served = format!("{name}@{label}");
        let version = files.manifest(self.config)?.version(&text, self.config.engine.max_memory);
        let version = version.map_err(|problems| CliError::new(format!("{served}: {}", problems.join("; "))))?;
        let CheckedComponent { content, digest } = self.check(file, &served, version)?;
        let (manifest, component) = (files.manifest_of(label), files.component(Some(label)));
        let before = [files.content_of(&manifest)?, files.content_of(&component)?];
        let existed = before.iter().any(Option::is_some);
        files.write(text.as_bytes(), &manifest)?;
        files.write(&content, &component)?;
        if existed {
            verdict::wait_for_rescan();
        }
        let result = DeployResult::wait(self.client, &served, &digest);
        if let DeployResult::Refused(_) = result {
            files.restore(&manifest, &component, before)?;
        }
        result.print(&served, &digest)
    }

    /// Gives a version all requests of its service. A version that the host withdrew needs `force`.
    pub(super) fn promote(&self, label: &str, force: bool) -> Result<(), CliError> {
        let (name, files) = (self.name, self.files()?);
        let _lock = files.lock()?;
        let (version, trial) = (files.component(Some(label)), format!("{name}@{label}"));
        let content = files.content_of(&version)?.ok_or_else(|| {
            let shown = version.display();
            CliError::Problem(format!("there is no {shown}; `lodge deploy {name} FILE --canary 10%` deploys one"))
        })?;
        if let Some(why) = verdict::withdrawn(self.client, &trial).filter(|_| !force) {
            let way_out = format!("`lodge rollback {name}` removes it, --force promotes it anyway");
            return Err(CliError::new(format!("the host withdrew {trial}: {why}; {way_out}")));
        }
        check_replaceable(&files.manifest(self.config)?, &files)?;
        files.keep_previous(&content)?;
        let service = files.component(None);
        disk::rename(&version, &service).map_err(|error| failed(&service, &error))?;
        files.remove(&files.manifest_of(label))?;
        wait_until_gone(self.client, &trial)?;
        confirm(self.client, name, &Digest::of(&content).to_string())
    }

    /// Removes a version or, if there is none, restores the previous component of the service.
    pub(super) fn rollback(&self, label: &str) -> Result<(), CliError> {
        let (name, files) = (self.name, self.files()?);
        let _lock = files.lock()?;
        let (manifest, version) = (files.manifest_of(label), files.component(Some(label)));
        let service = files.component(None);
        if version.exists() || manifest.exists() {
            let trial = format!("{name}@{label}");
            // This disables the version at once; deleted files are noticed only after a delay.
            files.write(b"enabled = false\n", &manifest)?;
            verdict::wait_until_disabled(self.client, &trial);
            files.remove(&version)?;
            files.remove(&manifest)?;
            wait_until_gone(self.client, &trial)?;
            return match files.content_of(&service)? {
                Some(content) => confirm(self.client, name, &Digest::of(&content).to_string()),
                // The service may be an upstream.
                None => out::line(&format!("removed {trial}")),
            };
        }
        let previous = files.previous();
        let content = files.content_of(&previous)?.ok_or_else(|| {
            let (wanted, previous) = (version.display(), previous.display());
            CliError::Problem(format!("there is neither {wanted} nor {previous}, so nothing to roll back to"))
        })?;
        disk::rename(&previous, &service).map_err(|error| failed(&service, &error))?;
        confirm(self.client, name, &Digest::of(&content).to_string())
    }

    fn files(&self) -> Result<ServiceFiles<'_>, CliError> {
        ServiceFiles::new(&self.directory, self.name, self.config.engine.max_file as u64)
    }

    /// Checks that a host would serve this file as `served` with this manifest, before anything is changed.
    fn check(&self, file: &Path, served: &str, manifest: Manifest) -> Result<CheckedComponent, CliError> {
        let shown = file.display();
        let refused = |reason: &str, remedy: &str| CliError::new(format!("{shown}: {reason}; {remedy}"));
        let content = disk::read(file, self.config.engine.max_file as u64).map_err(|error| failed(file, &error))?;
        is_component(&content).map_err(|(reason, remedy)| refused(reason, remedy))?;
        let digest = Digest::of(&content);
        pinned(&manifest, digest, "it").map_err(|why| refused(&why.reason, &why.remedy))?;
        if !manifest.enabled {
            let name = self.name;
            let problem = format!(
                "{name}.toml has `enabled = false`, so the component would not be served; remove that line first"
            );
            return Err(CliError::Problem(problem));
        }
        notice(&format!("compiling {shown}"));
        // Compiled from the file, which fails if its digest has changed meanwhile.
        let (name, size) = (served.to_owned(), content.len() as u64);
        let spec = GuestSpec { name, path: file.to_owned(), digest, size, manifest };
        let compiled = super::block_on(async {
            Deployer::offline(self.config)?.deploy(spec).await.map_err(|why| why.to_string())
        });
        compiled.and_then(|compiled| compiled).map_err(CliError::new)?;
        Ok(CheckedComponent { content, digest: digest.to_string() })
    }
}

/// Returns an error if a component with the service's name would not be the one that is served.
fn check_replaceable(manifest: &Manifest, files: &ServiceFiles<'_>) -> Result<(), CliError> {
    let (file, name) = (files.service_manifest(), files.name);
    let file = file.display();
    if manifest.upstream.is_some() {
        let way_out = format!(
            "to move it here, copy the component to {name}.wasm and then remove [upstream] from {file}; the replicas \
             serve until then; or deploy a canary with --canary"
        );
        return Err(CliError::Problem(format!("{file} makes {name} an upstream; {way_out}")));
    }
    match &manifest.component {
        Some(component) => Err(CliError::new(format!("{file} has `component = \"{component}\"`; replace that file"))),
        None => Ok(()),
    }
}

/// Removes a file. Returns whether it existed.
fn remove(path: &Path) -> Result<bool, CliError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(path, &error)),
    }
}
