//! Machine code of components on disk, so that a restart compiles nothing.
//!
//! Machine code is run as it is, so an entry is only trusted under a tag (HMAC-SHA256) that takes the cache's key to
//! make, and only in a directory that nobody else can write to. Entries are named after the component's digest
//! and the engine that compiled it; whatever cannot be used is a miss. Hosts may share a cache: entries
//! appear whole, by rename.

use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::digest::Digest;
use crate::config::{self, CacheDirectory};

/// Bytes of the key and of a tag.
const KEY: usize = 32;
/// The name of the key's file.
const KEY_FILE: &str = "key";
/// What entries end in.
const ENTRY: &str = "cwasm";
/// What files end in before they are entries.
const PARTIAL: &str = "part";
/// A partial file this old belongs to a host that was killed.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

/// What machine code depends on: version, settings and processor. Engines with one stamp run each other's code.
#[derive(Debug, PartialEq, Eq)]
pub struct Stamp([u8; 32]);

/// A directory of compiled components.
pub struct Cache {
    directory: PathBuf,
    key: [u8; KEY],
    size: u64,
}

impl Cache {
    /// The cache that the configuration asks for.
    ///
    /// # Errors
    /// Why there is none: a host without one compiles at every start.
    pub fn open(config: &config::Cache) -> Result<Self, String> {
        let directory = match &config.directory {
            CacheDirectory::Off => return Err("cache.directory is `off`".into()),
            CacheDirectory::At(path) => path.clone(),
            CacheDirectory::Auto => default_directory().ok_or("there is no home directory; set cache.directory")?,
        };
        let key = key_in(&directory)
            .map_err(|error| format!("{}: {error}; name another in cache.directory, or `off`", directory.display()))?;
        Ok(Self { directory, key, size: config.size as u64 })
    }

    /// The component with this digest, if an engine with this stamp compiled it before; `engine` has it.
    pub fn load(&self, stamp: &Stamp, engine: &Engine, digest: Digest) -> Option<Component> {
        let name = name(stamp, digest);
        let path = self.directory.join(&name);
        let bytes = fs::read(&path).ok()?;
        let (tag, code) = bytes.split_at_checked(KEY)?;
        if self.mac(&name, code)?.verify_slice(tag).is_err() {
            tracing::warn!("compile cache entry {} has an invalid signature; recompiling", path.display());
            return None;
        }
        let component = deserialize(engine, code).ok()?;
        // The one used longest ago goes first. If the time cannot be set, the order is only less good.
        let _ = File::options().append(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(component)
    }

    /// Whether there is an entry for this digest by an engine with this stamp.
    pub fn holds(&self, stamp: &Stamp, digest: Digest) -> bool {
        self.directory.join(name(stamp, digest)).is_file()
    }

    /// Stores the machine code of a component. A cache that cannot be written to is no reason not to serve.
    pub fn store(&self, stamp: &Stamp, digest: Digest, code: &[u8]) {
        let name = name(stamp, digest);
        let write = || {
            let mac = self.mac(&name, code).ok_or(io::ErrorKind::InvalidInput)?;
            let tag = mac.finalize().into_bytes();
            let partial = write_partial(&self.directory, &[&tag, code])?;
            fs::rename(partial, self.directory.join(&name))?;
            self.evict()
        };
        if let Err(error) = write() {
            tracing::debug!("{}: {error}", self.directory.display());
        }
    }

    /// Removes an entry for which there is a better one.
    pub fn remove(&self, stamp: &Stamp, digest: Digest) {
        // What cannot be removed is evicted some day.
        let _ = fs::remove_file(self.directory.join(name(stamp, digest)));
    }

    /// Removes what was used longest ago until the rest is within bounds, and what killed hosts have left.
    fn evict(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
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

/// Machine code as `Component::serialize` and `Engine::precompile_component` return it, for `engine`. It is run as it is:
/// only for bytes that a compiler of this host wrote, over a pipe or under the cache's tag.
///
/// # Errors
/// When it was made by another version of wasmtime or for an engine with other settings.
#[expect(unsafe_code, reason = "wasmtime cannot tell machine code from an attack; the tag and the pipe can")]
pub(in crate::guests) fn deserialize(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: these bytes come from a compiler that this process started and over a pipe that nobody else has, or the tag,
    // which has been verified, says that a host with our key wrote them, and that writes nothing else. wasmtime checks that
    // version and engine agree.
    unsafe { Component::deserialize(engine, code) }
}

/// What is wrong with a cache inside the directory of components, where others may put files, by whatever names and
/// links the two are written and whether or not they exist.
pub fn misplaced(config: &config::Config) -> Option<String> {
    let directory = match &config.cache.directory {
        CacheDirectory::Off => return None,
        CacheDirectory::At(path) => path.clone(),
        CacheDirectory::Auto => default_directory()?,
    };
    crate::files::is_inside(&directory, &config.guests).then(|| {
        format!(
            "cache.directory: {} is inside the guests directory, and what it holds is run unchecked; put it where only \
             Lodge can write",
            directory.display()
        )
    })
}

/// Where caches of a user are by convention (XDG base directories).
fn default_directory() -> Option<PathBuf> {
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

fn name(stamp: &Stamp, digest: Digest) -> String {
    let mut name = Sha256::new();
    name.update(digest.to_string());
    name.update(stamp.0);
    format!("{}.{ENTRY}", Digest::from(<[u8; 32]>::from(name.finalize())))
}

impl Stamp {
    /// The stamp of everything about an engine that its machine code depends on.
    pub fn of(engine: &Engine) -> Self {
        /// std's hashers are not for keeping; this one is the same in every process.
        struct Stable(Sha256);
        impl Hasher for Stable {
            fn write(&mut self, bytes: &[u8]) {
                self.0.update(bytes);
            }
            fn finish(&self) -> u64 {
                0
            }
        }
        let mut stable = Stable(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut stable);
        Self(stable.0.finalize().into())
    }
}

#[cfg(test)]
mod tests;
