//! Which kinds of denied calls were logged already.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// The denials that were logged for a version of a service.
#[derive(Debug, Default)]
pub struct LoggedDenials {
    /// The kinds, as a bit set.
    kinds: AtomicU32,
    /// The interfaces that Lodge does not have, as a bit set of their numbers.
    absent: AtomicU64,
}

/// A kind of denied call; each is a bit.
#[derive(Clone, Copy)]
pub(super) enum Denial {
    /// TCP sockets.
    Tcp = 1,
    /// UDP sockets.
    Udp = 2,
    /// Name resolution.
    Names = 4,
    /// Files and directories.
    Files = 8,
    /// Key-value stores.
    KeyValue = 16,
    /// Buckets that `[keyvalue]` does not list.
    Bucket = 32,
    /// Locks.
    Lock = 64,
    /// SQL databases.
    Sqlite = 128,
    /// Databases that `[sqlite]` does not list.
    Database = 256,
    /// Subjects that `publish` does not list.
    Publish = 512,
    /// Metrics of guests.
    Metrics = 1024,
    /// Objects.
    Blobs = 2048,
    /// Buckets that another service does not share.
    Shared = 4096,
    /// Databases on servers.
    Postgres = 8192,
    /// Databases that `[postgres]` does not list.
    PostgresDatabase = 16384,
}

impl LoggedDenials {
    /// Whether this is the first denial of its kind; records it.
    pub(super) fn first(&self, kind: Denial) -> bool {
        let bit = kind as u32;
        // The load comes first: a guest may try once per request, on all cores.
        self.kinds.load(Relaxed) & bit == 0 && self.kinds.fetch_or(bit, Relaxed) & bit == 0
    }

    /// Whether this is the first call of the absent interface with this number; records it. Those from 63 count as one.
    pub(super) fn first_absent(&self, number: usize) -> bool {
        let bit = 1_u64 << number.min(63);
        self.absent.load(Relaxed) & bit == 0 && self.absent.fetch_or(bit, Relaxed) & bit == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_first_once() {
        let denials = LoggedDenials::default();
        let state = [Denial::KeyValue, Denial::Bucket, Denial::Lock, Denial::Sqlite, Denial::Database];
        let state = state.into_iter().chain([Denial::Publish, Denial::Metrics, Denial::Blobs, Denial::Shared]);
        let state = state.chain([Denial::Postgres, Denial::PostgresDatabase]);
        for kind in [Denial::Tcp, Denial::Udp, Denial::Names, Denial::Files].into_iter().chain(state) {
            assert!(denials.first(kind) && !denials.first(kind));
        }
        for number in [0, 1, 62, 63] {
            assert!(denials.first_absent(number) && !denials.first_absent(number));
        }
        assert!(!denials.first_absent(1000));
    }
}
