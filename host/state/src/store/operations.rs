//! The operations of key-value interfaces, in terms of reads and writes.

use tokio::time::Instant;

use crate::entry::{Entry, Expiry, Value, Version};
use crate::error::Error;
use crate::key::Key;
use crate::store::{Batch, Store};
use crate::write::{Change, Condition, Write};

/// How `set` writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Set {
    /// When the entry expires.
    pub expiry: Expiry,
    /// Fail with [`Error::Conflict`] if the key exists.
    pub if_absent: bool,
}

/// The outcome of a compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The write was done. The version of the new entry; `None` after a deletion.
    Done(Option<Version>),
    /// The condition was not true, and nothing was written. This is the current entry.
    Stale(Option<Entry>),
}

impl dyn Store {
    /// Returns whether `key` exists.
    ///
    /// # Errors
    /// [`Error::Timeout`] and [`Error::Unavailable`], as every operation.
    pub async fn exists(&self, key: Key<'_>, deadline: Instant) -> Result<bool, Error> {
        Ok(self.get(key, deadline).await?.is_some())
    }

    /// Stores `value`, and returns its version.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the key exists and must not, and [`Error::QuotaExceeded`].
    pub async fn set(&self, key: Key<'_>, value: Value, set: Set, deadline: Instant) -> Result<Version, Error> {
        let condition = if set.if_absent { Condition::Absent } else { Condition::Always };
        let write = Write { key, condition, change: Change::Put(value, set.expiry) };
        match self.write(write, deadline).await? {
            outcome if !outcome.applied => Err(Error::Conflict),
            outcome => outcome.after.map(|entry| entry.version).ok_or_else(|| Error::unavailable(NO_ENTRY)),
        }
    }

    /// Deletes `key`, and returns whether it existed.
    ///
    /// # Errors
    /// [`Error::Timeout`] and [`Error::Unavailable`], as every operation.
    pub async fn delete(&self, key: Key<'_>, deadline: Instant) -> Result<bool, Error> {
        let write = Write { key, condition: Condition::Always, change: Change::Remove };
        Ok(self.write(write, deadline).await?.removed)
    }

    /// Adds `delta` to the number under `key`, 0 if it does not exist, and returns the sum. The expiry stays.
    ///
    /// # Errors
    /// [`Error::NotANumber`], [`Error::Overflow`], and [`Error::QuotaExceeded`].
    pub async fn increment(&self, key: Key<'_>, delta: i64, deadline: Instant) -> Result<i64, Error> {
        let write = Write { key, condition: Condition::Always, change: Change::Add(delta) };
        let after = self.write(write, deadline).await?.after;
        after.ok_or_else(|| Error::unavailable(NO_ENTRY))?.value.to_number()
    }

    /// Makes `change` if `condition` is true.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`], and those of [`Change::Add`]. A condition that is not true is [`Swap::Stale`].
    pub async fn compare_and_swap(
        &self,
        key: Key<'_>,
        condition: Condition,
        change: Change,
        deadline: Instant,
    ) -> Result<Swap, Error> {
        let outcome = self.write(Write { key, condition, change }, deadline).await?;
        Ok(match outcome.applied {
            true => Swap::Done(outcome.after.map(|entry| entry.version)),
            false => Swap::Stale(outcome.after),
        })
    }

    /// Stores several values, which never expire.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if they are no [`Batch`], and [`Error::QuotaExceeded`]; some may have been stored.
    pub async fn set_many(&self, entries: Vec<(Key<'_>, Value)>, deadline: Instant) -> Result<(), Error> {
        let put = |(key, value)| Write { key, condition: Condition::Always, change: Change::Put(value, Expiry::Never) };
        self.write_many(Batch::new(entries.into_iter().map(put).collect())?, deadline).await?;
        Ok(())
    }

    /// Deletes several keys, and returns how many of them existed.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if they are no [`Batch`].
    pub async fn delete_many(&self, keys: &[Key<'_>], deadline: Instant) -> Result<usize, Error> {
        let remove = |key| Write { key, condition: Condition::Always, change: Change::Remove };
        let writes = Batch::new(keys.iter().copied().map(remove).collect())?;
        Ok(self.write_many(writes, deadline).await?.iter().filter(|outcome| outcome.removed).count())
    }
}

/// A backend has broken the contract of `write`.
const NO_ENTRY: &str = "it has confirmed a write without its entry: report this as a bug of the backend";
