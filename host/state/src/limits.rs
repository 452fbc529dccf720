//! Limits of all backends, and the quota of a namespace.

use std::time::Duration;

use crate::error::{Error, Resource};

/// Bytes of a namespace's name.
pub const MAX_NAMESPACE: usize = 128;
/// Bytes of a bucket's name.
pub const MAX_BUCKET: usize = 128;
/// Bytes of a key.
pub const MAX_KEY: usize = 1024;
/// Bytes of a value. NATS has the same limit by default. Larger objects belong in a blob store.
pub const MAX_VALUE: usize = 1 << 20;
/// Keys in a page of a listing.
pub const MAX_PAGE: usize = 1000;
/// Keys in a batch.
pub const MAX_BATCH: usize = 256;
/// Bytes of all keys and values in a batch, and of all values in the result of one.
pub const MAX_BATCH_BYTES: usize = 2 << 20;
/// Bytes of a cursor. A cursor contains at most a key, encoded.
pub const MAX_CURSOR: usize = 2 * MAX_KEY + 64;
/// The longest time to live.
pub const MAX_TTL: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);
/// Bytes of a lock's name.
pub const MAX_LOCK_NAME: usize = 256;
/// The longest lease of a lock. Longer work renews.
pub const MAX_LEASE: Duration = Duration::from_secs(60 * 60);
/// Locks that a namespace holds at a time.
pub const MAX_LOCKS: u64 = 10_000;
/// Waits of a namespace for locks at a time.
pub const MAX_WAITERS: u64 = 4096;
/// Bytes of a message's body. NATS has the same limit by default.
pub const MAX_MESSAGE: usize = 1 << 20;
/// Bytes of a message's headers.
pub const MAX_MESSAGE_HEADERS: usize = 8 << 10;
/// Bytes of a subject or a pattern of subjects.
pub const MAX_SUBJECT: usize = 255;
/// Tokens of a subject or a pattern.
pub const MAX_SUBJECT_TOKENS: usize = 16;
/// Patterns of a subscription.
pub const MAX_PATTERNS: usize = 16;
/// Deliveries of a message at most.
pub const MAX_DELIVERIES: u32 = 1000;
/// Consumers of all subjects.
pub const MAX_CONSUMERS: u64 = 1000;
/// Messages that are received at a time.
pub const MAX_RECEIVE: usize = 64;
/// Bytes after which a receipt of several messages is complete.
pub const MAX_RECEIVE_BYTES: u64 = 4 << 20;
/// Dead messages that are kept of a consumer; the oldest are removed first, also if they exceed its quota in bytes.
pub const MAX_DEAD: u64 = 1000;
/// The time after which a consumer that does not receive has no subscription any more.
pub const MAX_ABSENCE: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest pause before a message is delivered again.
pub const MAX_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

/// How much a namespace may store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Entries.
    pub keys: u64,
    /// Bytes of buckets' names, keys and values.
    pub bytes: u64,
}

impl Default for Quota {
    fn default() -> Quota {
        Quota { keys: 100_000, bytes: 64 << 20 }
    }
}

/// How much a namespace stores. Entries that have expired do not count, but backends may delay their removal while the quota
/// is not used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Entries.
    pub keys: u64,
    /// Bytes of buckets' names, keys and values.
    pub bytes: u64,
}

impl Usage {
    /// Returns the usage after an entry of `before` bytes has become one of `after` bytes; `None` is no entry.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`] if a resource grows beyond `quota`. Writes that need no more of a resource than before are
    /// always allowed, so that a namespace over a lowered quota can be reduced.
    pub fn replace(self, before: Option<u64>, after: Option<u64>, quota: Quota) -> Result<Usage, Error> {
        let keys = self.keys.saturating_sub(before.is_some().into()).saturating_add(after.is_some().into());
        let bytes = self.bytes.saturating_sub(before.unwrap_or(0)).saturating_add(after.unwrap_or(0));
        let exceeded = |resource, used, limit| Err(Error::QuotaExceeded { resource, used, limit });
        if keys > self.keys && keys > quota.keys {
            return exceeded(Resource::Keys, self.keys, quota.keys);
        }
        if bytes > self.bytes && bytes > quota.bytes {
            return exceeded(Resource::Bytes, self.bytes, quota.bytes);
        }
        Ok(Usage { keys, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_growth_is_refused() {
        let quota = Quota { keys: 2, bytes: 10 };
        let full = Usage { keys: 2, bytes: 10 };
        let exceeded = |resource, used, limit| Err(Error::QuotaExceeded { resource, used, limit });
        assert_eq!(full.replace(None, Some(0), quota), exceeded(Resource::Keys, 2, 2));
        assert_eq!(full.replace(Some(4), Some(5), quota), exceeded(Resource::Bytes, 10, 10));
        assert_eq!(full.replace(Some(4), Some(4), quota), Ok(full));
        assert_eq!(full.replace(Some(4), None, quota), Ok(Usage { keys: 1, bytes: 6 }));
        let lowered = Quota { keys: 1, bytes: 5 };
        assert_eq!(full.replace(Some(4), Some(3), lowered), Ok(Usage { keys: 2, bytes: 9 }));
    }
}
