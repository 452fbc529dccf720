//! Reads the records of the other hosts, within bounds: whoever can write to the store can write any number of any size.

use std::collections::BTreeMap;
use std::time::Duration;

use lodge_base::config::cluster::{MOST_HOST, is_plain};
use lodge_state::limits::MAX_PAGE;
use lodge_state::{Batch, Entry, Error, Key, Listing, Store, Version};
use tokio::time::Instant;

use super::record::HostRecord;

/// The most hosts that are known at a time.
const MOST_HOSTS: usize = 1_000;

/// The most bytes of the records of all hosts.
const MOST_BYTES: u64 = 4 << 20;

/// The most pages of a listing, however few names they have.
const MOST_PAGES: usize = 16;

/// Records that are read at a time. All fit into one response of the store if each is within its bound.
const BATCH: usize = 16;

/// The records that one reading of the store has found.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// The records by the names of their hosts.
    pub(super) records: BTreeMap<String, (Version, HostRecord)>,
    /// Records that could not be read.
    pub(super) ignored: usize,
    /// Whether there are more than the bounds allow.
    pub(super) truncated: bool,
    /// Bytes of the records.
    pub(super) bytes: u64,
}

impl Roster {
    /// Reads the records in `bucket`, except that of the host `own`. Each operation on the store may take `most`.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn new(store: &dyn Store, bucket: &str, own: &str, most: Duration) -> Result<Self, Error> {
        let mut roster = Self::default();
        let names = roster.names(store, bucket, own, most).await?;
        for names in names.chunks(BATCH) {
            let keys = names.iter().map(|name| Key::new(bucket, name)).collect::<Result<Vec<_>, _>>()?;
            let entries = match store.get_many(Batch::new(keys.clone())?, Instant::now() + most).await {
                Ok(entries) => entries,
                // One of them is no record.
                Err(Error::TooLarge { .. }) => {
                    for (name, key) in names.iter().zip(keys) {
                        let entry = store.get(key, Instant::now() + most).await?;
                        roster.add(name, entry);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            for (name, entry) in names.iter().zip(entries) {
                roster.add(name, entry);
            }
        }
        Ok(roster)
    }

    /// Returns the names of all hosts in their order.
    async fn names(
        &mut self,
        store: &dyn Store,
        bucket: &str,
        own: &str,
        most: Duration,
    ) -> Result<Vec<String>, Error> {
        let (mut names, mut cursor) = (Vec::new(), None);
        for _ in 0..MOST_PAGES {
            let listing = Listing::new(bucket, "", MAX_PAGE)?;
            let listing = cursor.as_ref().map_or(listing, |cursor| listing.at(cursor));
            let page = store.list(listing, Instant::now() + most).await?;
            let (plain, others): (Vec<_>, Vec<_>) = page.keys.into_iter().partition(|key| is_plain(key, MOST_HOST));
            self.ignored = self.ignored.saturating_add(others.len());
            names.extend(plain.into_iter().filter(|name| name != own));
            if names.len() > MOST_HOSTS {
                break;
            }
            cursor = page.next;
            if cursor.is_none() {
                names.sort();
                return Ok(names);
            }
        }
        self.truncated = true;
        names.sort();
        names.truncate(MOST_HOSTS);
        Ok(names)
    }

    fn add(&mut self, name: &str, entry: Option<Entry>) {
        // It has expired, or its host has left, since the names were read.
        let Some(entry) = entry else { return };
        let Some(record) = HostRecord::read(entry.value.as_slice()) else {
            self.ignored = self.ignored.saturating_add(1);
            return;
        };
        let bytes = self.bytes.saturating_add(entry.value.size());
        if bytes > MOST_BYTES {
            self.truncated = true;
            return;
        }
        self.bytes = bytes;
        self.records.insert(name.to_owned(), (entry.version, record));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lodge_state::limits::MAX_VALUE;
    use lodge_state::{Backend, Memory, Namespace, Quota, SystemClock, Value};

    use super::*;

    async fn store() -> Arc<dyn Store> {
        let memory = Memory::new(256 << 20, Arc::new(SystemClock::new()));
        let quota = Quota { keys: 100_000, bytes: 256 << 20 };
        memory.open(&Namespace::new("@cluster").unwrap(), quota, Instant::now()).await.unwrap()
    }

    async fn put(store: &Arc<dyn Store>, name: &str, bytes: Vec<u8>) {
        let key = Key::new("members/c", name).unwrap();
        store.set(key, Value::new(bytes).unwrap(), Default::default(), Instant::now()).await.unwrap();
    }

    fn record(services: usize) -> Vec<u8> {
        let services = (0..services).map(|n| (format!("a-service-of-this-host-{n}"), "0123456789ab".into())).collect();
        HostRecord { id: "a".repeat(32), version: "1".into(), services, ..HostRecord::default() }.write()
    }

    async fn read(store: &Arc<dyn Store>) -> Roster {
        Roster::new(&**store, "members/c", "own", Duration::from_secs(5)).await.unwrap()
    }

    /// Whatever is beside the records of sound hosts, these are known.
    #[tokio::test]
    async fn sound_hosts_are_found_beside_nonsense() {
        let store = store().await;
        for n in 0..40 {
            put(&store, &format!("h{n}"), record(3)).await;
        }
        put(&store, "own", record(1)).await;
        for (n, nonsense) in
            [vec![0; MAX_VALUE], vec![0; MAX_VALUE], vec![0; MAX_VALUE], b"{}".to_vec()].into_iter().enumerate()
        {
            put(&store, &format!("h0-{n}"), nonsense).await;
        }
        for name in ["a\nWARN forged", "\u{1b}[2J", "a b", &"x".repeat(1000)] {
            put(&store, name, record(1)).await;
        }
        let reading = read(&store).await;
        assert_eq!((reading.records.len(), reading.ignored, reading.truncated), (40, 8, false));
        assert!(reading.records.keys().all(|name| name.starts_with('h') && name.len() < 4));
    }

    /// A store full of records takes neither more memory nor more time than the bounds say.
    #[tokio::test]
    async fn hosts_and_bytes_are_bounded() {
        let all = store().await;
        for n in 0..3 * MOST_HOSTS {
            put(&all, &format!("h{n:05}"), record(1)).await;
        }
        let reading = read(&all).await;
        assert_eq!((reading.records.len(), reading.truncated), (MOST_HOSTS, true));
        let large = store().await;
        for n in 0..200 {
            put(&large, &format!("h{n:05}"), record(1_000)).await;
        }
        let reading = read(&large).await;
        let bytes = record(1_000).len() as u64;
        assert!(reading.truncated && reading.records.len() as u64 == MOST_BYTES / bytes, "{}", reading.records.len());
    }
}
