//! Names: of namespaces, of buckets and of keys. A value of these types is within the limits.

use std::sync::Arc;

use crate::error::Error;
use crate::limits::{MAX_BUCKET, MAX_KEY, MAX_NAMESPACE};

/// Checks the length of a name.
pub(crate) fn name(what: &'static str, text: &str, limit: usize) -> Result<(), Error> {
    if text.is_empty() {
        return Err(Error::Invalid { what, problem: "is empty: use at least one byte" });
    }
    if text.len() > limit {
        return Err(Error::TooLarge { what, unit: "bytes", size: text.len(), limit });
    }
    Ok(())
}

/// The name of a namespace: all state of one service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// The namespace `name`.
    ///
    /// # Errors
    /// If `name` is empty or longer than [`MAX_NAMESPACE`].
    pub fn new(text: &str) -> Result<Namespace, Error> {
        name("the name of the namespace", text, MAX_NAMESPACE)?;
        Ok(Namespace(text.into()))
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A key and its bucket. Both are text in UTF-8 without further rules: a backend encodes what its server does not accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key<'a> {
    bucket: &'a str,
    name: &'a str,
}

impl<'a> Key<'a> {
    /// The key `name` of `bucket`. A bucket exists as long as it has keys.
    ///
    /// # Errors
    /// If one of them is empty, or longer than [`MAX_BUCKET`] or [`MAX_KEY`].
    pub fn new(bucket: &'a str, name: &'a str) -> Result<Key<'a>, Error> {
        self::name("the name of the bucket", bucket, MAX_BUCKET)?;
        self::name("the key", name, MAX_KEY)?;
        Ok(Key { bucket, name })
    }

    /// A key from names that were checked when they were stored.
    pub(crate) const fn stored(bucket: &'a str, name: &'a str) -> Key<'a> {
        Key { bucket, name }
    }

    /// The name of the bucket.
    pub const fn bucket(self) -> &'a str {
        self.bucket
    }

    /// The key in its bucket.
    pub const fn name(self) -> &'a str {
        self.name
    }

    /// Bytes of both, as quotas count them.
    pub const fn size(self) -> u64 {
        (self.bucket.len() + self.name.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked() {
        assert!(Key::new("b", &"k".repeat(MAX_KEY)).is_ok());
        let long = "k".repeat(MAX_KEY + 1);
        assert_eq!(
            Key::new("b", &long),
            Err(Error::TooLarge { what: "the key", unit: "bytes", size: 1025, limit: 1024 })
        );
        assert!(matches!(Key::new("", "k"), Err(Error::Invalid { .. })));
        assert!(matches!(Key::new("b", ""), Err(Error::Invalid { .. })));
        assert!(matches!(Key::new(&"b".repeat(MAX_BUCKET + 1), "k"), Err(Error::TooLarge { .. })));
        assert!(matches!(Namespace::new(&"n".repeat(MAX_NAMESPACE + 1)), Err(Error::TooLarge { .. })));
    }
}
