//! The data of services, as operators read and write it: through the admin API of a running host, or by the command line on
//! a store that no host uses. Both have the same operations, types and limits.
//!
//! Values are bytes, and base64 in JSON. An expiry is a time and no duration, so that an entry that is exported and imported
//! later expires when it would have.

mod dead;
pub mod dump;
mod types;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use lodge_state::{
    Batch, Change, Condition, Cursor, Entry, Error, Expiry, Key, Listing, Quota, Set, Store, Timestamp, Ttl, Value,
    Write, limits,
};
use tokio::time::Instant;

pub use self::dead::{DeadContent, DeadCount, DeadEntry, DeadList, DeadMessages};
pub use self::types::{
    DeletedKey, EntryPage, ImportCount, KeyList, StoreDetails, StoreStatus, StoredEntry, WrittenKey,
};

/// The bucket of requests that name none.
pub const DEFAULT_BUCKET: &str = "default";

/// The longest time of an operation.
const TIMEOUT: Duration = Duration::from_secs(8);

/// The entries of a page, or fewer if their values are large. The last page size fits any value.
const PAGE_SIZES: [usize; 4] = [limits::MAX_BATCH, 32, 4, 1];

/// The data of one service.
pub struct ServiceData {
    /// The name of the service.
    pub service: String,
    /// Its store.
    pub store: Arc<dyn Store>,
    /// What it may store.
    pub quota: Quota,
}

fn deadline() -> Instant {
    Instant::now() + TIMEOUT
}

impl ServiceData {
    /// Returns what the service stores.
    ///
    /// # Errors
    /// Those of [`Store::usage`].
    pub async fn status(&self) -> Result<StoreStatus, Error> {
        let usage = self.store.usage(deadline()).await?;
        Ok(StoreStatus {
            service: self.service.clone(),
            keys: usage.keys,
            bytes: usage.bytes,
            most_keys: Some(self.quota.keys),
            most_bytes: Some(self.quota.bytes),
        })
    }

    /// Returns what the service stores, and the names of its buckets after `after`.
    ///
    /// # Errors
    /// Those of [`Store::buckets`].
    pub async fn details(&self, after: &str) -> Result<StoreDetails, Error> {
        let buckets = self.store.buckets(after, deadline()).await?;
        let next = buckets.last().filter(|_| buckets.len() >= limits::MAX_PAGE).cloned();
        Ok(StoreDetails { status: self.status().await?, buckets, next })
    }

    /// Returns a page of the keys of a bucket.
    ///
    /// # Errors
    /// Those of [`Listing::new`] and [`Store::list`].
    pub async fn keys(&self, bucket: &str, prefix: &str, cursor: Option<&str>, limit: usize) -> Result<KeyList, Error> {
        let cursor = cursor.map(Cursor::new).transpose()?;
        let listing = Listing::new(bucket, prefix, limit)?;
        let listing = cursor.as_ref().map_or(listing, |cursor| listing.at(cursor));
        let page = self.store.list(listing, deadline()).await?;
        Ok(KeyList {
            bucket: bucket.to_owned(),
            keys: page.keys,
            next: page.next.map(|cursor| cursor.as_str().to_owned()),
        })
    }

    /// Returns a page of the entries of a bucket: as many as fit into a batch.
    ///
    /// # Errors
    /// Those of [`ServiceData::keys`] and [`Store::get_many`].
    pub async fn entries(&self, bucket: &str, cursor: Option<&str>) -> Result<EntryPage, Error> {
        let mut result = Err(Error::Timeout);
        for limit in PAGE_SIZES {
            let page = self.keys(bucket, "", cursor, limit).await?;
            let keys = page.keys.iter().map(|name| Key::new(bucket, name)).collect::<Result<Vec<_>, _>>()?;
            result = match self.store.get_many(Batch::new(keys)?, deadline()).await {
                Ok(entries) => {
                    let found = page.keys.iter().zip(entries).filter_map(|(key, entry)| Some((key, entry?)));
                    let entries = found.map(|(key, entry)| stored(bucket, key, &entry)).collect();
                    return Ok(EntryPage { entries, next: page.next });
                }
                // Fewer of them have a smaller sum.
                Err(error @ Error::TooLarge { .. }) => Err(error),
                Err(error) => return Err(error),
            };
        }
        result
    }

    /// Returns an entry.
    ///
    /// # Errors
    /// Those of [`Key::new`] and [`Store::get`].
    pub async fn get(&self, bucket: &str, key: &str) -> Result<Option<StoredEntry>, Error> {
        let entry = self.store.get(Key::new(bucket, key)?, deadline()).await?;
        Ok(entry.map(|entry| stored(bucket, key, &entry)))
    }

    /// Stores a value, which lives for `ttl` or for ever.
    ///
    /// # Errors
    /// Those of [`Key::new`], [`Value::new`], [`Ttl::new`] and [`Store::write`]; [`Error::Conflict`] if the key exists and
    /// must be `absent`.
    pub async fn set(
        &self,
        (bucket, key): (&str, &str),
        value: Bytes,
        ttl: Option<Duration>,
        absent: bool,
    ) -> Result<WrittenKey, Error> {
        let expiry = ttl.map(Ttl::new).transpose()?.map_or(Expiry::Never, Expiry::After);
        let set = Set { expiry, if_absent: absent };
        let version = self.store.set(Key::new(bucket, key)?, Value::new(value)?, set, deadline()).await?;
        Ok(WrittenKey { bucket: bucket.to_owned(), key: key.to_owned(), version: version.number() })
    }

