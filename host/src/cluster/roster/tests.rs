use std::sync::Arc;

use lodge_state::limits::MAX_VALUE;
use lodge_state::{
    Backend, Expiry, Memory, Namespace, Outcome, Page, Pending, Quota, Set, SystemClock, Ttl, Usage, Value, Write,
};
use proptest::prelude::*;

use super::*;
use crate::cluster::members::KnownHosts;
use crate::cluster::served::MOST_BYTES;

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

const OWN: OwnName<'static> = OwnName { host: "own", id: "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb" };

fn reader(store: &dyn Store) -> RosterReader<'_> {
    RosterReader {
        store,
        bucket: "members/c",
        lists: "lists/c",
        own: OWN,
        bounds: ReadingBounds::default(),
        patience: patience(5),
    }
}

/// One reading of a host that knows none.
async fn read(store: &dyn Store) -> Result<Roster, Error> {
    reader(store).read(&NamesBefore::default(), &mut ReadingPlace::default()).await
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
    let reading = read(&*store).await.unwrap();
    assert_eq!((reading.records.len(), reading.ignored, reading.truncated), (40, 8, false));
    assert!(reading.own && reading.nonsense.len() == 4, "{:?}", reading.nonsense);
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
    let reading = read(&spoiled).await.unwrap();
    assert_eq!((reading.records.len(), reading.ignored), (39, 2));
    assert!(reading.nonsense.iter().eq(["h7", "lasts"]), "{:?}", reading.nonsense);
    let away = Spoiled { away: true, ..spoiled };
    assert!(matches!(read(&away).await, Err(Error::Unavailable { .. })));
    // What is not read in time is left out, and not taken for absent.
    let late = RosterReader { patience: Patience { end: Instant::now(), ..patience(5) }, ..reader(&*store) };
    let known = NamesBefore { sound: ["h1".into()].into(), ..NamesBefore::default() };
    let reading = late.read(&known, &mut ReadingPlace::default()).await.unwrap();
    assert_eq!((reading.records.len(), reading.gone.iter().eq(["own"]), reading.truncated), (0, true, true));
}

/// A store full of records takes neither more memory nor more time than the bounds say.
#[tokio::test]
async fn names_and_bytes_of_a_reading_are_bounded() {
    let all = store().await;
    for n in 0..3 * MOST_NAMES {
        put(&all, &format!("h{n:05}"), record(1)).await;
    }
    let reading = read(&*all).await.unwrap();
    assert_eq!((reading.records.len(), reading.truncated), (MOST_NAMES, true));
    let large = store().await;
    for n in 0..200 {
        put(&large, &format!("h{n:05}"), record(1_000)).await;
    }
    let reading = read(&*large).await.unwrap();
    let (bytes, bounds) = (record(1_000).len() as u64, ReadingBounds::default());
    assert!(reading.truncated && reading.bytes < bounds.bytes + FEW as u64 * bytes, "{}", reading.bytes);
}

/// A host that reads, and others that renew their records before each of its readings.
struct Fixture {
    store: Arc<dyn Store>,
    bounds: ReadingBounds,
    good: BTreeMap<String, Vec<u8>>,
    known: KnownHosts,
    place: ReadingPlace,
    now: Instant,
}

impl Fixture {
    async fn new(bounds: ReadingBounds, good: BTreeMap<String, Vec<u8>>, bad: BTreeMap<String, Vec<u8>>) -> Self {
        let (store, now) = (store().await, Instant::now());
        for (name, content) in bad {
            put(&store, &name, content).await;
        }
        Self { store, bounds, good, known: KnownHosts::default(), place: ReadingPlace::default(), now }
    }

    async fn rounds(&mut self, count: usize) {
        for _ in 0..count {
            self.now += Duration::from_secs(60);
            for (name, content) in &self.good {
                put(&self.store, name, content.clone()).await;
            }
            let reader = RosterReader { bounds: self.bounds, ..reader(&*self.store) };
            let reading = reader.read(&self.known.names(), &mut self.place).await.unwrap();
            let most = self.bounds.bytes + (3 * MAX_BATCH_BYTES + 2 * MAX_VALUE) as u64;
            assert!(reading.bytes < most, "{}", reading.bytes);
            assert_eq!(self.known.update(reading, false, self.now).left, Vec::<String>::new(), "no host has left");
        }
    }

    /// The hosts of which nothing new was read since then.
    fn unread(&self, since: Instant) -> Vec<&str> {
        let is_read = |name: &str| self.known.iter().any(|(known, host)| known == name && host.renewed > since);
        self.good.keys().map(String::as_str).filter(|name| !is_read(name)).collect()
    }
}

/// The readings that `docs/cluster.md` promises for what has so many bytes, of which one reading takes `share`.
fn readings(contents: &BTreeMap<String, Vec<u8>>, share: u64) -> usize {
    2 + contents.values().map(Vec::len).sum::<usize>().div_ceil(share as usize)
}

fn names() -> impl Strategy<Value = BTreeMap<String, usize>> {
    // Some sort before all others, some after them.
    proptest::collection::btree_map("[0az][a-z]{0,2}", 0_usize..12, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Whatever else is in the store, each host is known after some readings, is read again within some, and never leaves.
    #[test]
    fn every_host_has_its_turn(good in names(), bad in names(), pages in 1_usize..3, page in 1_usize..20) {
        let good: BTreeMap<_, _> = good.into_iter().map(|(name, n)| (format!("{name}-g"), record(n * 20))).collect();
        let nonsense = |(name, size): (String, usize)| match size {
            0 => (name, vec![b'x'; MAX_VALUE]),
            1..4 => (name, vec![b'x'; MOST_BYTES + 1]),
            size => (name, vec![b'{'; size]),
        };
        let bad: BTreeMap<_, _> = bad.into_iter().map(nonsense).collect();
        let parts = (good.len() + bad.len()) / (pages * page) + 1;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bounds =
                ReadingBounds { bytes: 16 << 10, known: 12 << 10, pages, page, batch: FEW, ..ReadingBounds::default() };
            let others = bounds.bytes - bounds.known;
            let until_known = readings(&good, others) + readings(&bad, others) + parts;
            let mut all = Fixture::new(bounds, good, bad).await;
            let start = all.now;
            all.rounds(until_known).await;
            assert_eq!(all.unread(start), Vec::<&str>::new());
            let since = all.now;
            all.rounds(readings(&all.good, bounds.known)).await;
            assert_eq!(all.unread(since), Vec::<&str>::new());
        });
    }
}

/// What has kept hosts unread for ever: records of 1 MiB that sort first, and more full ones than are read at once.
#[tokio::test]
async fn large_records_hide_no_host() {
    let bad = (0..8).map(|n| (format!("a{n}"), vec![b'x'; MAX_VALUE])).collect();
    // Some of them are as large as a record may be.
    let good: BTreeMap<_, _> =
        (0..140).map(|n| (format!("h{n:03}"), record(if n % 2 == 0 { 2_000 } else { 1 }))).collect();
    let mut all = Fixture::new(ReadingBounds::default(), good, bad).await;
    let start = all.now;
    all.rounds(8).await;
    assert_eq!(all.unread(start), Vec::<&str>::new());
    let since = all.now;
    all.rounds(3).await;
    assert_eq!(all.unread(since), Vec::<&str>::new());
}
