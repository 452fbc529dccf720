//! The buckets of a limit that a host shares with the others of its cluster, as it knows them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use lodge_base::lock::lock;
use sha2::Sha256;

use super::super::key::BucketKey;
use super::super::{Quota, State};
use super::ClusterRates;
use super::record::BucketReplica;
use super::terms::Terms;

/// The most keys of a limit that are charged at the server at a time. Others have the part of the rate that is this host's own.
const MOST_KEYS: usize = 4_096;

/// Keys that are looked at to make room for another one.
const CANDIDATES: usize = 16;

/// How long a key that is not used stays in memory at least.
const IDLE: Duration = Duration::from_secs(10);

/// The buckets of one limit, as this host knows them.
#[derive(Debug)]
pub(in super::super) struct ClusterBuckets {
    rates: Arc<ClusterRates>,
    /// The beginning of the ids of its buckets.
    limit: Sha256,
    terms: Terms,
    /// Versions of the limit with other terms share it.
    known: Arc<Mutex<KnownBuckets>>,
    /// The buckets of this host while the server is away.
    away: State,
}

#[derive(Debug)]
struct KnownBuckets {
    /// That in which their times are.
    quota: Quota,
    all: HashMap<u128, ClusterBucket>,
    /// Those that wait for an exchange.
    queue: VecDeque<u128>,
    /// When all buckets are full again that were forgotten for others.
    lost: u64,
}

/// A bucket of the cluster, as this host knows it.
///
/// `uncharged + allowed` is never more than a lead, but after a change to a smaller one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ClusterBucket {
    pub(super) replica: BucketReplica,
    /// The revision of its record, if it has one.
    pub(super) version: Option<u64>,
    /// Requests that were admitted, and that it was not charged with yet.
    pub(super) uncharged: u32,
    /// Requests that may still be admitted.
    allowed: u32,
    /// Whether it may have been forgotten before it was full, so that it must be read before it allows anything.
    is_lost: bool,
    stage: Stage,
    /// When an exchange may give room.
    next: u64,
    /// When a request has last used it.
    used: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    Queued,
    Exchanging,
}

impl ClusterBuckets {
    /// Returns the buckets of a limit of `burst` requests.
    pub(in super::super) fn new(
        rates: &Arc<ClusterRates>,
        limit: Sha256,
        terms: (Quota, u32),
        epoch: Instant,
    ) -> Arc<Self> {
        let (rates, terms, away) = (Arc::clone(rates), Terms::new(terms), State::new(epoch));
        let (quota, all, queue, lost) = (terms.shared(), HashMap::new(), VecDeque::new(), 0);
        let known = Arc::new(Mutex::new(KnownBuckets { quota, all, queue, lost }));
        Self { rates, limit, terms, known, away }.listed()
    }

    /// Returns the same buckets with other terms, which hold for what is known as soon as they are [active](Self::activate).
    pub(in super::super) fn with_terms(&self, terms: (Quota, u32), now: Instant) -> Arc<Self> {
        let (rates, terms, hosts) = (Arc::clone(&self.rates), Terms::new(terms), self.rates.hosts().unwrap_or(1));
        let (from, to) = (self.terms.share(hosts), terms.share(hosts));
        let away = self.away.converted(now, |full, at| from.convert(full, at, to));
        Self { rates, limit: self.limit.clone(), terms, known: Arc::clone(&self.known), away }.listed()
    }

    fn listed(self) -> Arc<Self> {
        let buckets = Arc::new(self);
        lock(&buckets.rates.limits).push_back(Arc::downgrade(&buckets));
        buckets
    }

    /// Lets the terms hold. What is used of a bucket stays, in requests, also that of which the server does not know yet.
    pub(in super::super) fn activate(&self, now: Instant) {
        let (at, to) = (self.since(now), self.terms.shared());
        let mut known = lock(&self.known);
        let KnownBuckets { quota, all, lost, .. } = &mut *known;
        let from = std::mem::replace(quota, to);
        if from == to {
            return;
        }
        *lost = from.convert(*lost, at, to);
        for bucket in all.values_mut() {
            bucket.replica.convert(from, at, to);
            (bucket.allowed, bucket.next) = (0, 0);
        }
    }

    /// The part of the limit that is this host's own now: all of it outside of a cluster.
    pub(in super::super) fn own(&self) -> Quota {
        self.rates.hosts().map_or(self.terms.whole(), |hosts| self.terms.own(hosts))
    }

    /// Where what is known is in memory.
    pub(super) fn place(&self) -> usize {
        Arc::as_ptr(&self.known).addr()
    }

