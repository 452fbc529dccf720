//! Machine code that was made with an image. It is trusted by digest, so no key is needed to use it, and no layer
//! contains one.
//!
//! The index lists the SHA-256 of every entry. It is trusted only if no user but root and that of this process can
//! write it. Entries are trusted if they have the digest in the index.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use wasmtime::Engine;
use wasmtime::component::Component;

use super::deserialize;
use lodge_manifest::digest::Digest;

/// The name of the index.
const INDEX: &str = "index";
/// The maximum bytes of an index: some 8,000 entries.
const INDEX_BYTES: u64 = 1 << 20;
/// The maximum bytes of an entry.
const ENTRY_BYTES: u64 = 1 << 30;

/// A read-only directory of compiled components.
pub struct Sealed {
    path: PathBuf,
    /// The digests of the entries, by name.
    index: BTreeMap<String, String>,
}

impl Sealed {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// Why it is not trusted, or cannot be read.
    pub fn open(path: &Path) -> Result<Self, String> {
        let file = path.join(INDEX);
        for place in [path, &file] {
            let metadata = fs::metadata(place).map_err(|error| format!("{}: {error}", place.display()))?;
            let me = rustix::process::geteuid().as_raw();
            if ![0, me].contains(&metadata.uid()) || metadata.mode() & 0o022 != 0 {
                return Err(format!(
                    "{}: other users can write to it, and it decides which code is run",
                    place.display()
                ));
            }
        }
        let index = read(&file, INDEX_BYTES).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(Self { path: path.to_owned(), index: lines(&String::from_utf8_lossy(&index)) })
    }

    /// Loads the component of the entry with this name, if its bytes have the digest in the index.
    pub(super) fn load(&self, name: &str, engine: &Engine) -> Option<Component> {
        let digest = self.index.get(name)?;
        let path = self.path.join(name);
        let bytes = read(&path, ENTRY_BYTES).ok()?;
        if Digest::of(&bytes).to_string() != *digest {
            tracing::warn!("{} does not have the digest in its index; recompiling", path.display());
            return None;
        }
        deserialize(engine, &bytes).ok()
    }

    /// Whether the index has an entry with this name.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// Writes entries (name and machine code) in addition to those of the directory.
    ///
    /// # Errors
    /// When the directory cannot be written, or has an index that is not trusted.
    pub(super) fn write(path: &Path, entries: &[(String, Vec<u8>)]) -> io::Result<()> {
        fs::create_dir_all(path)?;
        let mut index = match path.join(INDEX).exists() {
            true => Self::open(path).map_err(|why| io::Error::new(io::ErrorKind::PermissionDenied, why))?.index,
            false => BTreeMap::new(),
        };
        for (name, code) in entries {
            fs::write(path.join(name), code)?;
            index.insert(name.clone(), Digest::of(code).to_string());
        }
        let text: String = index.iter().map(|(name, digest)| format!("{digest}  {name}\n")).collect();
        fs::write(path.join(INDEX), text)
    }
}

fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// The names and digests of an index, in the format of `sha256sum`: `sha256sum -c index` checks a directory. Malformed
/// lines are ignored.
fn lines(index: &str) -> BTreeMap<String, String> {
    let lines = index.lines().filter_map(|line| line.split_once("  "));
    lines.filter(|(_, name)| !name.contains('/')).map(|(digest, name)| (name.to_owned(), digest.to_owned())).collect()
}
