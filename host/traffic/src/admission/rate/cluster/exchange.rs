//! Exchanges with the server about buckets of the cluster: what a host has admitted for what the others have.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lodge_base::ids::Ids;

use super::super::Quota;
use super::buckets::{ClusterBucket, ClusterBuckets};
use super::record::{BucketRecord, BucketReplica};

/// An exchange with the server about one bucket. One that is dropped has failed: what was not charged stays so.
///
/// If the server has made the change and could not say so, the requests are charged twice.
#[derive(Debug)]
pub struct BucketExchange {
    buckets: Arc<ClusterBuckets>,
    /// That in which its times are.
    quota: Quota,
    id: u128,
    version: Option<u64>,
    /// What was known before.
    replica: BucketReplica,
    charge: u32,
    /// What is known after the charge.
    charged: BucketReplica,
    /// The record with the charge.
    written: Option<BucketRecord>,
    is_done: bool,
}

/// What an exchange writes.
#[derive(Debug)]
pub struct BucketCharge {
    /// The revision that the record must have; `None` if there must be none.
    pub version: Option<u64>,
    /// The record.
    pub value: String,
    /// How long it lasts.
    pub ttl: Duration,
}

impl BucketExchange {
    /// Begins an exchange about a bucket, as it is now.
    pub(super) fn new(buckets: Arc<ClusterBuckets>, quota: Quota, id: u128, bucket: ClusterBucket) -> Self {
        let ClusterBucket { replica, version, uncharged: charge, .. } = bucket;
        Self { buckets, quota, id, version, replica, charge, charged: replica, written: None, is_done: false }
    }

    /// Returns the key of the bucket at the server.
    pub fn key(&self) -> String {
        format!("{:032x}", self.id)
    }

    /// Returns what to write, on condition that nobody else has written; `None` if the record has only to be read.
    pub fn charge(&mut self, now: Instant) -> Option<BucketCharge> {
        if self.charge == 0 {
            return None;
        }
        self.charged = self.replica;
        let (at, fresh) = (self.buckets.since(now), Ids::new().span());
        let (record, ttl) = self.charged.charge(self.charge, self.quota, at, fresh);
        self.written = Some(record);
        Some(BucketCharge { version: self.version, value: record.write(), ttl })
    }

    /// Ends an exchange that has written, with the revision of the record.
    pub fn wrote(self, version: u64, now: Instant) {
        let (replica, charge) = (self.charged, self.charge);
        self.end(replica, (Some(version), charge), true, now);
    }

    /// Ends an exchange that has found this record with its revision, by reading, or because another host has written. What is no
    /// record counts as none, and is replaced.
    pub fn found(self, entry: Option<(u64, &[u8])>, now: Instant) {
        let (mut replica, is_read) = (self.replica, self.charge == 0);
        let record = entry.and_then(|(_, bytes)| BucketRecord::read(bytes));
        replica.see(record, self.quota, self.buckets.since(now));
        self.end(replica, (entry.map(|(version, _)| version), 0), is_read, now);
    }

    /// Ends an exchange whose write the server may have made or not, since it has refused another one beside it: this record with its
    /// revision is there now. If it is that of before, or there is none, the exchange has failed.
    pub fn found_after_failure(self, entry: Option<(u64, &[u8])>, now: Instant) {
        let Some((version, bytes)) = entry.filter(|(version, _)| Some(*version) != self.version) else { return };
        // Others may have gone on counting, but only this exchange knows the epoch that it has begun.
        let is_own = |(found, own): &(BucketRecord, BucketRecord)| {
            found == own || (found.is_of(own) && !self.replica.has_seen(own))
        };
        let Some((record, _)) = BucketRecord::read(bytes).zip(self.written).filter(is_own) else {
            return self.found(entry, now);
        };
        let (mut replica, charge) = (self.charged, self.charge);
        replica.see(Some(record), self.quota, self.buckets.since(now));
        self.end(replica, (Some(version), charge), true, now);
    }

    /// Ends the exchange. What is known of the bucket, the revision of its record and the requests that are charged are as given.
    fn end(mut self, replica: BucketReplica, (version, charged): (Option<u64>, u32), is_known: bool, now: Instant) {
        self.is_done = true;
        self.buckets.end(self.id, self.quota, now, |bucket| {
            (bucket.replica, bucket.version) = (replica, version);
            bucket.uncharged = bucket.uncharged.saturating_sub(charged);
            is_known
        });
    }
}

impl Drop for BucketExchange {
    fn drop(&mut self) {
        if !self.is_done {
            self.buckets.fail(self.id);
        }
    }
}
