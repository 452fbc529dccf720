//! Promise: the traffic and the memory of a cluster with 1,000 hosts and 1,000 services are bounded. The hosts write and read with the
//! code of the host, a store in memory counts what they do, and time is that of the test. `docs/sizing.md` has the numbers.

use std::collections::HashSet;
use std::mem::size_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use lodge_state::{
    Backend, Batch, Entry, Key, Listing, ManualClock, Memory, Namespace, Outcome, Page, Pending, Store, Timestamp,
    Usage, Write,
};
use tokio::time::{Instant, advance};

use super::QUOTA;
use super::members::{KnownHost, KnownHosts};
use super::record::HostRecord;
use super::registration::{Registration, Renewal};
use super::roster::{OwnName, Patience, ReadingBounds, ReadingPlace, RosterReader};
use super::served::{ListWriter, LongList, ServedServices};

const HOSTS: usize = 1_000;
const SERVICES: usize = 1_000;

/// The defaults of `cluster.interval` and `cluster.ttl`.
const INTERVAL: Duration = Duration::from_secs(3);
const TTL: Duration = Duration::from_secs(15);

/// What hosts did to a store.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct StoreTraffic {
    /// Requests to the server.
    requests: u64,
    /// Bytes of values and names.
    read: u64,
    written: u64,
}

/// A store that counts.
struct CountedStore {
    store: Arc<dyn Store>,
    requests: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
}

impl CountedStore {
    /// Returns what was done since it was last asked.
    fn take(&self) -> StoreTraffic {
        let [requests, read, written] = [&self.requests, &self.read, &self.written].map(|count| count.swap(0, Relaxed));
        StoreTraffic { requests, read, written }
    }

    fn write_of(&self, write: &Write<'_>) {
        let bytes = match &write.change {
            lodge_state::Change::Put(value, _) => value.size(),
            _ => 0,
        };
        self.written.fetch_add(bytes, Relaxed);
    }
}

impl Store for CountedStore {
    fn get<'a>(&'a self, key: Key<'a>, deadline: Instant) -> Pending<'a, Option<Entry>> {
        self.requests.fetch_add(1, Relaxed);
        self.store.get(key, deadline)
    }

    fn write<'a>(&'a self, write: Write<'a>, deadline: Instant) -> Pending<'a, Outcome> {
        self.requests.fetch_add(1, Relaxed);
        self.write_of(&write);
        self.store.write(write, deadline)
    }

    fn get_many<'a>(&'a self, keys: Batch<Key<'a>>, deadline: Instant) -> Pending<'a, Vec<Option<Entry>>> {
        Box::pin(async move {
            let entries = self.store.get_many(keys, deadline).await?;
            let bytes = entries.iter().flatten().map(|entry| entry.value.size()).sum::<u64>();
            self.requests.fetch_add(1, Relaxed);
            self.read.fetch_add(bytes, Relaxed);
            Ok(entries)
        })
    }

    fn write_many<'a>(&'a self, writes: Batch<Write<'a>>, deadline: Instant) -> Pending<'a, Vec<Outcome>> {
        self.requests.fetch_add(1, Relaxed);
        writes.as_slice().iter().for_each(|write| self.write_of(write));
        self.store.write_many(writes, deadline)
    }

    fn list<'a>(&'a self, listing: Listing<'a>, deadline: Instant) -> Pending<'a, Page> {
        Box::pin(async move {
            let page = self.store.list(listing, deadline).await?;
            self.requests.fetch_add(1, Relaxed);
            self.read.fetch_add(page.keys.iter().map(|key| key.len() as u64).sum(), Relaxed);
            Ok(page)
        })
    }

    fn buckets<'a>(&'a self, after: &'a str, deadline: Instant) -> Pending<'a, Vec<String>> {
        self.store.buckets(after, deadline)
    }

    fn usage(&self, deadline: Instant) -> Pending<'_, Usage> {
        self.store.usage(deadline)
    }
}

/// A host that writes. The records of hosts differ in the id, the address and the load.
struct WritingHost {
    name: String,
    record: HostRecord,
    list: Option<LongList>,
    registration: Registration,
    lists: ListWriter,
}

/// A cluster, and one of its hosts that reads.
struct SimulatedCluster {
    store: Arc<CountedStore>,
    clock: Arc<ManualClock>,
    writers: Vec<WritingHost>,
    known: KnownHosts,
    place: ReadingPlace,
}

/// Which hosts serve what.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Distribution {
    /// All hosts serve all services.
    Same,
    /// Each service is on ten hosts.
    Spread,
    /// Each host has 1,000 services in versions that no other host has.
    Different,
}

