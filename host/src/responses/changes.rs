//! What calls between services have changed.
//!
//! A call's URI is no client's: its host is another, and it has no prefix that a proxy or a route takes off. What the two have
//! in common is the path that the service sees, with its query, so a call ends what is kept of that path under every host.
//!
//! Nothing is looked for, and there is no list that could grow: each path has a counter, by its hash, and shares it with others.
//! An answer remembers how its counter stood when it was asked for, and is none any more when it stands otherwise; so one that
//! was on its way meanwhile is none, either. A path that shares its counter with one that changes is asked for once more.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use http::Uri;

/// Paths that are told apart, in 32 KiB.
const COUNTERS: usize = 4096;

/// Of all services together.
pub(super) struct Changes {
    counters: Box<[AtomicU64]>,
    hasher: RandomState,
}

/// How often a path may have been changed, at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Standing {
    counter: usize,
    changes: u64,
}

impl Changes {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { counters: (0..COUNTERS).map(|_| AtomicU64::new(0)).collect(), hasher: RandomState::new() }
    }

    /// How what the service sees of this URI stands now.
    pub(super) fn standing(&self, service: &str, uri: &Uri) -> Standing {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let counter = self.hasher.hash_one((service, path)) as usize % COUNTERS;
        let changes = self.counters.get(counter).map_or(0, |changes| changes.load(Ordering::Acquire));
        Standing { counter, changes }
    }

    /// Whether it stands so still.
    pub(super) fn stands(&self, Standing { counter, changes }: Standing) -> bool {
        self.counters.get(counter).is_some_and(|now| now.load(Ordering::Acquire) == changes)
    }

    /// It has changed since.
    pub(super) fn note(&self, Standing { counter, .. }: Standing) {
        if let Some(changes) = self.counters.get(counter) {
            changes.fetch_add(1, Ordering::Release);
        }
    }
}
