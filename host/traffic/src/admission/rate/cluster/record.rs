//! The record of a bucket in the server of the state, and what a host knows of the bucket by it.
//!
//! No time is in the record, so that clocks need not agree: it counts requests. Each host lets the bucket refill by its own clock.
//! What the other hosts have charged is the difference of two counts, and is added when it is seen, which is later than it happened.
//! So a host never believes that a bucket has more room than it has.

use std::time::Duration;

use super::super::Quota;

/// The most bytes of a record.
const MOST_BYTES: usize = 64;

/// How much longer a record lasts than its bucket needs to be full again: for clocks that run differently fast.
const MARGIN: Duration = Duration::from_secs(10);

/// Requests above two bursts that a bucket can have been charged with: what a record says beyond that is not true, and would refuse
/// requests for long.
const MOST_EXCESS: u64 = 2_000;

/// The record of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BucketRecord {
    /// A random number of this record: counts are compared only with those of the same one.
    epoch: u64,
    /// The number of requests that all hosts have charged.
    charged: u64,
    /// How many requests the bucket was short of being full after the last charge, at most.
    backlog: u64,
}

/// What a host knows of a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BucketReplica {
    /// When the bucket is full again, in nanoseconds of this host.
    full: u64,
    /// The epoch and the count of the last record.
    seen: Option<(u64, u64)>,
}

impl BucketRecord {
    /// Reads a record; `None` if the bytes are none.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= MOST_BYTES)?;
        let mut parts = text.split(' ');
        let mut number = |radix| u64::from_str_radix(parts.next()?, radix).ok();
        let record = Self { epoch: number(16)?, charged: number(10)?, backlog: number(10)? };
        parts.next().is_none().then_some(record)
    }

    /// Whether both count by the same epoch.
    pub(super) fn is_of(&self, other: &Self) -> bool {
        self.epoch == other.epoch
    }

    /// Returns it as text.
    pub(super) fn write(&self) -> String {
        let Self { epoch, charged, backlog } = self;
        format!("{epoch:x} {charged} {backlog}")
    }
}

impl BucketReplica {
    /// Whether the last record that was seen counts by the same epoch as this one.
    pub(super) fn has_seen(&self, record: &BucketRecord) -> bool {
        self.seen.is_some_and(|(epoch, _)| epoch == record.epoch)
    }

    /// Takes over a record, or that there is none.
    pub(super) fn see(&mut self, record: Option<BucketRecord>, quota: Quota, at: u64) {
        let Some(BucketRecord { epoch, charged, backlog }) = record else {
            // It has expired, so the bucket is full, or the server has lost it: what this host knows stays.
            self.seen = None;
            return;
        };
        let more = self.seen.filter(|(known, _)| *known == epoch).and_then(|(_, before)| charged.checked_sub(before));
        self.full = match more {
            Some(more) => quota.after(self.full.max(at), more),
            // It may have refilled since, by a time that this host does not know.
            None => self.full.max(quota.after(at, backlog)),
        };
        let most = quota.after(at.saturating_add(quota.span.saturating_mul(2)), MOST_EXCESS);
        (self.full, self.seen) = (self.full.min(most), Some((epoch, charged)));
    }

    /// Charges so many requests. Returns the record for the server, and how long it lasts; `fresh` is the epoch of a new one.
    pub(super) fn charge(&mut self, count: u32, quota: Quota, at: u64, fresh: u64) -> (BucketRecord, Duration) {
        self.full = quota.after(self.full.max(at), count.into());
        // A count that overflows is none of hosts.
        let before = self.seen.and_then(|(epoch, before)| Some((epoch, before.checked_add(count.into())?)));
        let (epoch, charged) = before.unwrap_or((fresh, count.into()));
        self.seen = Some((epoch, charged));
        let ahead = self.full.saturating_sub(at);
        let record = BucketRecord { epoch, charged, backlog: ahead.div_ceil(quota.interval.max(1)) };
        (record, Duration::from_nanos(ahead).saturating_add(MARGIN))
    }

    /// Converts what is known to another quota, so that the same number of requests is used.
    pub(super) fn convert(&mut self, from: Quota, at: u64, to: Quota) {
        self.full = from.convert(self.full, at, to);
    }

    /// Returns when the bucket is full again, in nanoseconds of this host.
    pub(super) fn full(&self) -> u64 {
        self.full
    }

    /// Returns the number of requests for which the bucket has room.
    pub(super) fn room(&self, quota: Quota, at: u64) -> u64 {
        quota.span.saturating_sub(self.full.saturating_sub(at)) / quota.interval.max(1)
    }

