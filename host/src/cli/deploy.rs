//! `lodge deploy`, `promote` and `rollback`: move files as a person would, then ask the host for the result. The
//! directory is the only state.
//!
//! Commands for one service exclude each other from start to end ([`DeployCommand::lock`]). A file is read once, so the
//! bytes that were checked are the bytes that are written.

mod directory;
mod verdict;

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(super) use self::directory::directory;
use self::verdict::{DeployResult, confirm, wait_until_gone};
use super::client::AdminClient;
use super::out::{self, CliError, notice};
use super::sign;
use crate::guests::deployer::Deployer;
use crate::guests::scan::{is_component, pinned};
use crate::guests::service_files::{FileError, ServiceFiles, failed};
use crate::guests::trust;
use crate::guests::trust::signature;
use lodge_base::config::Config;
use lodge_base::config::key::nearest;
use lodge_base::files as disk;
use lodge_manifest::Manifest;
use lodge_manifest::digest::Digest;
use lodge_manifest::percent::Percent;
use lodge_manifest::refusal::file_name;
use lodge_manifest::spec::{GuestSpec, is_name};

/// The longest wait for another command on the same service, which may itself wait for a compilation.
const LOCK_TIMEOUT: Duration = Duration::from_secs(180);

/// The interval between attempts to get the lock.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

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
    /// The file of its signature, if it has one.
    signature: Option<Vec<u8>>,
    digest: String,
}