impl Distribution {
    /// The services of a host, the first of them in this version.
    fn of(self, host: usize, version: u64) -> ServedServices {
        let service = |(n, id): (usize, u64)| (format!("service-{n:04}"), format!("{id:012x}"));
        let newest = |n: usize| if n == 0 { version } else { 0 };
        match self {
            Self::Same => (0..SERVICES).map(|n| service((n, newest(n)))).collect(),
            Self::Spread => (0..10).map(|n| service((host / 10 * 10 + n, newest(n)))).collect(),
            Self::Different => (0..SERVICES).map(|n| service((n, (host as u64) << 8 | newest(n)))).collect(),
        }
    }
}

impl SimulatedCluster {
    async fn new(hosts: usize) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::new(1)));
        let memory = Memory::new(256 << 20, Arc::clone(&clock) as Arc<_>);
        let store = memory.open(&Namespace::new("@cluster").unwrap(), QUOTA, Instant::now()).await.unwrap();
        let store =
            CountedStore { store, requests: AtomicU64::new(0), read: AtomicU64::new(0), written: AtomicU64::new(0) };
        let writer = |n: usize| WritingHost {
            name: format!("host-{n:04}"),
            record: HostRecord::default(),
            list: None,
            registration: Registration::new(format!("{n:032x}"), TTL).unwrap(),
            lists: ListWriter::new("lists/shop".into(), TTL),
        };
        let writers = (1..=hosts).map(writer).collect();
        Self { store: Arc::new(store), clock, writers, known: KnownHosts::default(), place: ReadingPlace::default() }
    }

    /// Lets all hosts serve this from now on.
    fn serve(&mut self, services: Distribution, version: u64) {
        let mut served = services.of(0, version);
        for (n, writer) in self.writers.iter_mut().enumerate() {
            if services != Distribution::Same {
                served = services.of(n, version);
            }
            let record = HostRecord {
                id: format!("{:032x}", n + 1),
                address: Some(format!("https://10.0.{}.{}:8443/", n / 250, n % 250)),
                zone: Some("eu-west-1a".into()),
                version: "1.0.0".into(),
                slots: 1_000,
                services: served.clone(),
                ..HostRecord::default()
            };
            (writer.record, writer.list) = record.without_list();
        }
    }

    /// All hosts renew their records. Returns what they did.
    async fn write(&mut self) -> StoreTraffic {
        self.store.take();
        let deadline = Instant::now() + TTL;
        for writer in &mut self.writers {
            if let Some(list) = writer.list.clone() {
                writer.lists.write(&*self.store, list, deadline).await.unwrap();
            }
            let (key, bytes) = (Key::new("members/shop", &writer.name).unwrap(), writer.record.clone().write());
            let renewal = writer.registration.renew(&*self.store, key, bytes.into(), deadline).await.unwrap();
            assert!(matches!(renewal, Renewal::Done { .. }));
        }
        self.store.take()
    }

    /// One host reads. Returns what it did.
    async fn read(&mut self) -> StoreTraffic {
        self.store.take();
        let own = OwnName { host: "reader", id: "f".repeat(32).leak() };
        let patience = Patience { operation: TTL, end: Instant::now() + TTL };
        let (bucket, lists, bounds) = ("members/shop", "lists/shop", ReadingBounds::default());
        let reader = RosterReader { store: &*self.store, bucket, lists, own, bounds, patience };
        let reading = reader.read(&self.known.names(), &mut self.place).await.unwrap();
        assert_eq!(self.known.update(reading, false, Instant::now()).left, Vec::<String>::new());
        self.store.take()
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        advance(time).await;
    }

    /// How many hosts are known with this version of their first service.
    fn knows(&self, services: Distribution, version: u64) -> usize {
        let all = services.of(0, version);
        let has = |(n, (_, host)): &(usize, (&str, &KnownHost))| {
            let own = (services != Distribution::Same).then(|| services.of(*n, version));
            host.record.services.first_key_value() == own.as_ref().unwrap_or(&all).first_key_value()
        };
        self.known.iter().enumerate().filter(has).count()
    }

    /// Reads until all hosts are known with this version. Returns the number of readings, and what all of them did.
    async fn converge(&mut self, services: Distribution, version: u64) -> (u64, StoreTraffic) {
        let (mut readings, mut all) = (0, StoreTraffic::default());
        while self.knows(services, version) < self.writers.len() {
            let one = self.read().await;
            readings += 1;
            assert!(readings < 100, "{} hosts are known", self.knows(services, version));
            all.requests += one.requests;
            all.read += one.read;
        }
        (readings, all)
    }

    /// The bytes of memory of what the host knows, about: of each text its bytes and its place, and half as much again for the trees.
    fn memory(&self) -> u64 {
        let (mut seen, mut bytes) = (HashSet::new(), 0);
        for (name, host) in self.known.iter() {
            bytes += name.len() + size_of::<HostRecord>() + 200;
            if seen.insert(std::ptr::from_ref(&*host.record.services)) {
                let texts = host.record.services.iter();
                bytes += texts.map(|(name, digest)| 2 * size_of::<String>() + name.len() + digest.len()).sum::<usize>();
            }
        }
        // What upstreams look into has one place for each service of each host.
        let places =
            self.known.iter().map(|(_, host)| host.record.services.len()).sum::<usize>() * size_of::<Arc<()>>();
        ((bytes + places) * 3 / 2) as u64
    }
}

