//! The content store: pulled components by digest, and which references led to them, in a directory below the compile cache.
//!
//! A record is as good as the registry was at that time, so a host without a registry starts with it. Nothing here is executed
//! without a check: the scanner computes the digest of each component that it reads.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::partial::EXTENSION;
use super::{PartialFile, RegistryError};
use lodge_base::config::Config;
use lodge_base::files;
use lodge_manifest::digest::Digest;
use lodge_manifest::reference::Reference;
use lodge_runtime::code_cache;

/// The name of the store in the cache's directory.
const NAME: &str = "registry";

/// The end of the name of a signature, as beside a component in a directory.
const SIGNATURE: &str = "sig";

/// The most bytes of a record.
const MOST_RECORD: u64 = 64 << 10;

/// The age from which a file that is not complete is left over.
const ABANDONED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The store.
pub struct ContentStore {
    path: PathBuf,
    /// The most bytes of components.
    size: u64,
}

/// The component that a reference has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PulledComponent {
    /// Digest of the manifest in the registry.
    pub manifest: Digest,
    /// Digest of the component.
    pub component: Digest,
    /// Bytes of the component.
    pub size: u64,
}

/// A record on disk.
#[derive(Deserialize, Serialize)]
struct ReferenceRecord {
    reference: String,
    manifest: String,
    component: String,
    size: u64,
}

impl ContentStore {
    /// Opens the store; creates it if it does not exist.
    ///
    /// # Errors
    /// One line, if there is no directory for it, or others can write to it.
    pub fn open(config: &Config) -> Result<Self, String> {
        let place = code_cache::places(config).find(|(key, _)| *key == "cache.directory");
        let (_, cache) = place.ok_or("pulled components are kept in cache.directory, and there is none; set it")?;
        Self::at(cache.join(NAME), config.pull.size as u64)
    }

    fn at(path: PathBuf, size: u64) -> Result<Self, String> {
        let this = Self { path, size };
        this.prepare().map_err(|error| format!("{}: {error}; set cache.directory", this.path.display()))?;
        Ok(this)
    }

