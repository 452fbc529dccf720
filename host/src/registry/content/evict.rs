//! Eviction: what is removed from the store, and what is not.
//!
//! In use is what this host names, and what any host has named within the last hours: hosts that share a directory set the
//! times of their records.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{ContentStore, EXTENSION, SIGNATURE, entries, name, partial, record};
use lodge_base::files;
use lodge_manifest::digest::Digest;
use lodge_manifest::reference::Reference;

/// The time for which a record is in use after its time was set.
pub(super) const RECENT: Duration = Duration::from_secs(3 * 60 * 60);

/// What a host uses.
#[derive(Default)]
pub struct InUse {
    /// The names of references.
    references: HashSet<Digest>,
    manifests: HashSet<Digest>,
}

impl InUse {
    /// Adds a reference, and the manifests of the components that it leads to or may lead to.
    pub fn add(&mut self, reference: &Reference, manifests: impl IntoIterator<Item = Digest>) {
        self.references.insert(name(reference));
        self.manifests.extend(manifests);
    }
}

/// What the records of the store say.
#[derive(Default)]
struct Records {
    /// Bytes of all of them.
    total: u64,
    /// Manifests, with the time at which they were last in use.
    used: HashMap<Digest, SystemTime>,
    /// Manifests of records in use.
    in_use: HashSet<Digest>,
    /// Records that are not, with their manifests and sizes.
    free: Vec<(PathBuf, Digest, u64)>,
}

impl ContentStore {
    /// Notes that a reference is not in use any more.
    pub fn release(&self, reference: &Reference) {
        if let Some(time) = SystemTime::now().checked_sub(RECENT) {
            self.touch(reference, time);
        }
    }

    /// Removes components and parts that are not in use, the oldest first, until all have at most the size of the store, or
    /// all of them if the disk is `full`. Then removes records of components that are gone. Errors only cost space.
    pub fn evict(&self, in_use: &InUse, full: bool) {
        let most = if full { 0 } else { self.size };
        let records = self.read_records(in_use);
        let (mut free, mut total) = (Vec::new(), records.total);
        for (path, metadata) in entries(&self.components()) {
            let (modified, size) = (metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len());
            let manifest = path.file_stem().and_then(OsStr::to_str).and_then(Digest::read);
            let kind = path.extension().and_then(OsStr::to_str);
            let (keep, used) = match (kind, manifest) {
                (Some("wasm"), Some(manifest)) => (
                    in_use.manifests.contains(&manifest) || records.in_use.contains(&manifest),
                    records.used.get(&manifest).copied().unwrap_or(modified),
                ),
                (Some(EXTENSION), _) => {
                    (partial::reference(&path).is_some_and(|of| in_use.references.contains(&of)), modified)
                }
                (Some(SIGNATURE), _) if path.with_extension("").exists() => (true, modified),
                // It is being written, or was not written to its end.
                _ => (is_recent(modified), SystemTime::UNIX_EPOCH),
            };
            total = total.saturating_add(size);
            if !keep {
                free.push((used, path, size));
            }
        }
        free.sort();
        for (used, path, size) in free {
            if (total > most || used == SystemTime::UNIX_EPOCH) && remove(&path) {
                total = total.saturating_sub(size);
            }
        }
        for (path, manifest, size) in records.free {
            let is_gone = !self.components().join(format!("{manifest}.wasm")).exists();
            if (is_gone || total > most) && fs::remove_file(path).is_ok() {
                total = total.saturating_sub(size);
            }
        }
    }

    fn read_records(&self, in_use: &InUse) -> Records {
        let mut records = Records::default();
        for (path, metadata) in entries(&self.records()) {
            let (modified, size) = (metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len());
            let of = path.file_stem().and_then(OsStr::to_str).and_then(Digest::read);
            let keep = is_recent(modified) || of.is_some_and(|of| in_use.references.contains(&of));
            let text = files::read(&path, record::MOST).ok();
            let Some((_, found)) = text.and_then(|text| record::read(&text)) else {
                if !is_recent(modified) {
                    let _ = fs::remove_file(path);
                }
                continue;
            };
            records.total = records.total.saturating_add(size);
            let used = records.used.entry(found.manifest).or_insert(modified);
            *used = modified.max(*used);
            if keep {
                records.in_use.insert(found.manifest);
            } else {
                records.free.push((path, found.manifest, size));
            }
        }
        records
    }
}

fn remove(path: &Path) -> bool {
    if path.extension() == Some(OsStr::new(EXTENSION)) {
        return partial::remove_idle(path);
    }
    let removed = fs::remove_file(path).is_ok();
    let _ = fs::remove_file(path.with_extension(format!("wasm.{SIGNATURE}")));
    removed
}

/// Whether a time is not long ago. The clock of a file server may be ahead.
fn is_recent(time: SystemTime) -> bool {
    time.elapsed().unwrap_or_else(|ahead| ahead.duration()) < RECENT
}
