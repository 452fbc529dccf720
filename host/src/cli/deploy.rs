//! `lodge deploy`, `promote` and `rollback`: they move files, as a person would, and then ask the host what it made of
//! that. The directory is the truth; nothing is remembered elsewhere.
//!
//! One command at a time works on a service, from its first look to its last ([`ServiceFiles::lock`]). Bytes are read once:
//! those that were checked are those that are placed.

mod directory;
mod files;
mod verdict;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub(super) use self::directory::directory;
use self::files::{ServiceFiles, failed};
use self::verdict::{DeployResult, confirm, wait_until_gone};
use super::client::Client;
use super::out::{self, CliError, notice};
use crate::base::files as disk;
use crate::config::Config;
use crate::guests::backend::Backend;
use crate::guests::scan::{is_component, pinned};
use crate::manifest::Manifest;
use crate::manifest::digest::Digest;
use crate::manifest::share::Percent;
use crate::manifest::spec::{GuestSpec, is_name};
use crate::runtime::compile::Compiler;

/// The label of a version on trial that was deployed without another.
pub(super) const CANARY: &str = "canary";

/// Where a command works, and which service it works on.
pub(super) struct DeployCommand<'a> {
    pub(super) config: &'a Config,
    pub(super) client: Option<&'a Client>,
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
    /// Puts a component in the place of a service or, with a part of its requests, beside it. A service that is not
    /// there is made only if it is to be a `new` one.
    pub(super) fn deploy(&self, file: &Path, canary: Option<(Percent, &str)>, new: bool) -> Result<(), CliError> {
        let (name, files) = (self.name, self.files()?);
        let _lock = files.lock()?;
        let Some((percent, label)) = canary else {
            if !new {
                files.check_exists(&format!("--new makes a new service, at /{name}"))?;
            }
            let manifest = files.manifest(self.config)?;
            check_replaceable(&manifest, &files)?;
            let CheckedComponent { content, digest } = self.check(file, name, manifest)?;
            files.keep_previous(&content)?;
            files.write(&content, &files.component(None))?;
            return confirm(self.client, name, &digest);
        };
        if !is_name(label) {
            return Err(CliError::Usage(format!("`{label}` cannot be a version's label; take letters and digits")));
        }
        files.check_exists(&format!(
            "there is nothing to try a version beside; without --canary, --new serves it as {name}"
        ))?;
        let text = format!(
            "# By `lodge deploy`. `lodge promote {name}` gives it everything, `lodge rollback {name}` takes it away.\n\
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

    /// Gives a version on trial all requests of its service. One that the host withdrew needs `force`.
    pub(super) fn promote(&self, label: &str, force: bool) -> Result<(), CliError> {
        let (name, files) = (self.name, self.files()?);
        let _lock = files.lock()?;
        let (version, trial) = (files.component(Some(label)), format!("{name}@{label}"));
        let content = files.content_of(&version)?.ok_or_else(|| {
            let shown = version.display();
            CliError::Problem(format!("there is no {shown}; `lodge deploy {name} FILE --canary 10%` puts one there"))
        })?;
        if let Some(why) = verdict::withdrawn(self.client, &trial).filter(|_| !force) {
            let way_out = format!("`lodge rollback {name}` takes it away, --force promotes it all the same");
            return Err(CliError::new(format!("{trial} was taken out by the host: {why}; {way_out}")));
        }
        check_replaceable(&files.manifest(self.config)?, &files)?;
        files.keep_previous(&content)?;
        let service = files.component(None);
        disk::rename(&version, &service).map_err(|error| failed(&service, &error))?;
        files.remove(&files.manifest_of(label))?;
        wait_until_gone(self.client, &trial)?;
        confirm(self.client, name, &Digest::of(&content).to_string())
    }

    /// Takes the version on trial away or, without one, puts the service back to what it was before.
    pub(super) fn rollback(&self, label: &str) -> Result<(), CliError> {
        let (name, files) = (self.name, self.files()?);
        let _lock = files.lock()?;
        let (manifest, version) = (files.manifest_of(label), files.component(Some(label)));
        let service = files.component(None);
        if version.exists() || manifest.exists() {
            let trial = format!("{name}@{label}");
            // It is off at once, while files that are only removed are missed for a moment first.
            files.write(b"enabled = false\n", &manifest)?;
            verdict::wait_until_disabled(self.client, &trial);
            files.remove(&version)?;
            files.remove(&manifest)?;
            wait_until_gone(self.client, &trial)?;
            return match files.content_of(&service)? {
                Some(content) => confirm(self.client, name, &Digest::of(&content).to_string()),
                // The service may be replicas elsewhere.
                None => out::line(&format!("{trial} is removed")),
            };
        }
        let previous = files.previous();
        let content = files.content_of(&previous)?.ok_or_else(|| {
            let (wanted, previous) = (version.display(), previous.display());
            CliError::Problem(format!("there is neither {wanted} nor {previous}: nothing to go back to"))
        })?;
        disk::rename(&previous, &service).map_err(|error| failed(&service, &error))?;
        confirm(self.client, name, &Digest::of(&content).to_string())
    }

    fn files(&self) -> Result<ServiceFiles<'_>, CliError> {
        ServiceFiles::new(&self.directory, self.name, self.config.engine.max_file as u64)
    }

    /// Whether a host would serve this file as `served`, by this manifest, before anything is touched.
    fn check(&self, file: &Path, served: &str, manifest: Manifest) -> Result<CheckedComponent, CliError> {
        let shown = file.display();
        let refused = |reason: &str, remedy: &str| CliError::new(format!("{shown}: {reason}; {remedy}"));
        let content = disk::read(file, self.config.engine.max_file as u64).map_err(|error| failed(file, &error))?;
        is_component(&content).map_err(|(reason, remedy)| refused(reason, remedy))?;
        let digest = Digest::of(&content);
        pinned(&manifest, digest, "it").map_err(|why| refused(&why.reason, &why.remedy))?;
        if !manifest.enabled {
            let name = self.name;
            let problem = format!("{name}.toml says `enabled = false`, so nothing would serve it; take that out first");
            return Err(CliError::Problem(problem));
        }
        notice(&format!("compiling {shown}"));
        // Compiled from the file, which must still have this digest then.
        let (name, size) = (served.to_owned(), content.len() as u64);
        let spec = GuestSpec { name, path: file.to_owned(), digest, size, manifest };
        let compiled = super::block_on(async {
            let compiler = std::sync::Arc::new(Compiler::new(self.config)?);
            Backend::deploy(spec, &compiler).await.map_err(|why| why.to_string())
        });
        compiled.and_then(|compiled| compiled).map_err(CliError::new)?;
        Ok(CheckedComponent { content, digest: digest.to_string() })
    }
}

/// Whether a component under the service's name would be what serves.
fn check_replaceable(manifest: &Manifest, files: &ServiceFiles<'_>) -> Result<(), CliError> {
    let (file, name) = (files.service_manifest(), files.name);
    let file = file.display();
    if manifest.upstream.is_some() {
        let way_out = format!(
            "put the component at {name}.wasm yourself, then take [upstream] out of {file}: until then the replicas \
             answer; or give {name} a part of it by --canary"
        );
        return Err(CliError::Problem(format!("{file} says that {name} is elsewhere; {way_out}")));
    }
    match &manifest.component {
        Some(component) => Err(CliError::new(format!("{file} names {component}; put the new component there"))),
        None => Ok(()),
    }
}

/// Removes a file. Whether there was one.
fn remove(path: &Path) -> Result<bool, CliError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(path, &error)),
    }
}
