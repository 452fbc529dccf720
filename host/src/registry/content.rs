//! The content store: pulled components by the digest of their manifest, and which references led to them, in a directory below
//! the compile cache.
//!
//! A record is as good as the registry was at that time, so a host without a registry starts with it. It has the documents of
//! the registry, from which the digest of the component and its signature follow. Nothing here is executed without a check:
//! the scanner computes the digest of each component that it reads.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::partial::{self, EXTENSION};
use super::pull::FoundComponent;
use super::{PartialFile, RegistryError, record};
use lodge_base::config::Config;
use lodge_base::files;
use lodge_manifest::digest::Digest;
use lodge_manifest::reference::Reference;
use lodge_runtime::code_cache;

mod evict;

pub use self::evict::InUse;

/// The name of the store in the cache's directory.
const NAME: &str = "registry";

/// The end of the name of a signature, as beside a component in a directory.
const SIGNATURE: &str = "sig";

/// The most bytes of a signature.
const MOST_SIGNATURE: u64 = 64 << 10;

/// The store.
pub struct ContentStore {
    path: PathBuf,
    /// The most bytes of what is not in use.
    size: u64,
}

/// The component that a reference has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PulledComponent {
    /// Digest of the document in the registry that the reference names: the manifest, or an index.
    pub named: Digest,
    /// Digest of the manifest of the component.
    pub manifest: Digest,
    /// Digest of the component.
    pub component: Digest,
    /// Bytes of the component.
    pub size: u64,
}

impl PulledComponent {
    /// The component that a registry has.
    pub(super) fn of(found: &FoundComponent) -> Self {
        let FoundComponent { named, manifest, component, size, .. } = *found;
        Self { named, manifest, component, size }
    }
}

impl ContentStore {
    /// Opens the store; creates it if it does not exist.
    ///
    /// # Errors
    /// One line, if there is no directory for it, or others can write to it.
    pub fn open(config: &Config) -> Result<Self, String> {
        let place = code_cache::places(config).find(|(key, _)| *key == "cache.directory");
        let (_, cache) = place.ok_or("pulled components are kept in cache.directory, and there is none; set it")?;
        Self::at(&cache, config.pull.size as u64)
    }

    fn at(cache: &Path, size: u64) -> Result<Self, String> {
        let this = Self { path: cache.join(NAME), size };
        for folder in [cache.to_owned(), this.path.clone(), this.components(), this.records()] {
            own(&folder).map_err(|error| format!("{}: {error}; set cache.directory", folder.display()))?;
        }
        Ok(this)
    }

    fn components(&self) -> PathBuf {
        self.path.join("components")
    }

    fn records(&self) -> PathBuf {
        self.path.join("references")
    }

    /// Returns the path of a component, whether or not it is there. It is that of its manifest, which has its signature, so
    /// that the same component with another signature is another file.
    pub fn component(&self, of: &PulledComponent) -> PathBuf {
        self.components().join(format!("{}.wasm", of.manifest))
    }

    /// Opens the file in which the component of a reference arrives, and removes what is left of an earlier one. No other
    /// reference has the same file, so that what one registry sends cannot spoil what another one does. Blocking.
    ///
    /// # Errors
    /// If it cannot be written, or another process writes it.
    pub fn partial(&self, reference: &Reference, of: &PulledComponent) -> Result<PartialFile, RegistryError> {
        let own = name(reference);
        let path = self.components().join(format!("{own}.{}.{EXTENSION}", of.manifest));
        for (other, _) in entries(&self.components()) {
            if partial::reference(&other) == Some(own) && other != path {
                partial::remove_idle(&other);
            }
        }
        PartialFile::open(&path)
    }

    fn record_of(&self, reference: &Reference) -> PathBuf {
        self.records().join(format!("{}.json", name(reference)))
    }

    /// Returns what a reference has led to, if its component is there, and notes that it is in use. Blocking.
    pub fn find(&self, reference: &Reference) -> Option<PulledComponent> {
        let text = files::read(&self.record_of(reference), record::MOST).ok()?;
        let (of, found) = record::read(&text)?;
        let pulled = PulledComponent::of(&found);
        let is_of = of == reference.to_string() && reference.digest.is_none_or(|pinned| pinned == pulled.named);
        if !(is_of && self.has(&pulled)) {
            return None;
        }
        self.sign(&pulled, found.signature.as_deref()).ok()?;
        self.touch(reference, SystemTime::now());
        Some(pulled)
    }

    /// Sets the time at which a reference was last in use. An error only affects what is evicted first.
    pub(super) fn touch(&self, reference: &Reference, time: SystemTime) {
        let record = fs::File::options().append(true).open(self.record_of(reference));
        let _ = record.and_then(|file| file.set_modified(time));
    }

    /// Whether a component is there. Its digest is checked by those who read it.
    pub fn has(&self, pulled: &PulledComponent) -> bool {
        let metadata = fs::symlink_metadata(self.component(pulled));
        metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == pulled.size)
    }

    /// Removes a component, which is not what its manifest says.
    pub fn discard(&self, pulled: &PulledComponent) {
        let _ = fs::remove_file(self.component(pulled));
    }

    /// Has the signature that is in the manifest beside the component.
    fn sign(&self, pulled: &PulledComponent, signature: Option<&str>) -> io::Result<()> {
        let path = self.component(pulled).with_extension(format!("wasm.{SIGNATURE}"));
        let known = files::read(&path, MOST_SIGNATURE);
        match signature {
            Some(text) if known.as_ref().is_ok_and(|known| known == text.as_bytes()) => Ok(()),
            Some(text) => files::replace(&path, text.as_bytes()),
            None if known.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) => Ok(()),
            None => fs::remove_file(&path),
        }
    }

    /// Keeps what a reference has led to. Blocking.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, reference: &Reference, found: &FoundComponent) -> Result<(), RegistryError> {
        let pulled = PulledComponent::of(found);
        if self.find(reference) == Some(pulled) {
            return Ok(());
        }
        let path = self.record_of(reference);
        let written = self.sign(&pulled, found.signature.as_deref());
        let written = written.and_then(|()| files::replace(&path, &record::write(reference, found)));
        written.map_err(|error| RegistryError::of_file(&path, &error))
    }
}

/// The name of the files of a reference.
fn name(reference: &Reference) -> Digest {
    Digest::of(reference.to_string().as_bytes())
}

/// Creates a directory, or checks that only this user can write to it. A group's permission is withdrawn where this user may
/// do that: volumes get it when they are mounted (`fsGroup`).
fn own(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let metadata = fs::metadata(folder)?;
    let me = rustix::process::geteuid().as_raw();
    if ![0, me].contains(&metadata.uid()) || metadata.mode() & 0o002 != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "other users can write to it"));
    }
    if metadata.mode() & 0o020 != 0 {
        if metadata.uid() != me {
            let why = "its group can write to it, and it belongs to root; name a directory in it";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        fs::set_permissions(folder, fs::Permissions::from_mode(metadata.mode() & 0o755))?;
    }
    Ok(())
}

fn entries(directory: &Path) -> impl Iterator<Item = (PathBuf, fs::Metadata)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?))).filter(|(_, metadata)| metadata.is_file())
}

#[cfg(test)]
mod tests;