impl DeployCommand<'_> {
    /// Replaces the component of a service or, with `canary`, adds a version beside it. A service that does not exist
    /// is created only with `new`. With a `key`, the component is signed.
    pub(super) fn deploy(
        &self,
        (file, key): (&Path, Option<&Path>),
        canary: Option<(Percent, &str)>,
        new: bool,
    ) -> Result<(), CliError> {
        let (name, files) = (self.name, self.files()?);
        let _lock = self.lock(&files)?;
        let Some((percent, label)) = canary else {
            if !new {
                self.check_exists(&files, &format!("--new creates a service at /{name}"))?;
            }
            let manifest = files.manifest(self.config)?;
            files.check_replaceable(&manifest)?;
            let place = files.component(None);
            let CheckedComponent { content, signature, digest } = self.check((file, key), &place, name, manifest)?;
            files.keep_previous(&content)?;
            files.place(&content, signature.as_deref(), &place)?;
            return confirm(self.client, name, &digest);
        };
        if !is_name(label) {
            return Err(CliError::Usage(format!("`{label}` is not a valid label; use letters, digits, `-` and `_`")));
        }
        self.check_exists(&files, &format!("a canary needs a service; without --canary, --new creates {name}"))?;
        let text = format!(
            "# Written by `lodge deploy`. `lodge promote {name}` gives this version all \
             requests, `lodge rollback {name}` removes it.\n\
             percent = \"{percent}\"\n\n[rollback]\n"
        );
        let served = format!("{name}@{label}");
        let version = files.manifest(self.config)?.version(&text, self.config.engine.max_memory);
        let version = version.map_err(|problems| CliError::new(format!("{served}: {}", problems.join("; "))))?;
        let place = files.component(Some(label));
        let CheckedComponent { content, signature, digest } = self.check((file, key), &place, &served, version)?;
        let before = files.version(label)?;
        let existed = before.iter().any(Option::is_some);
        files.write(text.as_bytes(), &files.manifest_of(label))?;
        files.place(&content, signature.as_deref(), &place)?;
        if existed {
            verdict::wait_for_rescan();
        }
        let result = DeployResult::wait(self.client, &served, &digest);
        if let DeployResult::Refused(_) = result {
            files.restore(label, before)?;
        }
        result.print(&served, &digest)
    }

    /// Gives a version all requests of its service. A version that the host withdrew needs `force`.
    pub(super) fn promote(&self, label: &str, force: bool) -> Result<(), CliError> {
        let (name, files) = (self.name, self.files()?);
        let _lock = self.lock(&files)?;
        let (version, trial) = (files.component(Some(label)), format!("{name}@{label}"));
        let missing = || {
            let (shown, manifest) = (version.display(), files.manifest_of(label));
            if manifest.exists() {
                return CliError::Problem(format!(
                    "{trial} is no component that could be moved: there is no {shown}; write what {} says, like [files] or \
                     [upstream], to {}, then remove the version by `lodge rollback {name}`",
                    manifest.display(),
                    files.service_manifest().display()
                ));
            }
            CliError::Problem(format!("there is no {shown}; `lodge deploy {name} FILE --canary 10%` deploys one"))
        };
        if !version.exists() {
            return Err(missing());
        }
        if let Some(why) = verdict::withdrawn(self.client, &trial).filter(|_| !force) {
            let way_out = format!("`lodge rollback {name}` removes it, --force promotes it anyway");
            return Err(CliError::new(format!("the host withdrew {trial}: {why}; {way_out}")));
        }
        if let Some(why) = verdict::refused(self.client, &trial) {
            return Err(CliError::new(format!("the host refuses {trial}: {why}; nothing was changed")));
        }
        let digest = files.promote(label, self.config, None)?.ok_or_else(missing)?;
        wait_until_gone(self.client, &trial)?;
        confirm(self.client, name, &digest.to_string())
    }

    /// Removes a version or, if there is none, restores the previous component of the service.
    pub(super) fn rollback(&self, label: &str) -> Result<(), CliError> {
        let (name, files) = (self.name, self.files()?);
        let _lock = self.lock(&files)?;
        if files.has_version(label) {
            let trial = format!("{name}@{label}");
            files.disable_version(label)?;
            verdict::wait_until_disabled(self.client, &trial);
            files.remove_version(label)?;
            wait_until_gone(self.client, &trial)?;
            return match files.content_of(&files.component(None))? {
                Some(content) => confirm(self.client, name, &Digest::of(&content).to_string()),
                // The service may be an upstream.
                None => out::line(&format!("removed {trial}")),
            };
        }
        let digest = files.restore_previous(self.config)?.ok_or_else(|| {
            let (version, previous) = (files.component(Some(label)), files.previous());
            let (version, previous) = (version.display(), previous.display());
            let is_files = files.manifest(self.config).is_ok_and(|manifest| manifest.files.is_some());
            let way_out = if is_files { "; to return to other files, change files.root of the service" } else { "" };
            CliError::Problem(format!("there is neither {version} nor {previous}, so nothing to roll back to{way_out}"))
        })?;
        confirm(self.client, name, &digest.to_string())
    }

    fn files(&self) -> Result<ServiceFiles<'_>, CliError> {
        let name = self.name;
        ServiceFiles::new(&self.directory, name, self.config.engine.max_file as u64).ok_or_else(|| {
            CliError::Usage(format!("`{name}` is not a valid name of a service; use letters, digits, `-` and `_`"))
        })
    }

    /// Waits until no other command works on this service. The lock is held until the returned file is dropped.
    fn lock(&self, files: &ServiceFiles<'_>) -> Result<File, CliError> {
        let start = Instant::now();
        let mut waits = false;
        loop {
            if let Some(lock) = files.try_lock()? {
                return Ok(lock);
            }
            let name = self.name;
            if start.elapsed() >= LOCK_TIMEOUT {
                let long = humantime::format_duration(LOCK_TIMEOUT);
                let problem = format!(
                    "another command has been working on {name} for {long}; nothing was changed; try again later"
                );
                return Err(CliError::Problem(problem));
            }
            if !std::mem::replace(&mut waits, true) {
                notice(&format!("waiting for another command on {name}"));
            }
            std::thread::park_timeout(RETRY_INTERVAL);
        }
    }

    /// Returns an error if the service does not exist; `way_out` says what to do.
    fn check_exists(&self, files: &ServiceFiles<'_>, way_out: &str) -> Result<(), CliError> {
        let name = self.name;
        if [files.component(None), files.service_manifest()].iter().any(|path| path.exists()) {
            return Ok(());
        }
        let names = files.services();
        let near = nearest(name, names.iter().map(String::as_str));
        let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        let shown = self.directory.display();
        let missing = format!("there is neither {name}.wasm nor {name}.toml in {shown}");
        Err(CliError::new(format!("{missing}{near}; {way_out}")))
    }

    /// Checks that a host would serve this file, in the place of that at `replaced`, as `served` with this manifest, before
    /// anything is changed.
    fn check(
        &self,
        (file, key): (&Path, Option<&Path>),
        replaced: &Path,
        served: &str,
        manifest: Manifest,
    ) -> Result<CheckedComponent, CliError> {
        let shown = file.display();
        let refused = |reason: &str, remedy: &str| CliError::new(format!("{shown}: {reason}; {remedy}"));
        let content = disk::read(file, self.config.engine.max_file as u64).map_err(|error| failed(file, &error))?;
        is_component(&content).map_err(|(reason, remedy)| refused(reason, remedy))?;
        let digest = Digest::of(&content);
        let signature = self.signature((file, key), &content, replaced)?;
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
        // Files that the manifest names are relative to it, and not to the new component.
        let (path, content_of) = (replaced.to_owned(), Some(file.to_owned()));
        let spec = GuestSpec { name, path, content: content_of, digest, size, manifest };
        let compiled = super::block_on(async {
            Deployer::offline(self.config)?.deploy(spec).await.map_err(|why| why.to_string())
        });
        compiled.and_then(|compiled| compiled).map_err(CliError::new)?;
        Ok(CheckedComponent { content, signature, digest: digest.to_string() })
    }

    /// Signs a component or, without a `key`, reads the signature beside it. Without any, a component that does not change keeps
    /// the one that it has. Fails if the host would refuse it.
    fn signature(
        &self,
        (file, key): (&Path, Option<&Path>),
        content: &[u8],
        replaced: &Path,
    ) -> Result<Option<Vec<u8>>, CliError> {
        let files = self.files()?;
        let beside = signature::path(file);
        let text = match key {
            Some(key) => Some(sign::signed(content, key)?.into_bytes()),
            None => match disk::read(&beside, trust::MAX_FILE) {
                Ok(text) => Some(text),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let same = files.content_of(replaced)?.is_some_and(|replaced| replaced == content);
                    if same { files.content_of(&signature::path(replaced))? } else { None }
                }
                Err(error) => return Err(failed(&beside, &error).into()),
            },
        };
        files.check_signature((content, text.as_deref()), &file_name(file), replaced, self.config)?;
        Ok(text)
    }
}

/// The text may come from the directory.
impl From<FileError> for CliError {
    fn from(error: FileError) -> Self {
        Self::new(error.to_string())
    }
}
