//! Counts of what a service has on the server, and the removal of what belongs to nothing.

#[cfg(test)]
mod tests;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, StreamExt};
use lodge_remote::Backoff;
use lodge_state::blobs::{BlobError, BlobUsage, MAX_NAMES};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep};

use crate::failure::unavailable;
use crate::keys::is_id;
use crate::operations::{ListedObject, ListedPage};
use crate::sign::extended_time;
use crate::space::{KnownRecords, PARALLEL, S3Space};
use crate::transport::S3Lane;

/// How long a page, or a request for a record, may take.
const PAGE: Duration = Duration::from_secs(30);
/// How old what no host can be writing any more is.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the objects of a container are removed, before another host has to do it.
const REMOVAL: Duration = Duration::from_secs(60 * 60);
/// Ids of containers that a count keeps apart.
const MAX_IDS: usize = 100_000;
/// Records of containers that are read to find out which ids are in use. A service on one host has a hundredth.
const MAX_RECORDS: usize = 100_000;

/// How long a listing of all keys of a service may take, and how many of its pages in a row may be empty. A server can send pages
/// without an end.
const LISTING: Duration = Duration::from_secs(30 * 60);
const MAX_EMPTY: usize = 100;
const EMPTY: &str = "a listing goes on without keys";

/// A listing of keys between two pages.
struct KeyListing {
    prefix: String,
    after: Option<String>,
    ended: bool,
    /// Pages in a row without a key.
    empty: usize,
    end: Instant,
}

/// What a count has found.
#[derive(Default)]
struct CountedKeys {
    containers: u64,
    by_id: HashMap<String, BlobUsage>,
    /// Objects that have got no name.
    unnamed: Vec<String>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn deadline() -> Instant {
    Instant::now() + PAGE
}

impl S3Space {
    /// Counts in the background, if it is time to. `is_full` if a quota has refused something.
    pub(crate) fn count_if_due(self: &Arc<Self>, is_full: bool) {
        if self.account.begin_count(is_full) {
            let space = Arc::clone(self);
            tokio::spawn(async move { space.count_and_remove().await.map(drop) });
        }
    }

    /// Counts for the first time, and removes what hosts have left that have ended.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`] if the server cannot be used.
    pub(crate) async fn count_first(self: &Arc<Self>) -> Result<(), BlobError> {
        self.account.begin_first_count();
        let unnamed = self.count_and_remove().await?;
        self.remove_abandoned(unnamed).await;
        Ok(())
    }

    /// Removes what hosts have left that have ended.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`] if the server cannot be used.
    pub(crate) async fn sweep(self: &Arc<Self>) -> Result<(), BlobError> {
        let found = self.count().await?;
        let dead = self.dead(&found).await?;
        let mut new = Vec::new();
        for id in dead {
            if let Entry::Vacant(entry) = lock(&self.removing).entry(id.clone()) {
                entry.insert(false);
                new.push(id);
            }
        }
        if !new.is_empty() {
            // The account may have them.
            self.account.doubt();
            self.remove_dead(new);
        }
        self.remove_abandoned(found.unnamed).await;
        Ok(())
    }

    /// Counts the objects that containers have, ends the count of the account, and begins to remove the others. Returns old objects
    /// that have got no name.
    async fn count_and_remove(self: &Arc<Self>) -> Result<Vec<String>, BlobError> {
        let counted = async {
            let found = self.count().await?;
            let dead = self.dead(&found).await?;
            Ok::<_, BlobError>((found, dead))
        };
        match counted.await {
            Ok((found, dead)) => {
                let usage = found.usage_without(&dead);
                self.remove_dead(self.end_count(usage, dead));
                Ok(found.unnamed)
            }
            Err(error) => {
                self.account.end_count(None);
                Err(error)
            }
        }
    }

    async fn count(&self) -> Result<CountedKeys, BlobError> {
        let (old, mut found) = (abandoned(), CountedKeys::default());
        let mut listing = KeyListing::new(self.keys.root().to_owned());
        while let Some(objects) = listing.next(&self.lane, MAX_NAMES).await? {
            objects.into_iter().for_each(|object| found.add(self, object, &old));
        }
        Ok(found)
    }

