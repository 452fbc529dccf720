//! Names of entries in the database: namespace, bucket and key.

use std::hash::{Hash, Hasher};

use quick_cache::Equivalent;

use crate::key::Key;

/// The number of a namespace in the database.
pub(super) type Id = i64;

/// The name of an entry, in one allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) namespace: Id,
    /// The bucket and the key, one after the other.
    text: Box<str>,
    bucket: usize,
}

impl Path {
    pub(super) fn new(namespace: Id, key: Key<'_>) -> Path {
        let mut text = String::with_capacity(key.bucket().len() + key.name().len());
        text.push_str(key.bucket());
        text.push_str(key.name());
        Path { namespace, text: text.into(), bucket: key.bucket().len() }
    }

    /// Its bucket and key.
    pub(super) fn key(&self) -> Key<'_> {
        let (bucket, name) = self.text.split_at_checked(self.bucket).unwrap_or_default();
        Key::stored(bucket, name)
    }
}

impl Hash for Path {
    fn hash<H: Hasher>(&self, state: &mut H) {
        PathRef { namespace: self.namespace, key: self.key() }.hash(state);
    }
}

/// A borrowed [`Path`].
#[derive(Clone, Copy, Hash)]
pub(super) struct PathRef<'a> {
    pub(super) namespace: Id,
    pub(super) key: Key<'a>,
}

impl Equivalent<Path> for PathRef<'_> {
    fn equivalent(&self, path: &Path) -> bool {
        self.namespace == path.namespace && self.key == path.key()
    }
}