    /// Returns when the bucket has room for so many requests.
    pub(super) fn has_room_at(&self, count: u64, quota: Quota) -> u64 {
        self.full.saturating_add(count.saturating_mul(quota.interval)).saturating_sub(quota.span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota { interval: 10, span: 50 };

    #[test]
    fn what_is_written_is_read() {
        let record = BucketRecord { epoch: u64::MAX, charged: u64::MAX, backlog: u64::MAX };
        assert!(record.write().len() <= MOST_BYTES);
        assert_eq!(BucketRecord::read(record.write().as_bytes()), Some(record));
        for wrong in
            ["", " ", "1", "1 2", "1 2 3 4", "1  2 3", "x 1 2", "1 -1 2", "1 2 99999999999999999999", "1 2 3\n"]
        {
            assert_eq!(BucketRecord::read(wrong.as_bytes()), None, "{wrong:?}");
        }
        assert_eq!(BucketRecord::read(&[b'1'; MOST_BYTES + 1]), None);
        assert_eq!(BucketRecord::read(b"\xff 1 1"), None);
    }

    /// Two hosts, whose clocks have nothing in common, see what the other has charged, and let it refill.
    #[test]
    fn charges_are_seen_by_the_others() {
        let [mut one, mut two] = [BucketReplica::default(); 2];
        let (record, lasts) = one.charge(3, QUOTA, 1_000, 7);
        assert_eq!((record.write().as_str(), lasts), ("7 3 3", Duration::from_nanos(30) + MARGIN));
        assert_eq!((one.room(QUOTA, 1_000), one.room(QUOTA, 1_009), one.room(QUOTA, 1_010)), (2, 2, 3));
        two.see(Some(record), QUOTA, 5);
        assert_eq!((two.room(QUOTA, 5), two.has_room_at(5, QUOTA)), (2, 35));
        let (record, _) = two.charge(2, QUOTA, 15, 8);
        assert_eq!(record.write(), "7 5 4");
        one.see(Some(record), QUOTA, 1_020);
        assert_eq!(one.room(QUOTA, 1_020), 2, "one of three charged, two of the other host");
        // The same record once more charges nothing.
        one.see(Some(record), QUOTA, 1_020);
        assert_eq!(one.room(QUOTA, 1_020), 2);
    }

    /// What a host knows is not forgotten for a record of another epoch, for one that is gone, or for a smaller count.
    #[test]
    fn a_lost_record_frees_no_room() {
        let mut one = BucketReplica::default();
        one.charge(5, QUOTA, 0, 7);
        for record in [None, Some("9 1 1"), Some("9 0 0")] {
            one.see(record.map(|text| BucketRecord::read(text.as_bytes()).unwrap()), QUOTA, 0);
            assert_eq!(one.room(QUOTA, 0), 0, "{record:?}");
        }
        let (record, _) = one.charge(1, QUOTA, 0, 8);
        assert_eq!(record.write(), "9 1 6", "the new record is continued");
        one.see(None, QUOTA, 20);
        assert_eq!(one.charge(1, QUOTA, 20, 8).0.write(), "8 1 5");
    }

    /// A record that somebody else wrote refuses requests for a bounded time only, and nothing overflows.
    #[test]
    fn a_forged_record_is_bounded() {
        for text in ["1 18446744073709551615 18446744073709551615", "1 5 18446744073709551615"] {
            let mut one = BucketReplica::default();
            one.see(BucketRecord::read(b"1 5 0"), QUOTA, 0);
            one.see(BucketRecord::read(text.as_bytes()), QUOTA, 0);
            assert!(one.has_room_at(1, QUOTA) <= 2 * QUOTA.span + (MOST_EXCESS + 1) * QUOTA.interval, "{one:?}");
            let mut new = BucketReplica::default();
            new.see(BucketRecord::read(text.as_bytes()), QUOTA, 0);
            assert!(new.has_room_at(1, QUOTA) <= 2 * QUOTA.span + (MOST_EXCESS + 1) * QUOTA.interval, "{new:?}");
            let (record, _) = new.charge(1, QUOTA, 0, 3);
            assert!(record.charged == 6 || record.epoch == 3, "{record:?}");
        }
        let most = Quota { interval: u64::MAX, span: u64::MAX };
        let mut one = BucketReplica::default();
        one.see(BucketRecord::read(b"1 1 9"), most, u64::MAX);
        one.charge(u32::MAX, most, u64::MAX, 1);
        assert_eq!((one.room(most, 0), one.has_room_at(9, most)), (0, 0));
    }
}
