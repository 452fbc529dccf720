//! Buckets in bounded memory: a set-associative table, like a processor's cache.
//!
//! A key is stored as a hash that is seeded at random per process, so a client cannot choose its set, and no client data is
//! stored. A key can be in eight slots of its set. When all of them are taken, the bucket that is full again soonest is
//! replaced, preferably one that is full already and therefore carries no state. So among clients with many addresses,
//! light use is forgotten first. A bucket at its limit stays, however many keys come, unless eight buckets with as
//! little room left fall into one set.

use std::array;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::Mutex;

use lodge_base::lock::lock;

/// Slots in a set.
const WAYS: usize = 8;

/// Sets: 32,768 buckets in half a megabyte.
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
    /// When the bucket is full again, in nanoseconds since the epoch; zero for a slot that was never used.
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

    /// Updates the bucket of `key` with `take`. Returns when the bucket is full again.
    ///
    /// # Errors
    /// The error of `take`, and when the bucket is full again.
    pub(super) fn take<E>(&self, key: &impl Hash, take: impl FnOnce(u64) -> Result<u64, E>) -> Result<u64, (u64, E)> {
        let key = self.hasher.hash_one(key);
        let set = usize::try_from(key % self.sets.len().max(1) as u64).unwrap_or(0);
        // This branch is unreachable: `sets` and `WAYS` are never zero.
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

    /// Returns the number of buckets that are not full at `now`.
    pub(super) fn in_use(&self, now: u64) -> usize {
        self.sets.iter().map(|set| lock(set).iter().filter(|bucket| bucket.full > now).count()).sum()
    }

    /// Returns a copy with the same hashes in which every time is converted.
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

    /// However many keys come, buckets with little room left are remembered, and memory does not grow.
    #[test]
    fn new_keys_do_not_evict_those_with_more_use() {
        let table = Table::sized(64);
        for n in 0..32 {
            take(&table, &format!("used {n}"), 1_000_000);
        }
        let used = table.in_use(999_999);
        assert_eq!(used, 32, "the chance that eight of them share a set is one in 200,000");
        for n in 0..100_000 {
            take(&table, &format!("light {n}"), 10);
        }
        assert_eq!(table.in_use(999_999), used);
        assert_eq!(table.in_use(0), 64 * WAYS, "the table is full and has not grown");
    }

    /// The slot of a bucket that is full again is the first to be replaced.
    #[test]
    fn full_buckets_are_evicted_first() {
        let table = Table::sized(1);
        for n in 0..8 {
            take(&table, &format!("{n}"), 100 + n);
        }
        take(&table, "new", 500);
        let has = |key: &str| table.take(&key, |full| if full > 0 { Err(()) } else { Ok(0) }).is_err();
        assert!((1..8).all(|n| has(&n.to_string())) && has("new"));
        assert_eq!(table.in_use(100), 8, "the bucket that is full first was replaced");
    }
}
