//! Writes: a condition and a change, as data. [`apply`] says what they mean, once for all backends.

use crate::clock::Timestamp;
use crate::entry::{Entry, Expiry, Value, Version};
use crate::error::Error;
use crate::key::Key;

/// A write of one key. It is atomic: the condition is checked and the change made in one step.
#[derive(Clone, Debug)]
pub struct Write<'a> {
    /// The key.
    pub key: Key<'a>,
    /// What must be true of its entry before.
    pub condition: Condition,
    /// What is done then.
    pub change: Change,
}

/// What must be true of an entry before a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    Always,
    /// The key does not exist.
    Absent,
    /// The key exists with this version.
    Version(Version),
    /// The key exists with this value. Other writes may have changed it to another value and back.
    Value(Value),
    /// The key exists with this version and this value.
    Both(Version, Value),
}

impl Condition {
    /// Whether it holds for `entry`.
    pub fn holds(&self, entry: Option<&Entry>) -> bool {
        match self {
            Condition::Always => true,
            Condition::Absent => entry.is_none(),
            Condition::Version(version) => entry.is_some_and(|entry| entry.version == *version),
            Condition::Value(value) => entry.is_some_and(|entry| entry.value == *value),
            Condition::Both(version, value) => {
                entry.is_some_and(|entry| entry.version == *version && entry.value == *value)
            }
        }
    }
}

/// How an entry is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Stores a value.
    Put(Value, Expiry),
    /// Adds to a number, whose expiry stays; a key that does not exist counts as 0.
    Add(i64),
    /// Deletes the entry.
    Remove,
}

impl Change {
    /// Bytes of the value that it stores at most.
    pub fn size(&self) -> u64 {
        match self {
            Change::Put(value, _) => value.size(),
            Change::Add(_) => 20,
            Change::Remove => 0,
        }
    }
}

/// What a write has done. Entries that have expired count as absent.
///
/// It has no value that the write has replaced or removed: a batch of small writes would return many large ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the condition was true, and so the change made.
    pub applied: bool,
    /// Whether the change has removed an entry.
    pub removed: bool,
    /// The entry after: as it was written, or the one for which the condition was not true.
    pub after: Option<Entry>,
}

/// Applies a write to the entry `before`, which must be live. An entry that is written gets `version`.
///
/// # Errors
/// [`Error::NotANumber`] and [`Error::Overflow`] of [`Change::Add`].
pub fn apply(
    before: Option<Entry>,
    condition: &Condition,
    change: &Change,
    version: Version,
    now: Timestamp,
) -> Result<Outcome, Error> {
    if !condition.holds(before.as_ref()) {
        return Ok(Outcome { applied: false, removed: false, after: before });
    }
    let kept = before.as_ref().and_then(|entry| entry.expires);
    let after = match change {
        Change::Put(value, expiry) => {
            let expires = match expiry {
                Expiry::Never => None,
                Expiry::After(ttl) => Some(now.after(ttl.duration())),
                Expiry::Keep => kept,
            };
            Some(Entry { value: value.clone(), version, expires })
        }
        Change::Add(delta) => {
            let number = before.as_ref().map_or(Ok(0), |entry| entry.value.to_number())?;
            let sum = number.checked_add(*delta).ok_or(Error::Overflow)?;
            Some(Entry { value: Value::number(sum), version, expires: kept })
        }
        Change::Remove => None,
    };
    Ok(Outcome { applied: true, removed: before.is_some() && after.is_none(), after })
}
