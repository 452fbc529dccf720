//! A bounded number of keys or writes.

use crate::entry::Entry;
use crate::error::Error;
use crate::key::Key;
use crate::limits::{MAX_BATCH, MAX_BATCH_BYTES};
use crate::write::Write;

/// At most [`MAX_BATCH`] keys or writes, of at most [`MAX_BATCH_BYTES`] together.
#[derive(Clone, Debug)]
pub struct Batch<T>(Vec<T>);

/// Something that is counted in bytes.
pub trait Measured {
    /// Bytes of its keys and values.
    fn size(&self) -> u64;
}

impl Measured for Key<'_> {
    fn size(&self) -> u64 {
        Key::size(*self)
    }
}

impl Measured for Write<'_> {
    fn size(&self) -> u64 {
        self.key.size() + self.change.size()
    }
}

impl<T: Measured> Batch<T> {
    /// The batch of `items`, which may be empty.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if there are too many, or too many bytes.
    pub fn new(items: Vec<T>) -> Result<Batch<T>, Error> {
        if items.len() > MAX_BATCH {
            return Err(Error::TooLarge { what: "the batch", unit: "keys", size: items.len(), limit: MAX_BATCH });
        }
        let bytes = items.iter().map(Measured::size).sum::<u64>() as usize;
        if bytes > MAX_BATCH_BYTES {
            return Err(Error::TooLarge { what: "the batch", unit: "bytes", size: bytes, limit: MAX_BATCH_BYTES });
        }
        Ok(Batch(items))
    }

    /// Bytes of its keys and values.
    pub fn size(&self) -> u64 {
        self.0.iter().map(Measured::size).sum()
    }
}

impl<T> Batch<T> {
    /// Its items.
    pub fn as_slice(&self) -> &[T] {
        &self.0
    }

    /// Its items.
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

/// The entries of a batch, whose values are bounded together.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    entries: Vec<Option<Entry>>,
    bytes: usize,
}

impl Entries {
    /// Adds the next entry.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the values exceed [`MAX_BATCH_BYTES`].
    pub(crate) fn push(&mut self, entry: Option<Entry>) -> Result<(), Error> {
        self.bytes += entry.as_ref().map_or(0, |entry| entry.value.as_slice().len());
        if self.bytes > MAX_BATCH_BYTES {
            return Err(Error::TooLarge {
                what: "the result of the batch",
                unit: "bytes",
                size: self.bytes,
                limit: MAX_BATCH_BYTES,
            });
        }
        self.entries.push(entry);
        Ok(())
    }

    /// All entries.
    pub(crate) fn into_vec(self) -> Vec<Option<Entry>> {
        self.entries
    }
}
