//! Many buckets in a bounded place, like the lines of a processor's cache.
//!
//! A key is only a hash, keyed at random per process, so nobody can choose where it falls, and nothing of a client is
//! kept. It has eight places to be in. Where all are taken, the bucket that is full again soonest makes room, at best
//! one that is so already and says nothing any more. So of whoever comes with many addresses the light use is forgotten
//! first, and one that is at its limit stays there, however many come, until eight that owe as much fall together.

use std::array;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::Mutex;

use crate::base::lock::lock;

/// Places in which a key may be.
const WAYS: usize = 8;

/// Groups of such places: 32,768 buckets in half a megabyte.
const SETS: usize = 4096;

/// Buckets by key, at most `SETS × WAYS` of them.
#[derive(Debug)]
pub(super) struct Table {
    sets: Box<[Mutex<[Bucket; WAYS]>]>,
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    key: u64,
    /// When it is full again; never used when that is zero.
    full: u64,
}

impl Default for Table {
    fn default() -> Self {
        Self::sized(SETS)
    }
}

impl Table {
    pub(super) fn sized(sets: usize) -> Self {
        Self { sets: (0..sets).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    /// Moves the bucket of `key` on by `take`. Returns when it is full again.
    ///
    /// # Errors
    /// What `take` says against it, and when it is full again.
    pub(super) fn take<E>(&self, key: &impl Hash, take: impl FnOnce(u64) -> Result<u64, E>) -> Result<u64, (u64, E)> {
        let key = self.hasher.hash_one(key);
        let set = usize::try_from(key % self.sets.len().max(1) as u64).unwrap_or(0);
        // A set and a place in it are always there: `sets` and `WAYS` are never none.
        let Some(mut set) = self.sets.get(set).map(lock) else { return take(0).map_err(|error| (0, error)) };
        let known = set.iter().any(|bucket| bucket.key == key);
        let place = match known {
            true => set.iter_mut().find(|bucket| bucket.key == key),
            false => set.iter_mut().min_by_key(|bucket| bucket.full),
        };
        let full = if known { place.as_ref().map_or(0, |bucket| bucket.full) } else { 0 };
        let next = take(full).map_err(|error| (full, error))?;
        if let Some(bucket) = place {
            *bucket = Bucket { key, full: next };
        }
        Ok(next)
    }

    /// Buckets that are not full at `now`.
    pub(super) fn in_use(&self, now: u64) -> usize {
        self.sets.iter().map(|set| lock(set).iter().filter(|bucket| bucket.full > now).count()).sum()
    }

    /// A copy under the same hashes in which every time is converted.
    pub(super) fn converted(&self, convert: impl Fn(u64) -> u64) -> Self {
        let converted = |bucket: Bucket| Bucket { full: convert(bucket.full), ..bucket };
        let copied = self.sets.iter().map(|set| {
            let set = *lock(set);
            let mut buckets = set.into_iter().map(converted);
            Mutex::new(array::from_fn(|_| buckets.next().unwrap_or_default()))
        });
        Self { sets: copied.collect(), hasher: self.hasher.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(table: &Table, key: &str, until: u64) -> u64 {
        table.take(&key, |full| Ok::<_, ()>(full.max(until))).unwrap()
    }

    /// However many come, those that are deep in their debt are remembered, and memory is what it was.
    #[test]
    fn a_crowd_pushes_nobody_out_who_owes_more() {
        let table = Table::sized(64);
        for n in 0..32 {
            take(&table, &format!("owes {n}"), 1_000_000);
        }
        let owing = table.in_use(999_999);
        assert_eq!(owing, 32, "eight of them in one set is a chance of one in 200,000");
        for n in 0..100_000 {
            take(&table, &format!("passes by {n}"), 10);
        }
        assert_eq!(table.in_use(999_999), owing);
        assert_eq!(table.in_use(0), 64 * WAYS, "full, and no larger");
    }

    /// The place of a bucket that is full again is the first to be taken.
    #[test]
    fn what_says_nothing_goes_first() {
        let table = Table::sized(1);
        for n in 0..8 {
            take(&table, &format!("{n}"), 100 + n);
        }
        take(&table, "new", 500);
        let has = |key: &str| table.take(&key, |full| if full > 0 { Err(()) } else { Ok(0) }).is_err();
        assert!((1..8).all(|n| has(&n.to_string())) && has("new"));
        assert_eq!(table.in_use(100), 8, "the one that was to be full first is gone");
    }
}
