//! Reads the records of the other hosts, within bounds: whoever can write to the store can write any number of any size.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lodge_base::config::cluster::{MOST_HOST, is_plain};
use lodge_state::limits::{MAX_BATCH_BYTES, MAX_PAGE};
use lodge_state::{Batch, Entry, Error, Key, Listing, Store, Version};
use tokio::time::Instant;

use super::record::HostRecord;

/// The most hosts that are known at a time.
pub(super) const MOST_HOSTS: usize = 1_000;

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
    /// Whether the record of this process is among them in the store.
    pub(super) own: bool,
    /// Names of records that were not read, or not understood: nothing is known of their hosts.
    pub(super) unread: BTreeSet<String>,
    /// Records that could not be read.
    pub(super) ignored: usize,
    /// Whether there are more than the bounds allow.
    pub(super) truncated: bool,
    /// Bytes of what was read, records or not.
    pub(super) bytes: u64,
}

/// How long a reading may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Each operation.
    pub(super) operation: Duration,
    /// The end of the reading: what is not read then is left out.
    pub(super) end: Instant,
}

impl Patience {
    fn deadline(self) -> Instant {
        (Instant::now() + self.operation).min(self.end)
    }
}

impl Roster {
    /// Reads the records in `bucket`, except that of the process `id`. A record that cannot be read does not hide others.
    ///
    /// # Errors
    /// Those of the store, if it cannot be used.
    pub(super) async fn new(store: &dyn Store, bucket: &str, id: &str, patience: Patience) -> Result<Self, Error> {
        let mut roster = Self::default();
        let names = roster.names(store, bucket, patience).await?;
        for names in names.chunks(BATCH) {
            if roster.bytes > MOST_BYTES || patience.end <= Instant::now() {
                roster.truncated = true;
                roster.unread.extend(names.iter().cloned());
                continue;
            }
            match read(store, bucket, names, patience).await {
                Ok(entries) => names.iter().zip(entries).for_each(|(name, entry)| roster.add(name, entry, id)),
                Err(error @ Error::Timeout) => return Err(error),
                Err(_) => roster.read_singly(store, (bucket, id), names, patience).await?,
            }
        }
        Ok(roster)
    }

    /// Reads records of which at least one is none: too large, or not written by Lodge.
    async fn read_singly(
        &mut self,
        store: &dyn Store,
        (bucket, id): (&str, &str),
        names: &[String],
        patience: Patience,
    ) -> Result<(), Error> {
        let mut failed = None;
        for name in names {
            if self.bytes > MOST_BYTES || patience.end <= Instant::now() {
                self.truncated = true;
                self.unread.insert(name.clone());
                continue;
            }
            // The result of a batch is bounded, that of a single read is what there is.
            match read(store, bucket, std::slice::from_ref(name), patience).await {
                Ok(entries) => entries.into_iter().for_each(|entry| self.add(name, entry, id)),
                Err(error @ Error::Timeout) => return Err(error),
                Err(error) => {
                    if let Error::TooLarge { size, .. } = error {
                        self.bytes = self.bytes.saturating_add(size.min(MAX_BATCH_BYTES) as u64);
                    }
                    self.ignore(name);
                    failed = Some(error);
                }
            }
        }
        // A store that fails altogether has no bad records.
        let Some(error) = failed else { return Ok(()) };
        store.list(Listing::new(bucket, "", 1)?, patience.deadline()).await.map_or(Err(error), |_| Ok(()))
    }

