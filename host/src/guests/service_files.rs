//! The files of one service in the directory, for commands and operators that change them. The directory is the only state:
//! the host follows changes of the files, also those by hand.

mod before;
mod lock;
mod written;

use std::fs;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

pub use self::before::FilesBefore;
pub use self::lock::{FilesLock, remove_abandoned};
use self::written::DISABLED;
pub use self::written::canary_manifest;
use crate::guests::scan::MANIFEST;
use crate::guests::trust::LiveKeys;
use crate::guests::trust::signature::{self, Signature};
use lodge_base::config::Config;
use lodge_base::files;
use lodge_manifest::Manifest;
use lodge_manifest::component::ComponentSource;
use lodge_manifest::refusal::file_name;
use lodge_manifest::spec::is_name;

/// Why files were not changed, or not completely: one line, which may contain text from the directory.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct FileError {
    text: String,
    /// Whether the directory cannot be written, so that nothing could be placed in it.
    pub unwritable: bool,
}

impl FileError {
    /// Returns an error with this text.
    pub fn new(why: impl Into<String>) -> Self {
        Self { text: why.into(), unwritable: false }
    }
}

/// The files of a service in a directory.
pub struct ServiceFiles<'a> {
    /// The directory.
    pub directory: &'a Path,
    /// The name of the service.
    pub name: &'a str,
    /// The most bytes of a component.
    most: u64,
}

impl<'a> ServiceFiles<'a> {
    /// Returns the files of the service `name`, or `None` if no service can have that name. `most` is the most bytes of a
    /// component.
    pub fn new(directory: &'a Path, name: &'a str, most: u64) -> Option<Self> {
        is_name(name).then_some(Self { directory, name, most })
    }

    /// Returns the path of the service's component, or of that of a version.
    pub fn component(&self, label: Option<&str>) -> PathBuf {
        let label = label.map_or(String::new(), |label| format!("@{label}"));
        self.directory.join(format!("{}{label}.wasm", self.name))
    }

    /// Returns the path of a version's manifest.
    pub fn manifest_of(&self, label: &str) -> PathBuf {
        self.directory.join(format!("{}@{label}.toml", self.name))
    }

    /// Returns the path of the service's manifest.
    pub fn service_manifest(&self) -> PathBuf {
        self.directory.join(format!("{}.toml", self.name))
    }

    /// Returns the path of the previous component. It does not end in `.wasm`, so that no host serves it.
    pub fn previous(&self) -> PathBuf {
        self.directory.join(format!("{}.wasm.previous", self.name))
    }