    /// The ids of objects whose containers do not exist. The records are listed and read after the objects were listed, and each
    /// was written before its objects. A container that another host has created since the count began is among them, although the
    /// count may have been past its record then.
    async fn dead(self: &Arc<Self>, found: &CountedKeys) -> Result<Vec<String>, BlobError> {
        if found.by_id.is_empty() {
            return Ok(Vec::new());
        }
        let (mut live, mut number) = (HashMap::new(), 0_usize);
        let known = std::mem::take(&mut *lock(&self.records));
        let mut listing = KeyListing::new(self.keys.containers());
        while let Some(records) = listing.next(&self.lane, MAX_NAMES).await? {
            number = number.saturating_add(records.len());
            if number > MAX_RECORDS {
                return Err(unavailable(format!(
                    "there are more than {MAX_RECORDS} containers of one service: something else has written to the prefix"
                )));
            }
            self.add_ids(records, &known, &mut live).await?;
        }
        let ids: HashSet<&str> = live.values().map(|(_, id)| id.as_str()).collect();
        let dead = found.by_id.keys().filter(|id| !ids.contains(id.as_str())).cloned().collect();
        *lock(&self.records) = live;
        Ok(dead)
    }

    /// Adds these records with their tags and ids. Those that are `known` with the same tag are not read again.
    async fn add_ids(
        self: &Arc<Self>,
        records: Vec<ListedObject>,
        known: &KnownRecords,
        live: &mut KnownRecords,
    ) -> Result<(), BlobError> {
        let read = |ListedObject { key, tag, .. }: ListedObject| {
            let space = Arc::clone(self);
            let known = known.get(&key).filter(|(of, _)| !tag.is_empty() && *of == tag).cloned();
            async move {
                match known {
                    Some(known) => Ok((key, known)),
                    None => space.find_record(&key, deadline()).await.map(|found| (key, (tag, found.id))),
                }
            }
        };
        let mut records = stream::iter(records).map(read).buffer_unordered(PARALLEL);
        while let Some(record) = records.next().await {
            match record {
                Ok((key, record)) => {
                    live.insert(key, record);
                }
                Err(BlobError::NoContainer) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Ends the count of the account, which has nothing of these ids from now on. Returns those that are not being removed yet.
    fn end_count(&self, counted: BlobUsage, mut dead: Vec<String>) -> Vec<String> {
        let mut removing = lock(&self.removing);
        dead.retain(|id| removing.insert(id.clone(), false).is_none());
        self.account.end_count(Some(counted));
        dead
    }

    /// Removes what was being written when a host ended, a day ago. It is no harm if that fails: the next start tries it again.
    async fn remove_abandoned(&self, unnamed: Vec<String>) {
        let _ = self.remove_all(unnamed).await;
        if let Ok(old) = self.lane.old_parts(self.keys.root(), &abandoned(), deadline()).await {
            for parts in old {
                let _ = self.lane.abort_parts(&parts, deadline()).await;
            }
        }
    }

    /// Removes keys.
    async fn remove_all(&self, keys: Vec<String>) -> Result<(), BlobError> {
        let remove = |key: String| {
            let lane = self.lane.clone();
            async move { lane.remove(&key, deadline()).await }
        };
        let mut removals = stream::iter(keys).map(remove).buffer_unordered(PARALLEL);
        while let Some(removed) = removals.next().await {
            removed?;
        }
        Ok(())
    }

    /// Removes the objects with an id that no container has any more, in the background. `counted` if the account has them.
    pub(crate) fn remove_objects(self: &Arc<Self>, id: String, counted: bool, place: OwnedSemaphorePermit) {
        match lock(&self.removing).entry(id.clone()) {
            Entry::Vacant(entry) => drop(entry.insert(counted)),
            // A count has found it already.
            Entry::Occupied(_) => return,
        }
        let space = Arc::clone(self);
        tokio::spawn(async move {
            let _place = place;
            space.remove_id(&id).await;
        });
    }

    /// Removes the objects with ids that a count has found, one after another.
    fn remove_dead(self: &Arc<Self>, dead: Vec<String>) {
        if dead.is_empty() {
            return;
        }
        let space = Arc::clone(self);
        tokio::spawn(async move {
            let _place = Arc::clone(&space.removals).acquire_owned().await;
            for id in dead {
                space.remove_id(&id).await;
            }
        });
    }

    async fn remove_id(&self, id: &str) {
        let (end, mut backoff) = (Instant::now() + REMOVAL, Backoff::new());
        while Instant::now() < end {
            match self.remove_page(id).await {
                Ok(true) => break,
                Ok(false) => backoff = Backoff::new(),
                Err(_) => sleep(backoff.pause()).await,
            }
        }
        lock(&self.removing).remove(id);
    }

    /// Removes a page of objects; true if there are no more.
    async fn remove_page(&self, id: &str) -> Result<bool, BlobError> {
        let page = self.lane.page(&self.keys.objects(id), None, MAX_NAMES, deadline()).await?;
        let is_last = page.next.is_none();
        if page.objects.is_empty() && !is_last {
            return Err(unavailable(EMPTY));
        }
        let bytes = page.objects.iter().map(|object| object.bytes).fold(0, u64::saturating_add);
        let keys: Vec<_> = page.objects.into_iter().map(|object| object.key).collect();
        let objects = keys.len() as u64;
        self.remove_all(keys).await?;
        // No count ends between the two.
        let removing = lock(&self.removing);
        if removing.get(id).copied().unwrap_or_default() {
            self.account.give_back(BlobUsage { containers: 0, objects, bytes });
        }
        Ok(is_last)
    }
}

impl KeyListing {
    fn new(prefix: String) -> Self {
        Self { prefix, after: None, ended: false, empty: 0, end: Instant::now() + LISTING }
    }

    /// Returns the next page; `None` after the last.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`] also if the listing takes too long, or goes on without a key.
    async fn next(&mut self, lane: &S3Lane, most: usize) -> Result<Option<Vec<ListedObject>>, BlobError> {
        if self.ended {
            return Ok(None);
        }
        let ListedPage { objects, next } = lane.page(&self.prefix, self.after.as_deref(), most, deadline()).await?;
        self.empty = if objects.is_empty() { self.empty.saturating_add(1) } else { 0 };
        self.ended = next.is_none();
        self.after = next;
        if !self.ended && self.empty >= MAX_EMPTY {
            return Err(unavailable(EMPTY));
        }
        if !self.ended && Instant::now() >= self.end {
            return Err(unavailable(format!("a listing takes more than {} minutes", LISTING.as_secs() / 60)));
        }
        Ok(Some(objects))
    }
}

/// What was changed before this time is abandoned, if it is not complete.
fn abandoned() -> String {
    extended_time(SystemTime::now().checked_sub(ABANDONED).unwrap_or(SystemTime::UNIX_EPOCH))
}

impl CountedKeys {
    fn add(&mut self, space: &S3Space, object: ListedObject, old: &str) {
        let ListedObject { key, bytes, modified, .. } = object;
        if key.starts_with(&space.keys.containers()) {
            self.containers = self.containers.saturating_add(1);
        } else if key.starts_with(&space.keys.unnamed()) {
            if modified.as_str() < old && self.unnamed.len() < MAX_NAMES {
                self.unnamed.push(key);
            }
        } else if let Some((id, _)) = key.strip_prefix(&space.keys.all_objects()).and_then(|rest| rest.split_once('/'))
        {
            // What else has written there is not counted, and not removed.
            if !is_id(id) {
                return;
            }
            if self.by_id.len() >= MAX_IDS && !self.by_id.contains_key(id) {
                return;
            }
            let usage = self.by_id.entry(id.to_owned()).or_default();
            usage.objects = usage.objects.saturating_add(1);
            usage.bytes = usage.bytes.saturating_add(bytes);
        }
    }

    /// What there is but for these ids.
    fn usage_without(&self, dead: &[String]) -> BlobUsage {
        let dead: HashSet<_> = dead.iter().collect();
        let mut all = BlobUsage { containers: self.containers, ..BlobUsage::default() };
        for (_, usage) in self.by_id.iter().filter(|(id, _)| !dead.contains(id)) {
            all.objects = all.objects.saturating_add(usage.objects);
            all.bytes = all.bytes.saturating_add(usage.bytes);
        }
        all
    }
}