    /// Begins the exchanges that are due, until there are so many. Also returns that in which the times of the buckets are.
    pub(super) fn due(&self, most: usize) -> (Quota, Vec<(u128, ClusterBucket)>) {
        let mut known = lock(&self.known);
        let KnownBuckets { quota, all, queue, .. } = &mut *known;
        let count = queue.len().min(most);
        let due = queue.drain(..count).filter_map(|id| {
            let bucket = all.get_mut(&id)?;
            bucket.stage = Stage::Exchanging;
            Some((id, *bucket))
        });
        (*quota, due.collect())
    }

    /// Ends an exchange, for which times were in `from`. `change` returns whether the bucket is known as of now; if not, it is exchanged
    /// again.
    pub(super) fn end(&self, id: u128, from: Quota, now: Instant, change: impl FnOnce(&mut ClusterBucket) -> bool) {
        let (at, lead) = (self.since(now), self.terms.lead(self.rates.hosts().unwrap_or(1)));
        let mut known = lock(&self.known);
        let quota = known.quota;
        let Some(bucket) = known.all.get_mut(&id) else { return };
        bucket.stage = Stage::Idle;
        let is_known = change(bucket);
        if from != quota {
            bucket.replica.convert(from, at, quota);
        }
        if is_known {
            bucket.is_lost = false;
            bucket.allow(quota, lead, at);
        }
        let again = !is_known || (bucket.uncharged > 0 && bucket.wants(lead, at));
        self.queue(known, id, again);
    }

    /// Ends an exchange that has failed.
    pub(super) fn fail(&self, id: u128) {
        if let Some(bucket) = lock(&self.known).all.get_mut(&id) {
            bucket.stage = Stage::Idle;
        }
    }

    /// Lets all that is not charged be charged, and forgets what is not used and full again, after the time of a whole burst: until then
    /// the count of its record says how much the other hosts have charged. Returns whether an exchange is due.
    pub(super) fn sweep(&self, now: Instant) -> bool {
        let at = self.since(now);
        let mut known = lock(&self.known);
        let KnownBuckets { quota, all, queue, .. } = &mut *known;
        let span = Duration::from_nanos(quota.span);
        all.retain(|id, bucket| {
            if bucket.stage == Stage::Idle && bucket.uncharged > 0 {
                bucket.stage = Stage::Queued;
                queue.push_back(*id);
            }
            let idle = Duration::from_nanos(at.saturating_sub(bucket.used));
            !bucket.is_disposable() || bucket.replica.full() > at || idle < IDLE.max(span)
        });
        !queue.is_empty()
    }

    /// Nanoseconds in which the times of its buckets are.
    pub(super) fn since(&self, now: Instant) -> u64 {
        self.away.since(now)
    }

    /// Returns the number of keys that are charged at the server.
    pub(super) fn keys(&self) -> usize {
        lock(&self.known).all.len()
    }

    /// Takes one request from the buckets of `key`, first from that of this host in `own`. Returns when the whole limit would be full
    /// again.
    ///
    /// # Errors
    /// The same, and the nanoseconds until there may be room.
    pub(in super::super) fn take(&self, key: &BucketKey<'_>, own: &State, at: u64) -> Result<u64, (u64, u64)> {
        let Some(hosts) = self.rates.hosts() else { return own.take(key, self.terms.whole(), at) };
        if self.rates.is_away() {
            let share = self.terms.share(hosts);
            let shown = |full| self.full(share.room(full, at), at);
            return self.away.take(key, share, at).map(shown).map_err(|(full, wait)| (shown(full), wait));
        }
        let (lead, quota, burst) = (self.terms.lead(hosts), self.terms.own(hosts), self.terms.burst());
        match own.take(key, quota, at) {
            Ok(full) => {
                let left = quota.room(full, at);
                // The last ones find room if that takes no longer than an exchange.
                let is_short = left <= u64::from(lead / 2);
                let room = if is_short { self.ask(key.id(&self.limit), lead, at) } else { burst.into() };
                Ok(self.full(room.saturating_add(left).min(u64::from(burst.saturating_sub(1))), at))
            }
            Err((_, wait)) => {
                let taken = self.take_shared(key.id(&self.limit), lead, at);
                taken.map(|room| self.full(room, at)).map_err(|until| (self.full(0, at), until.min(wait)))
            }
        }
    }

    /// Returns the number of requests of all keys for which there is room.
    pub(in super::super) fn remaining(&self, own: &State, at: u64) -> u64 {
        let Some(hosts) = self.rates.hosts() else { return own.room(self.terms.whole(), at) };
        if self.rates.is_away() {
            return self.away.room(self.terms.share(hosts), at);
        }
        let known = lock(&self.known);
        let bucket = known.all.get(&BucketKey::Service.id(&self.limit));
        let burst = u64::from(self.terms.burst());
        let room = bucket.map_or(burst, |bucket| bucket.room(known.quota, at));
        room.saturating_add(own.room(self.terms.own(hosts), at)).min(burst)
    }