    /// Reads the service's manifest.
    ///
    /// # Errors
    /// If it is invalid, since a component beside it would not be served.
    pub fn manifest(&self, config: &Config) -> Result<Manifest, FileError> {
        let path = self.service_manifest();
        let text = match files::read_text(&path, MANIFEST) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(&path, &error)),
        };
        Manifest::read(self.name, &text, &config.limits, config.engine.max_memory).map_err(|problems| {
            let (path, problems) = (path.display(), problems.join("; "));
            FileError::new(format!("{path}: {problems}; nothing was changed; correct the manifest first"))
        })
    }

    /// Returns the names of all services in the directory.
    pub fn services(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory).into_iter().flatten().flatten();
        let stem = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let stem = name.strip_suffix(".wasm").or_else(|| name.strip_suffix(".toml"))?;
            is_name(stem).then(|| stem.to_owned())
        };
        entries.filter_map(stem).collect()
    }

    /// Checks that a component with the service's name would be the one that is served.
    ///
    /// # Errors
    /// If this manifest of the service names another component, or replicas.
    pub fn check_replaceable(&self, manifest: &Manifest) -> Result<(), FileError> {
        let (file, name) = (self.service_manifest(), self.name);
        let file = file.display();
        if manifest.upstream.is_some() {
            let way_out = format!(
                "to move it here, copy the component to {name}.wasm and then remove [upstream] from {file}; the replicas \
                 serve until then; or deploy a canary with --canary"
            );
            return Err(FileError::new(format!("{file} makes {name} an upstream; {way_out}")));
        }
        if manifest.files.is_some() {
            let way_out =
                "to serve a component in place of it, remove [files] from it; a canary beside it needs --canary";
            return Err(FileError::new(format!("{file} makes {name} a directory of files; {way_out}")));
        }
        match &manifest.component {
            Some(ComponentSource::File(component)) => {
                Err(FileError::new(format!("{file} has `component = \"{component}\"`; replace that file")))
            }
            Some(ComponentSource::Registry(reference)) => Err(FileError::new(format!(
                "{file} has `component = \"{reference}\"`; push the component there, or change that line"
            ))),
            None => Ok(()),
        }
    }

    /// Returns whether the service has files.
    pub fn is_any(&self) -> bool {
        [self.component(None), self.service_manifest(), self.previous()].iter().any(|path| path.exists())
    }

    /// Returns whether a version has files.
    pub fn has_version(&self, label: &str) -> bool {
        self.component(Some(label)).exists() || self.manifest_of(label).exists()
    }

    /// Disables a version. The host notices this at once, and deleted files only after a delay.
    ///
    /// # Errors
    /// If the manifest of the version cannot be written.
    pub fn disable_version(&self, label: &str) -> Result<(), FileError> {
        self.write(DISABLED.as_bytes(), &self.manifest_of(label))
    }

    /// Removes the files of a version.
    ///
    /// # Errors
    /// If they cannot be removed.
    pub fn remove_version(&self, label: &str) -> Result<(), FileError> {
        let component = self.component(Some(label));
        self.remove(&component)?;
        self.remove(&signature::path(&component))?;
        self.remove(&self.manifest_of(label))
    }

    /// Checks that a component which refusals call `shown` may have the place of that at `replaced`.
    ///
    /// # Errors
    /// If `trust.keys` does not admit it, or it has no signature and that at `replaced` has one: a host may want that.
    pub fn check_signature(
        &self,
        (content, signature): (&[u8], Option<&[u8]>),
        shown: &str,
        replaced: &Path,
        config: &Config,
    ) -> Result<(), FileError> {
        if let Some(keys) = LiveKeys::default().refresh(&config.trust) {
            let signature = signature.map_or(Signature::Absent, Signature::read);
            let admitted = keys.admits(self.name, shown, content, &signature);
            return admitted.map_err(|refusal| FileError::new(format!("{refusal}; nothing was changed")));
        }
        let beside = signature::path(replaced);
        if signature.is_none() && beside.exists() && replaced.exists() {
            let (replaced, beside) = (file_name(replaced), beside.display());
            return Err(FileError::new(format!(
                "{shown} has no signature, and {replaced} has one; nothing was changed; sign it, or remove {beside} if the host \
                 has no `trust.keys`"
            )));
        }
        Ok(())
    }

    /// Keeps the current component for a rollback, unless it equals `content`: repeating a deployment must not replace
    /// the version that a rollback returns to.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn keep_previous(&self, content: &[u8]) -> Result<(), FileError> {
        match self.content_of(&self.component(None))? {
            Some(now) if now != content => {
                let signature = self.content_of(&signature::path(&self.component(None)))?;
                self.place(&now, signature.as_deref(), &self.previous())
            }
            _ => Ok(()),
        }
    }

    /// Reads a file; `None` if it does not exist.
    ///
    /// # Errors
    /// If it is too large or cannot be read.
    pub fn content_of(&self, path: &Path) -> Result<Option<Vec<u8>>, FileError> {
        match files::read(path, self.most.max(MANIFEST)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(path, &error)),
        }
    }

    /// Writes a component with its signature, or without one. Until the component is written, the file of the signature also has
    /// that of the component before: a crash at any moment leaves a pair that is valid.
    ///
    /// # Errors
    /// If a file cannot be written or removed. If the component cannot be written, the signature is as before.
    pub fn place(&self, component: &[u8], signature: Option<&[u8]>, at: &Path) -> Result<(), FileError> {
        let beside = signature::path(at);
        let before = self.content_of(&beside)?;
        let both = signature
            .map(|now| before.as_deref().map_or_else(|| now.to_owned(), |before| signature::joined(before, now)));
        if let Some(both) = both.as_ref().filter(|both| before.as_ref() != Some(both)) {
            self.write(both, &beside)?;
        }
        self.write(component, at).inspect_err(|_| {
            // The first error is the one to report; the old component is valid with both signatures as well.
            let _ = match before.as_ref() {
                Some(before) => self.write(before, &beside),
                None => self.remove(&beside),
            };
        })?;
        match signature {
            Some(signature) if both.as_deref() == Some(signature) => Ok(()),
            Some(signature) => self.write(signature, &beside),
            None => self.remove(&beside),
        }
    }

    fn remove(&self, path: &Path) -> Result<(), FileError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(path, &error)),
            _ => Ok(()),
        }
    }

    /// Writes a file atomically, so that a host never reads half of it. A new file gets the mode of the service's own
    /// file, so that the host can read both.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, content: &[u8], at: &Path) -> Result<(), FileError> {
        let is_manifest = at.extension().is_some_and(|extension| extension == "toml");
        let own = if is_manifest { self.service_manifest() } else { self.component(None) };
        files::replace_like(at, content, &own).map_err(|error| failed(at, &error))
    }
}

/// Returns the error for a failed file operation.
pub fn failed(path: &Path, error: &Error) -> FileError {
    use ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let unwritable = matches!(error.kind(), PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull);
    FileError { text: format!("{}: {error}", path.display()), unwritable }
}

#[cfg(test)]
mod tests;
