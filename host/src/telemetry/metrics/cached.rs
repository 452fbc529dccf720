//! What is counted of the answers that are kept.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use self::CacheOutcome::{Bypass, Collapsed, Hit, Miss, Revalidated, Stale};

/// How a request to a route with `cache` was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheOutcome {
    /// By what is kept.
    Hit,
    /// By what another request had asked for, after a wait.
    Collapsed,
    /// By what is kept and stale, which its service allows.
    Stale,
    /// By what was kept and stale, which its service has called right.
    Revalidated,
    /// By its service.
    Miss,
    /// By its service, without a look.
    Bypass,
}

/// All of them, in their order.
const OUTCOMES: [CacheOutcome; 6] = [Hit, Collapsed, Stale, Revalidated, Miss, Bypass];

/// Counts of a service.
#[derive(Debug, Default)]
pub struct Cached {
    outcomes: [AtomicU64; OUTCOMES.len()],
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl CacheOutcome {
    /// As metrics have it.
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

    /// Whether the service did not have to be asked.
    pub fn is_without_the_service(self) -> bool {
        matches!(self, Hit | Collapsed | Stale)
    }
}

impl Cached {
    /// One more was answered so.
    pub fn count(&self, outcome: CacheOutcome) {
        if let Some(count) = self.outcomes.get(outcome as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// An answer of so many bytes is kept.
    pub fn keeps(&self, bytes: usize) {
        self.entries.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// It is not in memory any more.
    pub fn drops(&self, bytes: usize) {
        self.entries.fetch_sub(1, Relaxed);
        self.bytes.fetch_sub(bytes as u64, Relaxed);
    }

    /// Each outcome and how often it was.
    pub fn outcomes(&self) -> impl Iterator<Item = (CacheOutcome, u64)> {
        OUTCOMES.into_iter().zip(self.outcomes.iter().map(|count| count.load(Relaxed)))
    }

    /// Answers in memory.
    pub fn entries(&self) -> u64 {
        self.entries.load(Relaxed)
    }

    /// Bytes of them.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}