    /// Deletes an entry.
    ///
    /// # Errors
    /// Those of [`Key::new`] and [`Store::write`].
    pub async fn delete(&self, bucket: &str, key: &str) -> Result<DeletedKey, Error> {
        let deleted = self.store.delete(Key::new(bucket, key)?, deadline()).await?;
        Ok(DeletedKey { bucket: bucket.to_owned(), key: key.to_owned(), deleted })
    }

    /// Stores entries, replacing those that exist, except entries that have expired at `now`. They must fit into a
    /// [`Batch`]. After an error, some may have been stored; storing them again does no harm.
    ///
    /// # Errors
    /// What is wrong with an entry, or those of [`Store::write_many`].
    pub async fn import(&self, entries: &[StoredEntry], now: SystemTime) -> Result<ImportCount, Error> {
        let mut writes = Vec::with_capacity(entries.len());
        for entry in entries {
            let key = Key::new(&entry.bucket, &entry.key)?;
            let expiry = match entry.expiry()? {
                None => Expiry::Never,
                Some(expires) => match expires.duration_since(now).ok().filter(|left| left.as_millis() > 0) {
                    Some(left) => Expiry::After(Ttl::new(left)?),
                    None => continue,
                },
            };
            let change = Change::Put(Value::new(entry.bytes()?)?, expiry);
            writes.push(Write { key, condition: Condition::Always, change });
        }
        let count = writes.len();
        if count > 0 {
            self.store.write_many(Batch::new(writes)?, deadline()).await?;
        }
        Ok(ImportCount { stored: count as u64, expired: entries.len().saturating_sub(count) as u64 })
    }
}

/// An entry as operators receive it.
fn stored(bucket: &str, key: &str, entry: &Entry) -> StoredEntry {
    StoredEntry {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        value: BASE64_STANDARD.encode(entry.value.as_slice()),
        version: Some(entry.version.number()),
        expires: entry.expires.map(time).map(lodge_base::time::rfc3339),
    }
}

/// The time of a timestamp. The farthest are cut off at the end of the year 9999, the last one of RFC 3339.
fn time(at: Timestamp) -> SystemTime {
    const LAST: u64 = 253_402_300_799_999;
    UNIX_EPOCH + Duration::from_millis(at.milliseconds().min(LAST))
}

#[cfg(test)]
mod tests {
    use lodge_state::{Backend, ManualClock, Memory, Namespace};

    use super::*;

    async fn data() -> (ServiceData, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(Timestamp::new(1_000_000)));
        let memory = Memory::new(64 << 20, clock.clone());
        let quota = Quota { keys: 1000, bytes: 32 << 20 };
        let store = memory.open(&Namespace::new("users").unwrap(), quota, deadline()).await.unwrap();
        (ServiceData { service: "users".into(), store, quota }, clock)
    }

    #[tokio::test]
    async fn a_page_of_entries_has_room_for_any_value() {
        let (data, _) = data().await;
        for (key, size) in [("a", 1 << 20), ("b", 1 << 20), ("c", 1 << 20), ("d", 10)] {
            data.set(("default", key), vec![7; size].into(), None, false).await.unwrap();
        }
        let (mut keys, mut cursor) = (Vec::new(), None);
        loop {
            let page = data.entries("default", cursor.as_deref()).await.unwrap();
            keys.extend(page.entries.iter().map(|entry| (entry.key.clone(), entry.bytes().unwrap().len())));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        let sizes: Vec<_> = keys.iter().map(|(key, size)| (key.as_str(), *size)).collect();
        assert_eq!(sizes, [("a", 1 << 20), ("b", 1 << 20), ("c", 1 << 20), ("d", 10)]);
    }

    #[tokio::test]
    async fn an_import_keeps_the_time_of_expiry() {
        let (data, clock) = data().await;
        data.set(("default", "short"), "x".into(), Some(Duration::from_millis(500)), false).await.unwrap();
        data.set(("default", "long"), "y".into(), Some(Duration::from_secs(60)), false).await.unwrap();
        data.set(("default", "ever"), "z".into(), None, false).await.unwrap();
        let entries = data.entries("default", None).await.unwrap().entries;
        let expires: Vec<_> = entries.iter().map(|entry| entry.expires.as_deref()).collect();
        assert_eq!(expires, [None, Some("1970-01-01T00:17:40.000Z"), Some("1970-01-01T00:16:40.500Z")]);
        // A second later one has expired, and another has lost a second.
        clock.advance(Duration::from_secs(1));
        let now = time(Timestamp::new(1_001_000));
        assert_eq!(data.import(&entries, now).await, Ok(ImportCount { stored: 2, expired: 1 }));
        let again = data.entries("default", None).await.unwrap().entries;
        let kept: Vec<_> = again.iter().map(|entry| (entry.key.as_str(), entry.expires.as_deref())).collect();
        assert_eq!(kept, [("ever", None), ("long", Some("1970-01-01T00:17:40.000Z"))]);
    }

    #[tokio::test]
    async fn wrong_entries_are_refused_before_anything_is_stored() {
        let (data, _) = data().await;
        let right = StoredEntry { bucket: "b".into(), key: "k".into(), value: "eA==".into(), ..StoredEntry::default() };
        for wrong in [
            StoredEntry { value: "x".into(), ..right.clone() },
            StoredEntry { key: String::new(), ..right.clone() },
            StoredEntry { expires: Some("tomorrow".into()), ..right.clone() },
            StoredEntry { expires: Some("9999-01-01T00:00:00Z".into()), ..right.clone() },
        ] {
            let refused = data.import(&[right.clone(), wrong.clone()], SystemTime::now()).await;
            assert!(refused.is_err(), "{wrong:?}");
            assert_eq!(data.status().await.unwrap().keys, 0);
        }
    }
}
