//! The entries of one namespace in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::entry::{Entry, Version};
use crate::error::Error;
use crate::key::Key;
use crate::limits::{MAX_PAGE, Quota, Usage};
use crate::memory::Shared;
use crate::store::{Listing, Page, PageBuilder};
use crate::write::{Change, Outcome, Write, apply};

/// Bytes that an entry needs beside its names and its value, roughly.
const OVERHEAD: u64 = 128;
/// Expired entries that one operation removes, so that none takes long because many expire at once.
const SWEEP: usize = 64;

/// The entries of one namespace.
#[derive(Default)]
pub(super) struct Keyspace {
    pub(super) quota: Quota,
    usage: Usage,
    /// Only buckets that have entries.
    buckets: HashMap<Arc<str>, BTreeMap<Arc<str>, Entry>>,
    /// All entries that expire, the next one first.
    expiring: BTreeSet<(Timestamp, Arc<str>, Arc<str>)>,
}

impl Keyspace {
    /// Returns the entry of `key`.
    pub(super) fn get(&self, key: Key<'_>, now: Timestamp) -> Option<&Entry> {
        self.buckets.get(key.bucket())?.get(key.name()).filter(|entry| entry.live(now))
    }

    /// Does a write.
    pub(super) fn write(&mut self, write: &Write<'_>, now: Timestamp, shared: &Shared) -> Result<Outcome, Error> {
        self.sweep(now, shared);
        let key = write.key;
        loop {
            let stored = self.buckets.get(key.bucket()).and_then(|bucket| bucket.get(key.name()));
            let before = stored.filter(|entry| entry.live(now)).cloned();
            let stored = stored.map(|entry| key.size() + entry.value.size());
            let outcome = apply(before, &write.condition, &write.change, Version::new(shared.numbers.next()), now)?;
            if !outcome.applied || matches!((&write.change, stored), (Change::Remove, None)) {
                return Ok(outcome);
            }
            let after = outcome.after.as_ref().map(|entry| key.size() + entry.value.size());
            let fits = self.usage.replace(stored, after, self.quota).and_then(|usage| {
                let charged = |size: Option<u64>| size.map_or(0, |size| size + OVERHEAD);
                shared.reserve(charged(stored), charged(after)).map(|()| usage)
            });
            match fits {
                Ok(usage) => {
                    self.usage = usage;
                    self.put(key, outcome.after.clone());
                    return Ok(outcome);
                }
                // Entries that have expired do not count: removes some, one of which may be that of this very key.
                Err(error) if self.sweep(now, shared) == 0 => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Stores or removes an entry.
    fn put(&mut self, key: Key<'_>, entry: Option<Entry>) {
        let Some(entry) = entry else {
            self.remove(key.bucket(), key.name());
            return;
        };
        let (bucket, name) = match self.buckets.get_key_value(key.bucket()) {
            Some((bucket, entries)) => (
                bucket.clone(),
                entries.get_key_value(key.name()).map_or_else(|| key.name().into(), |(name, _)| name.clone()),
            ),
            None => (Arc::from(key.bucket()), Arc::from(key.name())),
        };
        let expires = entry.expires;
        let old = self.buckets.entry(bucket.clone()).or_default().insert(name.clone(), entry);
        if let Some(old) = old.and_then(|entry| entry.expires) {
            self.expiring.remove(&(old, bucket.clone(), name.clone()));
        }
        if let Some(expires) = expires {
            self.expiring.insert((expires, bucket, name));
        }
    }

    fn remove(&mut self, bucket: &str, name: &str) -> Option<Entry> {
        let (shared, entries) = self.buckets.get_key_value(bucket)?;
        let shared = shared.clone();
        let name = entries.get_key_value(name)?.0.clone();
        let entries = self.buckets.get_mut(bucket)?;
        let entry = entries.remove(&name)?;
        if entries.is_empty() {
            self.buckets.remove(bucket);
        }
        if let Some(expires) = entry.expires {
            self.expiring.remove(&(expires, shared, name));
        }
        Some(entry)
    }

    /// Removes some entries that have expired, and returns how many.
    fn sweep(&mut self, now: Timestamp, shared: &Shared) -> usize {
        let mut swept = 0;
        while swept < SWEEP && self.expiring.first().is_some_and(|(expires, ..)| *expires <= now) {
            let Some((_, bucket, name)) = self.expiring.pop_first() else { break };
            let Some(entry) = self.remove(&bucket, &name) else { break };
            let size = Key::stored(&bucket, &name).size() + entry.value.size();
            self.usage.keys = self.usage.keys.saturating_sub(1);
            self.usage.bytes = self.usage.bytes.saturating_sub(size);
            // Less is always possible.
            let _ = shared.reserve(size + OVERHEAD, 0);
            swept += 1;
        }
        swept
    }

    /// Returns a page of keys.
    pub(super) fn list(&self, listing: &Listing<'_>, now: Timestamp) -> Page {
        let mut collector = PageBuilder::new(listing);
        if let Some(bucket) = self.buckets.get(listing.bucket()) {
            let first = collector.first().to_owned();
            let keys = bucket.range::<str, _>((Bound::Included(first.as_str()), Bound::Unbounded));
            let mut live = keys.filter(|(_, entry)| entry.live(now));
            // Ends at the first key that is not needed.
            let _ = live.all(|(name, _)| collector.push(name));
        }
        collector.into_page()
    }

    /// Returns the names of buckets after `after`.
    pub(super) fn buckets(&self, after: &str) -> Vec<String> {
        let mut names: Vec<_> =
            self.buckets.keys().filter(|name| &***name > after).map(|name| (**name).to_owned()).collect();
        names.sort_unstable();
        names.truncate(MAX_PAGE);
        names
    }

    /// Returns what is in use.
    pub(super) fn usage(&mut self, now: Timestamp, shared: &Shared) -> Usage {
        self.sweep(now, shared);
        self.usage
    }
}