/// What the docs say of a cluster.
#[derive(Debug)]
struct ClusterCosts {
    /// What all hosts write in an interval without changes, in one in which lists are not written again, and in a minute.
    write: StoreTraffic,
    minute: StoreTraffic,
    /// What one host reads in an interval without changes.
    read: StoreTraffic,
    /// The readings until a host that starts knows all, and what they did.
    start: (u64, StoreTraffic),
    /// The same after one service has changed on all hosts, and what these wrote.
    deploy: (u64, StoreTraffic, StoreTraffic),
    memory: u64,
}

#[expect(clippy::print_stdout, reason = "the numbers are for docs/sizing.md")]
async fn measure(hosts: usize, services: Distribution) -> ClusterCosts {
    let mut cluster = SimulatedCluster::new(hosts).await;
    cluster.serve(services, 1);
    cluster.write().await;
    let start = cluster.converge(services, 1).await;
    cluster.pass(INTERVAL).await;
    let (write, read) = (cluster.write().await, cluster.read().await);
    let mut minute = StoreTraffic::default();
    for _ in 0..60 / INTERVAL.as_secs() {
        cluster.pass(INTERVAL).await;
        let one = cluster.write().await;
        minute.requests += one.requests;
        minute.written += one.written;
    }
    cluster.serve(services, 2);
    let written = cluster.write().await;
    let (readings, all) = cluster.converge(services, 2).await;
    let measured =
        ClusterCosts { write, minute, read, start, deploy: (readings, all, written), memory: cluster.memory() };
    println!("{measured:#?}");
    measured
}

/// The same services on all hosts, as in a Deployment of Kubernetes.
#[tokio::test(start_paused = true)]
async fn a_thousand_hosts_with_the_same_thousand_services() {
    let all = measure(HOSTS, Distribution::Same).await;
    // One renewal of a small record for each host.
    assert!(all.write.requests == HOSTS as u64 && all.write.written < HOSTS as u64 * 300, "{all:?}");
    // The list is written once a minute by each host.
    assert!(all.minute.written < HOSTS as u64 * (20 * 300 + (32 << 10)), "{all:?}");
    // All records in batches, and no list.
    assert!(all.read.requests < 20 && all.read.read < HOSTS as u64 * 320, "{all:?}");
    // New hosts are found by a share of each reading; the list is read once.
    assert!(all.start.0 <= 2 && all.start.1.read < HOSTS as u64 * 320 + (64 << 10), "{all:?}");
    // A deploy is known after one reading, with one list more.
    assert!(all.deploy.0 == 1 && all.deploy.1.read < all.read.read + (64 << 10), "{all:?}");
    // Nearly all of it are the places of hosts at services.
    assert!(all.memory < 16 << 20, "{all:?}");
}

/// Each service on ten hosts.
#[tokio::test(start_paused = true)]
async fn a_thousand_hosts_with_ten_services_each() {
    let all = measure(HOSTS, Distribution::Spread).await;
    assert!(all.write.requests == HOSTS as u64 && all.write.written < HOSTS as u64 * 600, "{all:?}");
    assert!(all.read.requests < 20 && all.read.read < HOSTS as u64 * 620, "{all:?}");
    assert!(all.start.0 <= 2 && all.deploy.0 == 1, "{all:?}");
    assert!(all.memory < 4 << 20, "{all:?}");
}

/// The most that a cluster can be: no two hosts serve the same. A tenth of the hosts, since all of it is in proportion to them.
#[tokio::test(start_paused = true)]
async fn hosts_with_a_thousand_services_of_their_own() {
    let hosts = HOSTS as u64 / 10;
    let all = measure(HOSTS / 10, Distribution::Different).await;
    // While nothing changes, this costs no more than the same services.
    assert!(all.write.written < hosts * 300 && all.read.read < hosts * 320, "{all:?}");
    // Each reading reads 2 MiB of lists, so a change of all hosts at once is known later.
    assert!(all.start.0 <= 3 && all.deploy.0 <= 2 && all.deploy.1.read < hosts * (32 << 10), "{all:?}");
    assert!(all.memory < hosts * (256 << 10), "{all:?}");
}
