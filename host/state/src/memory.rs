//! State in the memory of this process, bounded, gone when it ends.

mod keyspace;
mod messages;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::clock::Clock;
use crate::entry::Entry;
use crate::error::Error;
use crate::key::{Key, Namespace};
use crate::limits::{Quota, Usage};
use crate::locks::{Leases, Locks, Numbers};
use crate::memory::keyspace::Keyspace;
use crate::memory::messages::MemoryQueue;
use crate::messages::MessageQueue;
use crate::mutex::lock;
use crate::store::{Backend, Batch, Entries, Listing, Page, Pending, Store, ready};
use crate::write::{Outcome, Write};

/// Namespaces at a time. A host has one per service.
const MAX_NAMESPACES: usize = 10_000;

/// State in memory.
///
/// All of its operations are ready at once: they take well under a microsecond, and a page of a listing some hundred.
pub struct Memory {
    shared: Arc<Shared>,
    namespaces: Mutex<HashMap<Namespace, Arc<Held>>>,
    messages: Arc<MemoryQueue>,
}

/// What all namespaces share.
struct Shared {
    clock: Arc<dyn Clock>,
    numbers: Arc<Numbers>,
    /// Bytes of all entries, with their overhead.
    used: AtomicU64,
    capacity: u64,
}

impl Shared {
    /// Replaces `before` bytes by `after` bytes, if there is room.
    fn reserve(&self, before: u64, after: u64) -> Result<(), Error> {
        let fit = |used: u64| {
            let new = used.saturating_sub(before).saturating_add(after);
            (new <= used || new <= self.capacity).then_some(new)
        };
        let reserved = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fit);
        reserved.map(|_| ()).map_err(|_| {
            let capacity = self.capacity;
            Error::unavailable(format!(
                "all {capacity} bytes for state in memory are in use: lower quotas, or use SQLite"
            ))
        })
    }
}

/// The state of one namespace.
struct Held {
    shared: Arc<Shared>,
    space: Mutex<Keyspace>,
    leases: Arc<Leases>,
}

impl Memory {
    /// Memory for at most `capacity` bytes of entries of all namespaces, counted with 128 bytes of overhead each.
    pub fn new(capacity: u64, clock: Arc<dyn Clock>) -> Memory {
        // Versions and tokens do not repeat after a restart, as long as there were fewer than a million in every second.
        let numbers = Arc::new(Numbers::after(clock.now().milliseconds().saturating_mul(1000)));
        let messages = Arc::new(MemoryQueue::new(clock.clone(), numbers.clone()));
        let shared = Arc::new(Shared { clock, numbers, used: AtomicU64::new(0), capacity });
        Memory { shared, namespaces: Mutex::default(), messages }
    }

    fn held(&self, namespace: &Namespace) -> Result<Arc<Held>, Error> {
        let mut namespaces = lock(&self.namespaces);
        if let Some(held) = namespaces.get(namespace) {
            return Ok(held.clone());
        }
        if namespaces.len() >= MAX_NAMESPACES {
            return Err(Error::unavailable(format!("{MAX_NAMESPACES} services have state already: restart the host")));
        }
        let Shared { clock, numbers, .. } = &*self.shared;
        let leases = Arc::new(Leases::new(clock.clone(), numbers.clone()));
        let held = Held { shared: self.shared.clone(), space: Mutex::default(), leases };
        Ok(namespaces.entry(namespace.clone()).or_insert_with(|| Arc::new(held)).clone())
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("capacity", &self.shared.capacity).finish_non_exhaustive()
    }
}

impl Backend for Memory {
    fn open<'a>(&'a self, namespace: &'a Namespace, quota: Quota, _: Instant) -> Pending<'a, Arc<dyn Store>> {
        ready(self.held(namespace).map(|held| {
            lock(&held.space).quota = quota;
            held as Arc<dyn Store>
        }))
    }

    fn locks<'a>(&'a self, namespace: &'a Namespace, _: Instant) -> Pending<'a, Arc<dyn Locks>> {
        ready(self.held(namespace).map(|held| held.leases.clone() as Arc<dyn Locks>))
    }

    fn messages(&self) -> Result<Arc<dyn MessageQueue>, Error> {
        Ok(self.messages.clone())
    }
}

impl Store for Held {
    fn get<'a>(&'a self, key: Key<'a>, _: Instant) -> Pending<'a, Option<Entry>> {
        ready(Ok(lock(&self.space).get(key, self.shared.clock.now()).cloned()))
    }

    fn write<'a>(&'a self, write: Write<'a>, _: Instant) -> Pending<'a, Outcome> {
        ready(lock(&self.space).write(&write, self.shared.clock.now(), &self.shared))
    }

    fn get_many<'a>(&'a self, keys: Batch<Key<'a>>, _: Instant) -> Pending<'a, Vec<Option<Entry>>> {
        let now = self.shared.clock.now();
        let space = lock(&self.space);
        let mut entries = Entries::default();
        let read = keys.as_slice().iter().try_for_each(|key| entries.push(space.get(*key, now).cloned()));
        ready(read.map(|()| entries.into_vec()))
    }

    fn write_many<'a>(&'a self, writes: Batch<Write<'a>>, _: Instant) -> Pending<'a, Vec<Outcome>> {
        let now = self.shared.clock.now();
        let mut space = lock(&self.space);
        ready(writes.as_slice().iter().map(|write| space.write(write, now, &self.shared)).collect())
    }

    fn list<'a>(&'a self, listing: Listing<'a>, _: Instant) -> Pending<'a, Page> {
        ready(Ok(lock(&self.space).list(&listing, self.shared.clock.now())))
    }

    fn buckets<'a>(&'a self, after: &'a str, _: Instant) -> Pending<'a, Vec<String>> {
        ready(Ok(lock(&self.space).buckets(after)))
    }

    fn usage(&self, _: Instant) -> Pending<'_, Usage> {
        ready(Ok(lock(&self.space).usage(self.shared.clock.now(), &self.shared)))
    }
}
