//! What calls between services have changed.
//!
//! A call's URI is no client's: its host is another, and it has no prefix that a proxy or a route takes off. What the two have
//! in common is the path that the service sees, with its query, so a call ends what is kept of that path under every host.
//!
//! Nothing is looked for, and there is no list that could grow: each path has a counter, by its hash, and shares it with others
//! of its service. An answer remembers how its counter stood when it was asked for, and is none any more when it stands
//! otherwise; so one that was on its way meanwhile is none, either. A path that shares its counter with one that changes is
//! asked for once more. Every service has counters of its own, or one that changes much would end what is kept of all.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use http::Uri;

/// Paths of a service that are told apart, in 16 KiB.
const COUNTERS: usize = 2048;

/// Of all services: those that are served, and whose answers may be kept.
pub(super) struct Changes {
    services: ArcSwap<HashMap<Arc<str>, Counters>>,
    hasher: RandomState,
}

/// Those of one service. A service that comes back has others.
type Counters = Arc<[AtomicU64]>;

/// How often a path may have been changed, at some moment.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    counters: Counters,
    counter: usize,
    changes: u64,
}

impl Changes {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { services: ArcSwap::default(), hasher: RandomState::new() }
    }

    /// How what the service sees of this URI stands now.
    pub(super) fn standing(&self, service: &str, uri: &Uri) -> Standing {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let known = self.services.load().get(service).map(Arc::clone);
        let counters = known.unwrap_or_else(|| self.begin(service));
        let counter = self.hasher.hash_one(path) as usize % COUNTERS;
        let changes = count(&counters, counter);
        Standing { counters, counter, changes }
    }

    /// The counters of a service that is asked for the first time.
    fn begin(&self, service: &str) -> Counters {
        let (name, fresh) = (Arc::<str>::from(service), (0..COUNTERS).map(|_| AtomicU64::new(0)).collect::<Counters>());
        self.services.rcu(|services| {
            let mut services = HashMap::clone(services);
            services.entry(Arc::clone(&name)).or_insert_with(|| Arc::clone(&fresh));
            services
        });
        // Whoever was first has the place; if it was taken away again meanwhile, what is asked for now is not kept.
        self.services.load().get(service).map_or(fresh, Arc::clone)
    }

    /// Forgets the services that are not `served` any more.
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

impl Standing {
    /// Whether it stands so still.
    pub(super) fn stands(&self) -> bool {
        count(&self.counters, self.counter) == self.changes
    }

    /// It has changed since.
    pub(super) fn note(&self) {
        if let Some(changes) = self.counters.get(self.counter) {
            changes.fetch_add(1, Ordering::Release);
        }
    }
}

fn count(counters: &Counters, counter: usize) -> u64 {
    counters.get(counter).map_or(0, |changes| changes.load(Ordering::Acquire))
}

impl PartialEq for Standing {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.counters, &other.counters) && (self.counter, self.changes) == (other.counter, other.changes)
    }
}

impl Eq for Standing {}

impl Hash for Standing {
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

    /// A service that changes ever new paths ends what is kept of itself, and of nobody else.
    #[test]
    fn a_neighbour_changes_nothing() {
        let changes = Changes::new();
        let (mine, own) = (changes.standing("mine", &uri(7)), changes.standing("busy", &uri(7)));
        (0..20 * COUNTERS).for_each(|n| changes.standing("busy", &uri(n)).note());
        assert!(mine.stands() && mine == changes.standing("mine", &uri(7)));
        assert!(!own.stands() && own != changes.standing("busy", &uri(7)));
    }

    /// What was kept of a service before it went is not taken for an answer of the one that comes.
    #[test]
    fn a_service_that_comes_back_begins_anew() {
        let changes = Changes::new();
        let before = changes.standing("mine", &uri(7));
        changes.retain(|name| name == "mine");
        assert_eq!(before, changes.standing("mine", &uri(7)));
        changes.retain(|name| name == "other");
        assert!(changes.services.load().is_empty(), "nobody is remembered for ever");
        assert_ne!(before, changes.standing("mine", &uri(7)));
    }
}
