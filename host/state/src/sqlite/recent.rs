//! Entries in memory that were read or written recently. Reads of them need neither a thread nor SQLite.
//!
//! The copies are exact, because this process is the only one that writes to the file. Two rules keep them so:
//!
//! * The writer replaces the copy of every entry that it has written after the commit and before it confirms the write.
//! * A reader announces that it will read an entry before it begins ([`get_value_or_guard`](Cache::get_value_or_guard)). If the
//!   writer replaces the copy meanwhile, the reader's is discarded.

use std::time::Duration;

use quick_cache::sync::{Cache, GuardResult};
use quick_cache::{OptionsBuilder, Weighter};

use crate::entry::Entry;
use crate::sqlite::path::{Path, PathRef};

/// Bytes of the largest value that is kept, so that a few large ones do not displace many others.
const LARGEST: usize = 64 << 10;

/// Bytes of the smallest part of the cache that has room for names of any length and a value.
const SMALLEST_SHARD: u64 = 8 << 10;

/// The state of an entry in the database: `None` if it does not exist. It may have expired.
pub(super) type State = Option<Entry>;

#[derive(Clone)]
struct Bytes;

impl Weighter<Path, State> for Bytes {
    fn weight(&self, path: &Path, state: &State) -> u64 {
        let value = state.as_ref().map_or(0, |entry| entry.value.size());
        // The sizes of both, and what the allocator and the cache need for them.
        path.key().size() + value + 160
    }
}

/// The copies.
pub(super) struct RecentEntries {
    cache: Option<Cache<Path, State, Bytes>>,
    /// Bytes of the largest value. The cache must have room for everything that is inserted: where it has none, it would not
    /// discard the copy of a reader.
    largest: usize,
}

impl RecentEntries {
    /// Copies of at most `capacity` bytes; 0 is none.
    pub(super) fn new(capacity: u64) -> RecentEntries {
        let items = usize::try_from(capacity / 256).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new().estimated_items_capacity(items).weight_capacity(capacity).build();
        let new = |options| Cache::with_options(options, Bytes, Default::default(), Default::default());
        let cache = options.ok().map(new).filter(|cache| cache.shard_capacity() >= SMALLEST_SHARD);
        let shard = cache.as_ref().map_or(0, Cache::shard_capacity);
        RecentEntries { cache, largest: LARGEST.min(usize::try_from(shard / 4).unwrap_or(LARGEST)) }
    }

    /// The copy of an entry.
    pub(super) fn get(&self, path: PathRef<'_>) -> Option<State> {
        self.cache.as_ref()?.get(&path)
    }

    /// Reads an entry with `read`, and keeps a copy of it unless it was written meanwhile.
    pub(super) fn load<E>(&self, path: &Path, read: impl FnOnce() -> Result<State, E>) -> Result<State, E> {
        let Some(cache) = &self.cache else { return read() };
        // Without waiting for another reader of the same entry, which may be slower.
        match cache.get_value_or_guard(path, Some(Duration::ZERO)) {
            GuardResult::Value(state) => Ok(state),
            GuardResult::Timeout => read(),
            GuardResult::Guard(guard) => {
                let state = read()?;
                if self.keeps(&state) {
                    let _ = guard.insert(state.clone());
                }
                Ok(state)
            }
        }
    }

    /// Replaces the copy of an entry that was written.
    pub(super) fn replace(&self, path: Path, state: State) {
        let Some(cache) = &self.cache else { return };
        match self.keeps(&state) {
            true => cache.insert(path, state),
            false => drop(cache.remove(&path)),
        }
    }

    fn keeps(&self, state: &State) -> bool {
        state.as_ref().is_none_or(|entry| entry.value.as_slice().len() <= self.largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Value, Version};
    use crate::key::Key;

    fn entry(number: u64) -> State {
        Some(Entry { value: Value::number(1), version: Version::new(number), expires: None })
    }

    #[test]
    fn a_read_during_which_the_entry_was_written_leaves_no_copy() {
        let recent = RecentEntries::new(1 << 20);
        let key = Key::new("b", "k").unwrap();
        let (path, borrowed) = (Path::new(1, key), PathRef { namespace: 1, key });
        let overtaken = |written: State| {
            let read = recent.load::<()>(&path, || {
                recent.replace(path.clone(), written.clone());
                Ok(entry(1))
            });
            assert_eq!(read, Ok(entry(1)));
        };
        overtaken(entry(2));
        assert_eq!(recent.get(borrowed), Some(entry(2)));

        // Also if the new value is too large to be kept, or no longer kept when the read ends.
        let large = Value::new(vec![0; LARGEST + 1]).unwrap();
        recent.cache.as_ref().unwrap().remove(&path);
        overtaken(Some(Entry { value: large, version: Version::new(3), expires: None }));
        assert_eq!(recent.get(borrowed), None);
        let evicted = recent.load::<()>(&path, || {
            recent.replace(path.clone(), entry(4));
            recent.cache.as_ref().unwrap().remove(&path);
            Ok(entry(1))
        });
        assert_eq!((evicted, recent.get(borrowed)), (Ok(entry(1)), None));
        assert_eq!(recent.load::<()>(&path, || Ok(entry(5))), Ok(entry(5)));
        assert_eq!(recent.get(borrowed), Some(entry(5)));
    }
}
