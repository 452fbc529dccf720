//! Rate limits that hold for all hosts of a cluster together.
//!
//! A key has one bucket in the server of the state. No request waits for it: a host admits requests ahead, at most a *lead* of them that
//! the server does not know yet, and charges the bucket with them afterwards. It gets another lead only if the bucket has room then.
//!
//! Most clients use little of their rate, and are charged at one host only: a twentieth of the rate is divided among the hosts, and each
//! has a small bucket of its own with its part, from which a key takes first. So a flood of addresses writes nothing at the server, and a
//! request of a new key finds room. What a host has for a key in the bucket of the cluster, it reads ahead, when its own one is half used:
//! with a lead of one or two, that is at the first request. A key that it does not know has a lead at once, and one that it knows what it
//! knows of, refilled since.
//!
//! In any period, with `n` hosts, `lead = max(1, burst / 4n)`, and the server within reach, at most
//! `burst + rate × time + 2 × n × lead` requests of a key are admitted. Take the last exchange by which any host admitted a request of
//! the period, then or later. It has found all charges before it, and the bucket had room when the host used it, so these are `burst` and
//! 19 twentieths of the rate; what no host had charged by then is one lead each, as a host that has a lead uncharged admits no more. A
//! bucket is forgotten only when it is full, which is what a host believes of one that it does not know. The own buckets admit another lead
//! each, and the last twentieth.
//!
//! Without the server, each host has its share of the rate and of the burst, by the number of hosts that it knew last.

mod buckets;
mod exchange;
mod record;
mod terms;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use lodge_base::lock::lock;
use tokio::sync::Notify;

pub(super) use buckets::ClusterBuckets;
pub use exchange::{BucketCharge, BucketExchange};

/// The most hosts that a rate is divided by.
const MOST_HOSTS: u32 = 1_001;

/// The limits of a host that hold for its cluster, and what they need to know of it.
#[derive(Debug, Default)]
pub struct ClusterRates {
    /// The known hosts, this one included; 0 if it is in no cluster.
    hosts: AtomicU32,
    /// Whether the server cannot be used.
    away: AtomicBool,
    limits: Mutex<VecDeque<Weak<ClusterBuckets>>>,
    wanted: Notify,
}

impl ClusterRates {
    /// Says that the host is in a cluster, of which it knows only itself yet.
    pub fn join(&self) {
        self.set_hosts(1);
    }

    /// Sets the number of known hosts, this one included.
    pub fn set_hosts(&self, hosts: usize) {
        self.hosts.store(u32::try_from(hosts).unwrap_or(MOST_HOSTS).clamp(1, MOST_HOSTS), Relaxed);
    }

    /// Returns the number of hosts that share the limits, this one included; `None` if it is in no cluster.
    pub fn hosts(&self) -> Option<u32> {
        Some(self.hosts.load(Relaxed)).filter(|hosts| *hosts > 0)
    }

    /// Says whether the server cannot be used. Returns whether that is new.
    pub fn set_away(&self, away: bool) -> bool {
        self.away.swap(away, Relaxed) != away
    }

    /// Whether the server cannot be used.
    pub fn is_away(&self) -> bool {
        self.away.load(Relaxed)
    }

    /// Whether any service has such a limit.
    pub fn is_used(&self) -> bool {
        lock(&self.limits).iter().any(|limit| limit.strong_count() > 0)
    }

    /// Returns the number of keys that are charged at the server.
    pub fn keys(&self) -> usize {
        // Two versions of a limit have the same keys.
        let mut limits = self.limits();
        limits.sort_by_key(|limit| limit.place());
        limits.dedup_by_key(|limit| limit.place());
        limits.iter().map(|limit| limit.keys()).sum()
    }

    /// Waits until an exchange is due.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Begins the exchanges that are due, at most so many. Each limit has its turn.
    pub fn due(&self, most: usize) -> Vec<BucketExchange> {
        let mut due = Vec::new();
        // Another one is the first next time.
        let first = lock(&self.limits).pop_front();
        lock(&self.limits).extend(first);
        for limit in self.limits() {
            let (quota, ready) = limit.due(most - due.len());
            let exchange = |(id, bucket)| BucketExchange::new(Arc::clone(&limit), quota, id, bucket);
            due.extend(ready.into_iter().map(exchange));
        }
        due
    }

    /// Lets all that is not charged be charged, and forgets what is not used. Returns whether an exchange is due.
    pub fn sweep(&self, now: Instant) -> bool {
        lock(&self.limits).retain(|limit| limit.strong_count() > 0);
        let mut is_due = false;
        for limit in self.limits() {
            is_due |= limit.sweep(now);
        }
        is_due
    }

    fn limits(&self) -> Vec<Arc<ClusterBuckets>> {
        lock(&self.limits).iter().filter_map(Weak::upgrade).collect()
    }
}

#[cfg(test)]
mod tests;
