//! Invalidation by calls between services.
//!
//! The URI of a call differs from that of clients: another host, and no prefix that a proxy or a route removes. Both
//! have the path and query that the service sees, so an unsafe call invalidates the responses with that path under
//! every host.
//!
//! Every service has a fixed number of counters, and a path maps to one of them by its hash, so memory is bounded and
//! nothing is searched. A response remembers the count at the time of its request, and is invalid when the count
//! differs, even if it was still on its way. Paths that share a counter are invalidated together, which costs one more
//! request. Counters per service keep one that changes much from invalidating the responses of others.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use http::Uri;

/// The number of counters per service: 16 KiB.
const COUNTERS: usize = 2048;

/// The counters of all services that are served and may have stored responses.
pub(super) struct PathVersions {
    services: ArcSwap<HashMap<Arc<str>, Counters>>,
    hasher: RandomState,
}

/// The counters of one service. A service that is removed and added again gets new ones.
type Counters = Arc<[AtomicU64]>;

/// The number of changes that a path may have had at some moment.
#[derive(Clone, Debug)]
pub(super) struct PathVersion {
    counters: Counters,
    counter: usize,
    changes: u64,
}

impl PathVersions {
    pub(super) fn new() -> Self {
        Self { services: ArcSwap::default(), hasher: RandomState::new() }
    }

    /// The current version of the path that the service sees in `uri`.
    pub(super) fn path_version(&self, service: &str, uri: &Uri) -> PathVersion {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let known = self.services.load().get(service).map(Arc::clone);
        let counters = known.unwrap_or_else(|| self.begin(service));
        let counter = self.hasher.hash_one(path) as usize % COUNTERS;
        let changes = count(&counters, counter);
        PathVersion { counters, counter, changes }
    }

    /// Adds the counters of a service at its first request.
    fn begin(&self, service: &str) -> Counters {
        let (name, fresh) = (Arc::<str>::from(service), (0..COUNTERS).map(|_| AtomicU64::new(0)).collect::<Counters>());
        self.services.rcu(|services| {
            let mut services = HashMap::clone(services);
            services.entry(Arc::clone(&name)).or_insert_with(|| Arc::clone(&fresh));
            services
        });
        // A concurrent request may have added them first. If `retain` has removed them again, `fresh` is used once, and
        // the response is not stored.
        self.services.load().get(service).map_or(fresh, Arc::clone)
    }

    /// Removes the counters of services that are not `served`.
    pub(super) fn retain(&self, served: impl Fn(&str) -> bool) {
        if self.services.load().keys().all(|name| served(name)) {
            return;
        }
        self.services.rcu(|services| {
            let mut services = HashMap::clone(services);
            services.retain(|name, _| served(name));
            services
        });
    }
}

impl PathVersion {
    /// Takes in the changes since.
    pub(super) fn refresh(&mut self) {
        self.changes = count(&self.counters, self.counter);
    }

    /// Whether the path has not changed since.
    pub(super) fn is_current(&self) -> bool {
        count(&self.counters, self.counter) == self.changes
    }

    /// Invalidates the responses with this path.
    pub(super) fn record_change(&self) {
        if let Some(changes) = self.counters.get(self.counter) {
            changes.fetch_add(1, Ordering::Release);
        }
    }
}

fn count(counters: &Counters, counter: usize) -> u64 {
    counters.get(counter).map_or(0, |changes| changes.load(Ordering::Acquire))
}

impl PartialEq for PathVersion {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.counters, &other.counters) && (self.counter, self.changes) == (other.counter, other.changes)
    }
}

impl Eq for PathVersion {}

impl Hash for PathVersion {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.counter, self.changes).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(n: usize) -> Uri {
        format!("http://x/{n}").parse().unwrap()
    }

    /// A service that changes many paths invalidates its own responses only.
    #[test]
    fn changes_invalidate_one_service_only() {
        let changes = PathVersions::new();
        let (mine, own) = (changes.path_version("mine", &uri(7)), changes.path_version("busy", &uri(7)));
        (0..20 * COUNTERS).for_each(|n| changes.path_version("busy", &uri(n)).record_change());
        assert!(mine.is_current() && mine == changes.path_version("mine", &uri(7)));
        assert!(!own.is_current() && own != changes.path_version("busy", &uri(7)));
    }

    /// A response from before a service was removed is not used after the service was added again.
    #[test]
    fn a_service_that_is_added_again_starts_without_responses() {
        let changes = PathVersions::new();
        let before = changes.path_version("mine", &uri(7));
        changes.retain(|name| name == "mine");
        assert_eq!(before, changes.path_version("mine", &uri(7)));
        changes.retain(|name| name == "other");
        assert!(changes.services.load().is_empty(), "removed services are forgotten");
        assert_ne!(before, changes.path_version("mine", &uri(7)));
    }
}