    /// Describes for how many hosts the limit holds.
    pub(in super::super) fn described(&self) -> String {
        match self.rates.hosts() {
            None => "this host is in no cluster".into(),
            Some(hosts) if self.rates.is_away() => format!("the server is away: this host has its share, 1 of {hosts}"),
            Some(hosts) => format!("shared by {hosts} hosts"),
        }
    }

    /// Returns when the whole limit would be full again if it has room for so many requests.
    fn full(&self, room: u64, at: u64) -> u64 {
        self.terms.full(room, at)
    }

    /// Wants room in a bucket of the cluster, before a request needs it. Returns how much there may be.
    fn ask(&self, id: u128, lead: u32, at: u64) -> u64 {
        let mut known = lock(&self.known);
        let quota = known.quota;
        let Some(bucket) = known.bucket(id, at) else { return 0 };
        let room = bucket.room(quota, at);
        let is_wanted = bucket.wants(lead, at);
        self.queue(known, id, is_wanted);
        room
    }

    /// Takes a request from a bucket of the cluster, within a lead of what the server knows. A bucket that is new, or was last exchanged
    /// long ago, has the room that this host knows of. Returns for how many more there may be room.
    ///
    /// # Errors
    /// The nanoseconds until there may be room.
    fn take_shared(&self, id: u128, lead: u32, at: u64) -> Result<u64, u64> {
        let mut known = lock(&self.known);
        let quota = known.quota;
        let Some(bucket) = known.bucket(id, at) else { return Err(u64::MAX) };
        if bucket.allowed == 0 && !bucket.is_lost {
            bucket.allow(quota, lead, at);
        }
        let is_allowed = bucket.allowed > 0;
        if is_allowed {
            bucket.allowed -= 1;
            bucket.uncharged += 1;
        }
        let room = bucket.room(quota, at);
        let room_at = bucket.replica.has_room_at(u64::from(bucket.uncharged) + 1, quota);
        let until = if bucket.is_lost || bucket.uncharged >= lead { bucket.next.max(room_at) } else { room_at };
        let is_wanted = bucket.wants(lead, at);
        self.queue(known, id, is_wanted);
        if is_allowed { Ok(room) } else { Err(until.saturating_sub(at).max(1)) }
    }

    /// Lets an exchange be due, if it is wanted.
    fn queue(&self, mut known: MutexGuard<'_, KnownBuckets>, id: u128, is_wanted: bool) {
        if is_wanted && let Some(bucket) = known.all.get_mut(&id) {
            bucket.stage = Stage::Queued;
            known.queue.push_back(id);
            drop(known);
            self.rates.wanted.notify_one();
        }
    }
}

impl KnownBuckets {
    /// Returns a bucket, for which another one may be forgotten; `None` if there is no room.
    fn bucket(&mut self, id: u128, at: u64) -> Option<&mut ClusterBucket> {
        if self.all.len() >= MOST_KEYS && !self.all.contains_key(&id) {
            let spare = self.all.iter().take(CANDIDATES).filter(|(_, bucket)| bucket.is_disposable());
            let (spare, full) = spare.map(|(id, bucket)| (*id, bucket.replica.full())).min_by_key(|(_, full)| *full)?;
            self.all.remove(&spare);
            self.lost = self.lost.max(full);
        }
        let is_lost = at < self.lost;
        let bucket = self.all.entry(id).or_insert_with(|| ClusterBucket { is_lost, ..ClusterBucket::default() });
        bucket.used = at;
        Some(bucket)
    }
}

impl ClusterBucket {
    /// Whether nothing is lost without it: the server has all that was admitted.
    fn is_disposable(&self) -> bool {
        self.stage == Stage::Idle && self.uncharged == 0
    }

    /// Whether an exchange would help.
    fn wants(&self, lead: u32, at: u64) -> bool {
        self.stage == Stage::Idle && self.allowed <= lead / 2 && at >= self.next
    }

    fn room(&self, quota: Quota, at: u64) -> u64 {
        self.replica.room(quota, at).saturating_sub(self.uncharged.into())
    }

    /// Allows as many requests as there is room for, within a lead.
    fn allow(&mut self, quota: Quota, lead: u32, at: u64) {
        let room = u32::try_from(self.room(quota, at)).unwrap_or(u32::MAX);
        self.allowed = lead.saturating_sub(self.uncharged).min(room);
        let useful = u64::from(self.uncharged) + u64::from(lead / 2) + 1;
        self.next = self.replica.has_room_at(useful.min(quota.span / quota.interval.max(1)), quota);
    }
}
