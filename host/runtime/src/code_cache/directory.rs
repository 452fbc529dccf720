//! The host's own directory of machine code. Entries carry a tag that only its key can make.
//!
//! Machine code is executed without further checks, so an entry is only trusted with a valid tag (HMAC-SHA256), and
//! only in a directory that no other user can write to. Hosts may share a directory: entries are renamed into place.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::{ENTRY, deserialize};
use lodge_base::config::{self, CacheDirectory};

/// The bytes of the key and of a tag.
const KEY: usize = 32;
/// The name of the key's file.
const KEY_FILE: &str = "key";
/// The extension of files that are not complete yet.
const PARTIAL: &str = "part";
/// The age at which a partial file belongs to a host that was killed.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

/// A directory of compiled components.
pub struct Directory {
    path: PathBuf,
    key: [u8; KEY],
    size: u64,
    /// Writing the last entry failed, and that was logged.
    failing: AtomicBool,
}

impl Directory {
    /// Opens the configured directory; creates it if it does not exist.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open(config: &config::Cache) -> Result<Self, String> {
        let directory = match &config.directory {
            CacheDirectory::Off => return Err("cache.directory is `off`".into()),
            CacheDirectory::At(path) => path.clone(),
            CacheDirectory::Auto => usual().ok_or("there is no home directory; set cache.directory")?,
        };
        let key = key_in(&directory).map_err(|error| {
            format!("{}: {error}; set cache.directory to another directory, or to `off`", directory.display())
        })?;
        Ok(Self { path: directory, key, size: config.size as u64, failing: AtomicBool::new(false) })
    }

    /// Loads the component of the entry with this name, if a host with the same key wrote it.
    pub(super) fn load(&self, name: &str, engine: &Engine) -> Option<Component> {
        let path = self.path.join(name);
        let bytes = fs::read(&path).ok()?;
        let component = deserialize(engine, self.verified(name, &bytes)?).ok()?;
        // The entry used longest ago is evicted first. Failing to set the time only affects that order.
        let _ = File::options().append(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(component)
    }

    /// The machine code without its tag, if the tag is valid.
    fn verified<'a>(&self, name: &str, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (tag, code) = bytes.split_at_checked(KEY)?;
        if self.mac(name, code)?.verify_slice(tag).is_ok() {
            return Some(code);
        }
        tracing::warn!("compile cache entry {} has an invalid signature; recompiling", self.path.join(name).display());
        None
    }

    /// All entries, as name and machine code.
    ///
    /// # Errors
    /// When the directory or an entry cannot be read.
    pub(super) fn entries(&self) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.extension().is_some_and(|extension| extension == ENTRY) {
                let bytes = fs::read(&path)?;
                entries.extend(self.verified(name, &bytes).map(|code| (name.to_owned(), code.to_vec())));
            }
        }
        Ok(entries)
    }

    /// Whether there is an entry with this name.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.path.join(name).is_file()
    }

    /// Stores machine code under this name. An error does not affect services: it is logged once, until an entry can be
    /// written again.
    pub(super) fn store(&self, name: &str, code: &[u8]) {
        let write = || {
            let mac = self.mac(name, code).ok_or(io::ErrorKind::InvalidInput)?;
            let tag = mac.finalize().into_bytes();
            let partial = write_partial(&self.path, &[&tag, code])?;
            fs::rename(partial, self.path.join(name))?;
            self.evict()
        };
        match write() {
            Ok(()) => self.failing.store(false, Relaxed),
            Err(error) if !self.failing.swap(true, Relaxed) => tracing::warn!(
                "the compile cache {} cannot be written: {error}; services are served, and compiled again at the next \
                 start; free space there, or name another directory in cache.directory",
                self.path.display()
            ),
            Err(error) => tracing::debug!("{}: {error}", self.path.display()),
        }
    }

    /// Whether writing the last entry failed.
    #[cfg(test)]
    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Relaxed)
    }

    /// Removes the entry with this name.
    pub(super) fn remove(&self, name: &str) {
        // An entry that cannot be removed is evicted later.
        let _ = fs::remove_file(self.path.join(name));
    }

    /// Removes the entries used longest ago until the rest is within the bounds, and partial files of hosts that were
    /// killed.
    fn evict(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            // Another host may have removed it.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let modified = metadata.modified()?;
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(ENTRY) => entries.push((modified, metadata.len(), path)),
                Some(PARTIAL) if modified.elapsed().unwrap_or_default() > ABANDONED => fs::remove_file(path)?,
                _ => {}
            }
        }
        let mut total: u64 = entries.iter().map(|(_, size, _)| size).sum();
        entries.sort();
        for (_, size, path) in entries {
            if total <= self.size {
                break;
            }
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => total -= size,
            }
        }
        Ok(())
    }

    /// Includes the name, so that an entry cannot be renamed to another.
    fn mac(&self, name: &str, code: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        mac.update(name.as_bytes());
        mac.update(code);
        Some(mac)
    }
}

/// The conventional location for caches of a user (XDG base directories).
pub(super) fn usual() -> Option<PathBuf> {
    let named = |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache")))?;
    Some(caches.join("lodge"))
}

/// The key of the cache in `directory`. Creates both if they do not exist.
fn key_in(directory: &Path) -> io::Result<[u8; KEY]> {
    let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let metadata = fs::metadata(directory)?;
    let me = rustix::process::geteuid().as_raw();
    if ![0, me].contains(&metadata.uid()) || metadata.mode() & 0o022 != 0 {
        return refuse("other users can write to it, and its code is run unchecked");
    }
    let path = directory.join(KEY_FILE);
    match fs::symlink_metadata(&path) {
        Ok(key) if !key.is_file() || ![0, me].contains(&key.uid()) || key.mode() & 0o077 != 0 => {
            return refuse("its key is not a file that only Lodge can read");
        }
        Ok(_) => {}
        Err(_) => make_key(directory, &path)?,
    }
    fs::read(&path)?.try_into().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "its key is damaged; remove it"))
}

/// Writes a file atomically, and never over one that another host has just written.
fn make_key(directory: &Path, path: &Path) -> io::Result<()> {
    let partial = write_partial(directory, &[&random::<KEY>()?])?;
    let linked = fs::hard_link(&partial, path);
    fs::remove_file(partial)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn write_partial(directory: &Path, parts: &[&[u8]]) -> io::Result<PathBuf> {
    let unique = u64::from_ne_bytes(random()?);
    let path = directory.join(format!("{unique:016x}.{PARTIAL}"));
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
    let written = parts.iter().try_for_each(|part| file.write_all(part));
    if let Err(error) = written {
        // A partial file would waste space on a full disk.
        let _ = fs::remove_file(&path);
        return Err(error);
    }
    Ok(path)
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}
