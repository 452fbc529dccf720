//! `[cache]`: the compile cache on disk.

use std::path::PathBuf;

use super::key::{Key, size};

/// The compile cache on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cache {
    /// The directory of the cache.
    pub directory: CacheDirectory,
    /// The directory of components that were compiled for an image. They are trusted by digest.
    pub sealed: Option<PathBuf>,
    /// The most bytes of all entries, without the sealed ones.
    pub size: usize,
}

/// The location of the compile cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CacheDirectory {
    /// The user's cache directory.
    #[default]
    Auto,
    /// No cache.
    Off,
    /// This directory.
    At(PathBuf),
}

/// Every setting, in the order of the docs.
pub(super) const KEYS: &[Key<Cache>] = &[
    Key {
        name: "directory",
        default: "auto",
        help: "the compile cache, in a directory of its own; `auto` is `~/.cache/lodge`, `off` disables it",
        set: |c, text| {
            c.directory = match text {
                "auto" => CacheDirectory::Auto,
                "off" => CacheDirectory::Off,
                "" => return Err("must name a directory, or be `auto` or `off`".into()),
                path => CacheDirectory::At(path.into()),
            };
            Ok(())
        },
    },
    Key {
        name: "sealed",
        default: "",
        help: "compiled components that came with an image (`lodge compile --seal`): only read, and trusted by digest",
        set: |c, text| {
            c.sealed = (!text.is_empty()).then(|| text.into());
            Ok(())
        },
    },
    Key {
        name: "size",
        default: "1GiB",
        help: "size of all compiled components on disk; the least recently used is removed first",
        set: |c, text| size(text, 0..=1 << 50).map(|value| c.size = value),
    },
];
