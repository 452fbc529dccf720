//! Machine code of components on disk, so that a restart compiles nothing.
//!
//! It comes from the host's own [`Directory`] (`cache.directory`), or from a [`Sealed`] one that was made with an image
//! (`cache.sealed`). Entries are named by the component's digest and the engine that compiled it. An unusable entry is
//! a miss.

mod directory;
mod sealed;

use std::hash::{Hash, Hasher};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

pub use self::directory::Directory;
pub use self::sealed::Sealed;
use lodge_base::config::{self, CacheDirectory};
use lodge_manifest::digest::Digest;

/// The extension of entries.
const ENTRY: &str = "cwasm";

/// A digest of everything that machine code depends on: version, settings and processor. Engines with the same stamp
/// run each other's code.
#[derive(Debug, PartialEq, Eq)]
pub struct EngineStamp([u8; 32]);

/// The compiled components on disk.
pub struct CodeCache {
    own: Option<Directory>,
    sealed: Option<Sealed>,
}

impl CodeCache {
    /// Opens the configured cache; `None` if there is none. A directory that cannot be used is logged and left out.
    pub fn open(config: &config::Cache) -> Option<Self> {
        let own = match config.directory {
            CacheDirectory::Off => None,
            _ => Directory::open(config)
                .inspect_err(|why| tracing::warn!("no compile cache, so every start compiles all components: {why}"))
                .ok(),
        };
        let sealed = config
            .sealed
            .as_deref()
            .and_then(|path| Sealed::open(path).inspect_err(|why| tracing::warn!("ignoring cache.sealed: {why}")).ok());
        (own.is_some() || sealed.is_some()).then_some(Self { own, sealed })
    }

    /// Loads the component with this digest for `engine`, if an engine with this stamp has compiled it.
    pub fn load(&self, stamp: &EngineStamp, engine: &Engine, digest: Digest) -> Option<Component> {
        let name = name(stamp, digest);
        let sealed = self.sealed.as_ref().and_then(|sealed| sealed.load(&name, engine));
        sealed.or_else(|| self.own.as_ref()?.load(&name, engine))
    }

    /// Whether there is an entry for this digest by an engine with this stamp.
    pub fn holds(&self, stamp: &EngineStamp, digest: Digest) -> bool {
        let name = name(stamp, digest);
        let sealed = self.sealed.as_ref().is_some_and(|sealed| sealed.holds(&name));
        sealed || self.own.as_ref().is_some_and(|own| own.holds(&name))
    }

    /// Stores the machine code of a component.
    pub fn store(&self, stamp: &EngineStamp, digest: Digest, code: &[u8]) {
        self.own.iter().for_each(|own| own.store(&name(stamp, digest), code));
    }

    /// Removes an entry that a better one replaces.
    pub fn remove(&self, stamp: &EngineStamp, digest: Digest) {
        self.own.iter().for_each(|own| own.remove(&name(stamp, digest)));
    }
}

/// Copies all entries of `own` into a directory of machine code that is trusted by digest.
///
/// # Errors
/// When one of them cannot be read or written.
pub fn seal(own: &Directory, into: &Path) -> Result<usize, String> {
    let failed = |error| format!("{} cannot be sealed: {error}", into.display());
    let entries = own.entries().map_err(failed)?;
    Sealed::write(into, &entries).map_err(failed)?;
    Ok(entries.len())
}

/// Loads machine code as `Component::serialize` and `Engine::precompile_component` return it, for `engine`. It is
/// executed without further checks, so it must only be called with bytes that a compiler of this host wrote, received
/// over a pipe or stored under the tag of its directory, or with bytes whose digest a sealed directory lists.
///
/// # Errors
/// When it was made by another version of wasmtime or for an engine with other settings.
#[expect(unsafe_code, reason = "wasmtime cannot tell machine code from an attack; the tag and the pipe can")]
pub(crate) fn deserialize(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: these bytes come from a compiler that this process started, over a pipe that no other process has; or the
    // tag, which was verified, proves that a host with this key wrote them, which writes nothing else; or they have a
    // digest from an index that only the maker of the image can write. wasmtime checks that version and engine agree.
    unsafe { Component::deserialize(engine, code) }
}

/// Returns the directories with machine code, with the keys that name them.
pub fn places(config: &config::Config) -> impl Iterator<Item = (&'static str, std::path::PathBuf)> {
    let own = match &config.cache.directory {
        CacheDirectory::Off => None,
        CacheDirectory::At(path) => Some(path.clone()),
        CacheDirectory::Auto => directory::usual(),
    };
    let places = [("cache.directory", own), ("cache.sealed", config.cache.sealed.clone())];
    places.into_iter().filter_map(|(key, path)| Some((key, path?)))
}

/// Returns an error if a cache is inside the directory of components, where others may put files. Compares the real
/// paths, whether or not they exist.
pub fn misplaced(config: &config::Config) -> Option<String> {
    let (key, path) = places(config).find(|(_, path)| lodge_base::files::is_inside(path, &config.guests))?;
    Some(format!(
        "{key}: {} is inside the guests directory, but its code is run unchecked; move it to where only Lodge can write",
        path.display()
    ))
}

fn name(stamp: &EngineStamp, digest: Digest) -> String {
    let mut name = Sha256::new();
    name.update(digest.to_string());
    name.update(stamp.0);
    format!("{}.{ENTRY}", Digest::from(<[u8; 32]>::from(name.finalize())))
}

impl EngineStamp {
    /// The stamp of everything about an engine that its machine code depends on.
    pub fn of(engine: &Engine) -> Self {
        /// A hasher whose results are the same in every process, unlike those of std.
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
