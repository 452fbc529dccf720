//! The host's own directory of machine code, whose entries carry a tag that takes its key to make.
//!
//! Machine code is run as it is, so an entry is only trusted under its tag (HMAC-SHA256), and only in a directory that
//! nobody else can write to. Hosts may share a directory: entries appear whole, by rename.

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

/// Bytes of the key and of a tag.
const KEY: usize = 32;
/// The name of the key's file.
const KEY_FILE: &str = "key";
/// What files end in before they are entries.
const PARTIAL: &str = "part";
/// A partial file this old belongs to a host that was killed.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

/// A directory of compiled components.
pub struct Directory {
    path: PathBuf,
    key: [u8; KEY],
    size: u64,
    /// The last entry could not be written, and the log says so.
    failing: AtomicBool,
}

impl Directory {
    /// The directory that the configuration names; made if it is not there.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open(config: &config::Cache) -> Result<Self, String> {
        let directory = match &config.directory {
            CacheDirectory::Off => return Err("cache.directory is `off`".into()),
            CacheDirectory::At(path) => path.clone(),
            CacheDirectory::Auto => usual().ok_or("there is no home directory; set cache.directory")?,
        };
        let key = key_in(&directory)
            .map_err(|error| format!("{}: {error}; name another in cache.directory, or `off`", directory.display()))?;
        Ok(Self { path: directory, key, size: config.size as u64, failing: AtomicBool::new(false) })
    }

    /// The component in the entry with this name, if there is one that this host or one with the same key wrote.
    pub(super) fn load(&self, name: &str, engine: &Engine) -> Option<Component> {
        let path = self.path.join(name);
        let bytes = fs::read(&path).ok()?;
        let component = deserialize(engine, self.verified(name, &bytes)?).ok()?;
        // The entry used longest ago is evicted first. If the time cannot be set, the order is only less good.
        let _ = File::options().append(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(component)
    }

    /// Machine code without its tag, if the tag is right.
    fn verified<'a>(&self, name: &str, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (tag, code) = bytes.split_at_checked(KEY)?;
        if self.mac(name, code)?.verify_slice(tag).is_ok() {
            return Some(code);
        }
        tracing::warn!("compile cache entry {} has an invalid signature; recompiling", self.path.join(name).display());
        None
    }

    /// Every entry: its name and its machine code.
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

    /// Stores machine code under this name. A directory that cannot be written to is no reason not to serve; the log
    /// says so once, until an entry can be written again.
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

    /// Whether the last entry could not be written.
    #[cfg(test)]
    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Relaxed)
    }

    /// Removes the entry with this name.
    pub(super) fn remove(&self, name: &str) {
        // What cannot be removed is evicted some day.
        let _ = fs::remove_file(self.path.join(name));
    }

    /// Removes the entries used longest ago until the rest is within bounds, and partial files of hosts that were killed.
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

    /// Over the name as well: an entry must not answer for another.
    fn mac(&self, name: &str, code: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        mac.update(name.as_bytes());
        mac.update(code);
        Some(mac)
    }
}

/// Where caches of a user are by convention (XDG base directories).
pub(super) fn usual() -> Option<PathBuf> {
    let named = |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache")))?;
    Some(caches.join("lodge"))
}

/// The key of the cache in `directory`; makes both if they are not there.
fn key_in(directory: &Path) -> io::Result<[u8; KEY]> {
    let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let metadata = fs::metadata(directory)?;
    let me = rustix::process::geteuid().as_raw();
    if ![0, me].contains(&metadata.uid()) || metadata.mode() & 0o022 != 0 {
        return refuse("others can write to it, and it holds code that is run unchecked");
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

/// Whole or not at all, and never over one that another host has just made.
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
        // A full disk: do not make it fuller.
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
