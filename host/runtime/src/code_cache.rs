//! Machine code of components on disk, so that a restart compiles nothing.
//!
//! It comes from the host's own [`Directory`] (`cache.directory`), or from a [`Sealed`] one that was made with an image
//! (`cache.sealed`). Entries are named after the component's digest and the engine that compiled it; an entry that cannot
//! be used is a miss.

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

/// What entries end in.
const ENTRY: &str = "cwasm";

/// What machine code depends on: version, settings and processor. Engines with one stamp run each other's code.
#[derive(Debug, PartialEq, Eq)]
pub struct Stamp([u8; 32]);

/// Compiled components on disk.
pub struct Cache {
    own: Option<Directory>,
    sealed: Option<Sealed>,
}

impl Cache {
    /// The cache that the configuration asks for; `None` when it asks for none. A directory that cannot be used is left
    /// out, and the log says why.
    pub fn open(config: &config::Cache) -> Option<Self> {
        let own = match config.directory {
            CacheDirectory::Off => None,
            _ => Directory::open(config)
                .inspect_err(|why| tracing::warn!("no compile cache, every start compiles: {why}"))
                .ok(),
        };
        let sealed = config.sealed.as_deref().and_then(|path| {
            Sealed::open(path).inspect_err(|why| tracing::warn!("cache.sealed is not used: {why}")).ok()
        });
        (own.is_some() || sealed.is_some()).then_some(Self { own, sealed })
    }

    /// The component with this digest, if an engine with this stamp compiled it before; `engine` has it.
    pub fn load(&self, stamp: &Stamp, engine: &Engine, digest: Digest) -> Option<Component> {
        let name = name(stamp, digest);
        let sealed = self.sealed.as_ref().and_then(|sealed| sealed.load(&name, engine));
        sealed.or_else(|| self.own.as_ref()?.load(&name, engine))
    }

    /// Whether there is an entry for this digest by an engine with this stamp.
    pub fn holds(&self, stamp: &Stamp, digest: Digest) -> bool {
        let name = name(stamp, digest);
        let sealed = self.sealed.as_ref().is_some_and(|sealed| sealed.holds(&name));
        sealed || self.own.as_ref().is_some_and(|own| own.holds(&name))
    }

    /// Stores the machine code of a component.
    pub fn store(&self, stamp: &Stamp, digest: Digest, code: &[u8]) {
        self.own.iter().for_each(|own| own.store(&name(stamp, digest), code));
    }

    /// Removes an entry for which there is a better one.
    pub fn remove(&self, stamp: &Stamp, digest: Digest) {
        self.own.iter().for_each(|own| own.remove(&name(stamp, digest)));
    }
}

/// Copies every entry of `own` into a directory of machine code that is trusted by digest.
///
/// # Errors
/// When one of them cannot be read or written.
pub fn seal(own: &Directory, into: &Path) -> Result<usize, String> {
    let failed = |error| format!("{} cannot be sealed: {error}", into.display());
    let entries = own.entries().map_err(failed)?;
    Sealed::write(into, &entries).map_err(failed)?;
    Ok(entries.len())
}

/// Machine code as `Component::serialize` and `Engine::precompile_component` return it, for `engine`. It is run as it is:
/// only for bytes that a compiler of this host wrote, over a pipe or under the tag of its directory, and for bytes
/// with the digest that a sealed directory has for them.
///
/// # Errors
/// When it was made by another version of wasmtime or for an engine with other settings.
#[expect(unsafe_code, reason = "wasmtime cannot tell machine code from an attack; the tag and the pipe can")]
pub(crate) fn deserialize(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: these bytes come from a compiler that this process started and over a pipe that nobody else has, or the tag,
    // which has been verified, says that a host with our key wrote them, and that writes nothing else; or they have the
    // digest in an index that only whoever made the image can write. wasmtime checks that version and engine agree.
    unsafe { Component::deserialize(engine, code) }
}

/// What is wrong with a cache inside the directory of components, where others may put files, by whatever names and
/// links the two are written and whether or not they exist.
pub fn misplaced(config: &config::Config) -> Option<String> {
    let own = match &config.cache.directory {
        CacheDirectory::Off => None,
        CacheDirectory::At(path) => Some(path.clone()),
        CacheDirectory::Auto => directory::usual(),
    };
    let places = [("cache.directory", own), ("cache.sealed", config.cache.sealed.clone())];
    let inside = places.into_iter().filter_map(|(key, path)| Some((key, path?)));
    let (key, path) = inside.into_iter().find(|(_, path)| lodge_base::files::is_inside(path, &config.guests))?;
    Some(format!(
        "{key}: {} is inside the guests directory, and what it holds is run unchecked; put it where only Lodge can write",
        path.display()
    ))
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
