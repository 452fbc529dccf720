//! Metrics of the response cache.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use self::CacheOutcome::{Bypass, Collapsed, Hit, Miss, Revalidated, Stale};

/// The outcome of a cache lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheOutcome {
    /// Served from the cache.
    Hit,
    /// Served with the response to another request for the same resource, after a wait.
    Collapsed,
    /// Served from the cache although stale, as its service allows.
    Stale,
    /// Served from the cache after the service validated the stale response.
    Revalidated,
    /// Forwarded to the service after a lookup.
    Miss,
    /// Forwarded to the service without a lookup.
    Bypass,
}

/// All outcomes, in order of their discriminants.
const OUTCOMES: [CacheOutcome; 6] = [Hit, Collapsed, Stale, Revalidated, Miss, Bypass];

/// The cache metrics of a service.
#[derive(Debug, Default)]
pub struct CacheMetrics {
    outcomes: [AtomicU64; OUTCOMES.len()],
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl CacheOutcome {
    /// The label value.
    pub fn name(self) -> &'static str {
        match self {
            Hit => "hit",
            Collapsed => "collapsed",
            Stale => "stale",
            Revalidated => "revalidated",
            Miss => "miss",
            Bypass => "bypass",
        }
    }

    /// Whether the response needed no request to the service.
    pub fn is_served_by_cache(self) -> bool {
        matches!(self, Hit | Collapsed | Stale)
    }
}

impl CacheMetrics {
    /// Counts an outcome.
    pub fn count(&self, outcome: CacheOutcome) {
        if let Some(count) = self.outcomes.get(outcome as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Counts a new entry of `bytes` bytes.
    pub fn keeps(&self, bytes: usize) {
        self.entries.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Removes an entry of `bytes` bytes from the counts.
    pub fn drops(&self, bytes: usize) {
        self.entries.fetch_sub(1, Relaxed);
        self.bytes.fetch_sub(bytes as u64, Relaxed);
    }

    /// Returns each outcome and its count.
    pub fn outcomes(&self) -> impl Iterator<Item = (CacheOutcome, u64)> {
        OUTCOMES.into_iter().zip(self.outcomes.iter().map(|count| count.load(Relaxed)))
    }

    /// Entries in memory.
    pub fn entries(&self) -> u64 {
        self.entries.load(Relaxed)
    }

    /// Bytes of the entries.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}