    /// Returns the names of all hosts in their order.
    async fn names(&mut self, store: &dyn Store, bucket: &str, patience: Patience) -> Result<Vec<String>, Error> {
        let (mut names, mut cursor) = (Vec::new(), None);
        for _ in 0..MOST_PAGES {
            let listing = Listing::new(bucket, "", MAX_PAGE)?;
            let listing = cursor.as_ref().map_or(listing, |cursor| listing.at(cursor));
            let page = store.list(listing, patience.deadline()).await?;
            let (plain, others): (Vec<_>, Vec<_>) = page.keys.into_iter().partition(|key| is_plain(key, MOST_HOST));
            self.ignored = self.ignored.saturating_add(others.len());
            names.extend(plain);
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

    fn add(&mut self, name: &str, entry: Option<Entry>, id: &str) {
        // It has expired, or its host has left, since the names were read.
        let Some(entry) = entry else { return };
        self.bytes = self.bytes.saturating_add(entry.value.size());
        // Those of hosts expire.
        let record = HostRecord::read(entry.value.as_slice()).filter(|_| entry.expires.is_some());
        let Some(record) = record else { return self.ignore(name) };
        if record.id == id {
            self.own = true;
        } else if self.bytes > MOST_BYTES {
            self.truncated = true;
            self.unread.insert(name.to_owned());
        } else {
            self.records.insert(name.to_owned(), (entry.version, record));
        }
    }

    fn ignore(&mut self, name: &str) {
        self.ignored = self.ignored.saturating_add(1);
        self.unread.insert(name.to_owned());
    }
}

async fn read(
    store: &dyn Store,
    bucket: &str,
    names: &[String],
    patience: Patience,
) -> Result<Vec<Option<Entry>>, Error> {
    let keys = names.iter().map(|name| Key::new(bucket, name)).collect::<Result<Vec<_>, _>>()?;
    store.get_many(Batch::new(keys)?, patience.deadline()).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lodge_state::limits::MAX_VALUE;
    use lodge_state::{
        Backend, Expiry, Memory, Namespace, Outcome, Page, Pending, Quota, Set, SystemClock, Ttl, Usage, Value, Write,
    };

    use super::*;

    async fn store() -> Arc<dyn Store> {
        let memory = Memory::new(256 << 20, Arc::new(SystemClock::new()));
        let quota = Quota { keys: 100_000, bytes: 256 << 20 };
        memory.open(&Namespace::new("@cluster").unwrap(), quota, Instant::now()).await.unwrap()
    }

    async fn put(store: &Arc<dyn Store>, name: &str, bytes: Vec<u8>) {
        let key = Key::new("members/c", name).unwrap();
        store.set(key, Value::new(bytes).unwrap(), lasting(60), Instant::now()).await.unwrap();
    }

    fn lasting(seconds: u64) -> Set {
        Set { expiry: Expiry::After(Ttl::new(Duration::from_secs(seconds)).unwrap()), if_absent: false }
    }

    fn record(services: usize) -> Vec<u8> {
        let services = (0..services).map(|n| (format!("a-service-of-this-host-{n}"), "0123456789ab".into())).collect();
        HostRecord { id: "a".repeat(32), version: "1".into(), services, ..HostRecord::default() }.write()
    }

    async fn read(store: &Arc<dyn Store>) -> Roster {
        Roster::new(&**store, "members/c", &"b".repeat(32), patience(5)).await.unwrap()
    }

    fn patience(seconds: u64) -> Patience {
        let operation = Duration::from_secs(seconds);
        Patience { operation, end: Instant::now() + operation }
    }

    /// Whatever is beside the records of sound hosts, these are known.
    #[tokio::test]
    async fn sound_hosts_are_found_beside_nonsense() {
        let store = store().await;
        for n in 0..40 {
            put(&store, &format!("h{n}"), record(3)).await;
        }
        let own = HostRecord { id: "b".repeat(32), version: "1".into(), ..HostRecord::default() };
        put(&store, "own", own.write()).await;
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
        assert!(reading.own && reading.unread.len() == 4, "{:?}", reading.unread);
        assert!(reading.records.keys().all(|name| name.starts_with('h') && name.len() < 4));
    }

    /// A store in which one entry has another type, as Redis knows them: whatever reads it fails.
    struct Spoiled {
        store: Arc<dyn Store>,
        name: &'static str,
        /// Whether everything fails.
        away: bool,
    }

    impl Spoiled {
        fn fail<T: Send + 'static>() -> Pending<'static, T> {
            Box::pin(std::future::ready(Err(Error::unavailable("WRONGTYPE"))))
        }
    }

    impl Store for Spoiled {
        fn get<'a>(&'a self, key: Key<'a>, deadline: Instant) -> Pending<'a, Option<Entry>> {
            self.store.get(key, deadline)
        }

        fn write<'a>(&'a self, write: Write<'a>, deadline: Instant) -> Pending<'a, Outcome> {
            self.store.write(write, deadline)
        }

        fn get_many<'a>(&'a self, keys: Batch<Key<'a>>, deadline: Instant) -> Pending<'a, Vec<Option<Entry>>> {
            if self.away || keys.as_slice().iter().any(|key| key.name() == self.name) {
                return Self::fail();
            }
            self.store.get_many(keys, deadline)
        }

        fn write_many<'a>(&'a self, writes: Batch<Write<'a>>, deadline: Instant) -> Pending<'a, Vec<Outcome>> {
            self.store.write_many(writes, deadline)
        }

        fn list<'a>(&'a self, listing: Listing<'a>, deadline: Instant) -> Pending<'a, Page> {
            if self.away && listing.limit() == 1 {
                return Self::fail();
            }
            self.store.list(listing, deadline)
        }

        fn buckets<'a>(&'a self, after: &'a str, deadline: Instant) -> Pending<'a, Vec<String>> {
            self.store.buckets(after, deadline)
        }

        fn usage(&self, deadline: Instant) -> Pending<'_, Usage> {
            self.store.usage(deadline)
        }
    }

    /// An entry that cannot be read at all hides no host; a store that fails has no bad entries.
    #[tokio::test]
    async fn one_bad_entry_hides_no_host() {
        let store = store().await;
        for n in 0..40 {
            put(&store, &format!("h{n}"), record(3)).await;
        }
        // It never expires, so that no host has written it.
        let key = Key::new("members/c", "lasts").unwrap();
        store.set(key, Value::new(record(1)).unwrap(), Set::default(), Instant::now()).await.unwrap();
        let spoiled = Spoiled { store: Arc::clone(&store), name: "h7", away: false };
        let reading = Roster::new(&spoiled, "members/c", "", patience(5)).await.unwrap();
        assert_eq!((reading.records.len(), reading.ignored), (39, 2));
        assert!(reading.unread.iter().eq(["h7", "lasts"]), "{:?}", reading.unread);
        let away = Spoiled { away: true, ..spoiled };
        let failed = Roster::new(&away, "members/c", "", patience(5)).await;
        assert!(matches!(failed, Err(Error::Unavailable { .. })));
        // What is not read in time is left out, and not taken for absent.
        let late = Patience { end: Instant::now(), ..patience(5) };
        let reading = Roster::new(&away, "members/c", "", late).await.unwrap();
        assert_eq!((reading.records.len(), reading.unread.len(), reading.truncated), (0, 41, true));
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