    fn prepare(&self) -> io::Result<()> {
        for folder in [self.path.clone(), self.components(), self.records()] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            let metadata = fs::metadata(&folder)?;
            let me = rustix::process::geteuid().as_raw();
            if ![0, me].contains(&metadata.uid()) || metadata.mode() & 0o022 != 0 {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, "other users can write to it"));
            }
        }
        Ok(())
    }

    fn components(&self) -> PathBuf {
        self.path.join("components")
    }

    fn records(&self) -> PathBuf {
        self.path.join("references")
    }

    /// Returns the path of a component, whether or not it is there.
    pub fn component(&self, digest: Digest) -> PathBuf {
        self.components().join(format!("{digest}.wasm"))
    }

    /// Opens the file in which a component arrives. Blocking.
    ///
    /// # Errors
    /// If it cannot be written, or another process writes it.
    pub fn partial(&self, digest: Digest) -> Result<PartialFile, RegistryError> {
        PartialFile::open(&self.components().join(format!("{digest}.{EXTENSION}")))
    }

    fn record_of(&self, reference: &Reference) -> PathBuf {
        let name = Digest::of(reference.to_string().as_bytes());
        self.records().join(format!("{name}.json"))
    }

    /// Returns what a reference has led to, if its component is there. Blocking.
    pub fn find(&self, reference: &Reference) -> Option<PulledComponent> {
        let text = files::read(&self.record_of(reference), MOST_RECORD).ok()?;
        let written: ReferenceRecord = serde_json::from_slice(&text).ok()?;
        let digest = |text: &str| Digest::read(text.strip_prefix("sha256:")?);
        let record = PulledComponent {
            manifest: digest(&written.manifest)?,
            component: digest(&written.component)?,
            size: written.size,
        };
        let is_of = written.reference == reference.to_string()
            && reference.digest.is_none_or(|pinned| pinned == record.manifest);
        (is_of && self.has(&record)).then_some(record)
    }

    /// Whether the component of a record is there. Its digest is checked by those who read it.
    pub fn has(&self, record: &PulledComponent) -> bool {
        let metadata = fs::symlink_metadata(self.component(record.component));
        metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == record.size)
    }

    /// Removes a component, which is not what its name says.
    pub fn discard(&self, digest: Digest) {
        let _ = fs::remove_file(self.component(digest));
    }

    /// Keeps the file with the signature of a component, if it has one. Blocking.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn sign(&self, component: Digest, signature: Option<&str>) -> Result<(), RegistryError> {
        let path = self.components().join(format!("{component}.wasm.{SIGNATURE}"));
        let known = files::read_text(&path, MOST_RECORD + 1).ok();
        match signature {
            Some(text) if known.as_deref() != Some(text) => files::replace(&path, text.as_bytes())
                .map_err(|error| RegistryError::new(format!("{}: {error}", path.display()))),
            _ => Ok(()),
        }
    }

    /// Keeps what a reference has led to. Blocking.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, reference: &Reference, record: &PulledComponent) -> Result<(), RegistryError> {
        let written = ReferenceRecord {
            reference: reference.to_string(),
            manifest: format!("sha256:{}", record.manifest),
            component: format!("sha256:{}", record.component),
            size: record.size,
        };
        let path = self.record_of(reference);
        let text = serde_json::to_vec(&written).unwrap_or_default();
        files::replace(&path, &text).map_err(|error| RegistryError::new(format!("{}: {error}", path.display())))
    }

    /// Removes components that are not in use, the oldest first, until all have at most the size of the store, and records
    /// and parts of components that are gone. Errors only cost space.
    pub fn evict(&self, in_use: &HashSet<Digest>) {
        let mut free = Vec::new();
        let mut total = 0_u64;
        for (path, metadata) in entries(&self.components()) {
            let age = metadata.modified().and_then(|time| time.elapsed().map_err(io::Error::other));
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                if age.is_ok_and(|age| age > ABANDONED) {
                    let _ = fs::remove_file(path);
                }
                continue;
            }
            if path.extension().is_some_and(|extension| extension == SIGNATURE) {
                if !path.with_extension("").exists() {
                    let _ = fs::remove_file(path);
                }
                continue;
            }
            total = total.saturating_add(metadata.len());
            let digest = path.file_stem().and_then(|stem| stem.to_str()).and_then(Digest::read);
            if digest.is_none_or(|digest| !in_use.contains(&digest)) {
                free.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), path, metadata.len()));
            }
        }
        free.sort();
        for (_, path, size) in free {
            if total <= self.size {
                break;
            }
            if fs::remove_file(path).is_ok() {
                total = total.saturating_sub(size);
            }
        }
        for (path, _) in entries(&self.records()) {
            let written = files::read(&path, MOST_RECORD).ok();
            let written: Option<ReferenceRecord> = written.and_then(|text| serde_json::from_slice(&text).ok());
            let digest = written.and_then(|written| Digest::read(written.component.strip_prefix("sha256:")?));
            if digest.is_none_or(|digest| !self.component(digest).exists()) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = (PathBuf, fs::Metadata)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?))).filter(|(_, metadata)| metadata.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> Reference {
        Reference::read(text).unwrap()
    }

    fn put(store: &ContentStore, text: &str, bytes: &[u8]) -> PulledComponent {
        let record =
            PulledComponent { manifest: Digest::of(b"m"), component: Digest::of(bytes), size: bytes.len() as u64 };
        fs::write(store.component(record.component), bytes).unwrap();
        store.keep(&reference(text), &record).unwrap();
        record
    }

    #[test]
    fn records_are_those_of_their_reference_and_component() {
        let directory = tempfile::tempdir().unwrap();
        let store = ContentStore::at(directory.path().join("store"), 1 << 20).unwrap();
        let record = put(&store, "oci://r.example/users:1", b"component");
        let find = |text: &str| store.find(&reference(text));
        assert_eq!(find("oci://r.example/users:1"), Some(record));
        assert_eq!(find("oci://r.example/users:2"), None);
        // A record under another name does not count.
        let other = store.record_of(&reference("oci://r.example/users:2"));
        fs::copy(store.record_of(&reference("oci://r.example/users:1")), other).unwrap();
        assert_eq!(find("oci://r.example/users:2"), None);
        // Nor does one of another digest than the pinned one.
        let pinned = format!("oci://r.example/users@sha256:{}", Digest::of(b"other"));
        store.keep(&reference(&pinned), &record).unwrap();
        assert_eq!(find(&pinned), None);
        fs::write(store.component(record.component), b"shorter").unwrap();
        assert_eq!(find("oci://r.example/users:1"), None);
        store.discard(record.component);
        assert_eq!(find("oci://r.example/users:1"), None);
    }

    #[test]
    fn the_store_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let store = ContentStore::at(directory.path().join("store"), 25).unwrap();
        let names = ["oci://r.example/users:1", "oci://r.example/users:2", "oci://r.example/users:3"];
        let records: Vec<_> = (0_u8..).zip(names).map(|(n, name)| put(&store, name, &[n; 10])).collect();
        for (record, age) in records.iter().zip([30, 20, 10]) {
            let file = fs::File::options().append(true).open(store.component(record.component)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        let known = || names.map(|name| store.find(&reference(name)).is_some());
        store.evict(&HashSet::from([records[0].component]));
        assert_eq!(known(), [true, false, true], "the oldest that is not in use");
        assert_eq!(fs::read_dir(store.records()).unwrap().count(), 2);
        store.evict(&HashSet::from([records[0].component]));
        assert_eq!(known(), [true, false, true]);
    }

    #[test]
    fn others_cannot_write_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        ContentStore::at(path.clone(), 0).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert!(ContentStore::at(path, 0).is_err_and(|why| why.contains("other users can write to it")));
    }
}
