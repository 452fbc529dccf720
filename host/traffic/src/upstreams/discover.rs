//! Service discovery: turns the sources of a manifest into a set of addresses that changes.
//!
//! Every [`Source`] has a task of its own, so a slow one delays no other; those that follow the cluster share one, since they change
//! together. While a source fails, its last good result
//! stays in use (`source_state.rs`). Changes are published as one list in a `watch`, so a request never waits for DNS.

pub mod cluster;
mod follow;
#[doc(hidden)]
pub mod fuzz;
pub mod kubernetes;
mod resolver;
#[cfg(test)]
pub(super) mod server;
mod settling;
mod source_state;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::transport::Target;
use cluster::ServingHosts;
use follow::SourceTask;
use kubernetes::ServiceWatches;
use lodge_base::lasting::forever;
use lodge_base::lock::lock;
use lodge_manifest::upstream::source::Source;
pub use resolver::Resolver;

/// The address of a replica with its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address and the host name.
    pub target: Target,
    /// Its share of the requests relative to the others, at least 1.
    pub weight: u32,
    /// Whether it is for other zones than that of this host: others are preferred.
    pub is_far: bool,
}

/// How often sources are resolved.
#[derive(Clone, Debug)]
pub struct Pace {
    /// The shortest time between two lookups, whatever the TTL. Also the first pause after a failure; pauses double up
    /// to 32 times this.
    pub least: Duration,
    /// The longest time between two lookups, whatever the TTL: some servers give a TTL of ten minutes and change the
    /// records after one.
    pub most: Duration,
    /// How long a source must keep reporting no replicas before they are removed.
    pub grace: Duration,
    /// The interval at which a file is read.
    pub file: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { least: seconds(1), most: seconds(300), grace: seconds(60), file: seconds(1) }
    }
}

/// The errors of sources, by their index. Sources without an error have no entry.
#[derive(Clone, Debug, Default)]
pub struct SourceErrors(Arc<Mutex<BTreeMap<usize, String>>>);

/// The tasks that resolve the sources. Dropping it ends them.
pub struct Discovery {
    endpoints: watch::Receiver<Arc<[Endpoint]>>,
    pending: watch::Receiver<usize>,
    source_errors: SourceErrors,
    _tasks: JoinSet<()>,
}

impl Discovery {
    /// Starts a task for each source. Fixed addresses are known at once. With `tls_only`, files name no replica without TLS. Must be
    /// called inside the runtime.
    pub fn start(
        sources: Vec<Source>,
        resolver: Arc<Resolver>,
        (watches, hosts): (&Arc<ServiceWatches>, &ServingHosts),
        pace: Pace,
        tls_only: bool,
    ) -> Self {
        let (sender, endpoints) = watch::channel(Arc::from([]));
        let (pending_sender, pending) = watch::channel(sources.len());
        let known = Mutex::new(vec![Vec::new(); sources.len()]);
        let source_errors = SourceErrors::default();
        let shared =
            Arc::new(SharedEndpoints { known, sender, pending: pending_sender, source_errors: source_errors.clone() });
        let (mut tasks, mut of_cluster) = (JoinSet::new(), Vec::new());
        for (at, source) in sources.into_iter().enumerate() {
            let (shared, resolver) = (Arc::clone(&shared), Arc::clone(&resolver));
            let follow = SourceTask { at, shared, resolver, pace: pace.clone(), tls_only };
            match source {
                Source::Fixed(fixed) if fixed.address().is_some() => follow.fixed(&fixed),
                Source::File(path) => {
                    let file = move || follow.clone().file(path.clone());
                    drop(tasks.spawn(forever("file of replicas", file)));
                }
                Source::Kubernetes(wanted) => {
                    let watches = Arc::clone(watches);
                    let endpoints = move || kubernetes::follow(follow.clone(), wanted.clone(), Arc::clone(&watches));
                    drop(tasks.spawn(forever("endpoints of replicas", endpoints)));
                }
                Source::Cluster { scheme, service } => of_cluster.push((follow, scheme, service)),
                named => {
                    let named = move || follow.clone().named(named.clone());
                    drop(tasks.spawn(forever("names of replicas", named)));
                }
            }
        }
        if !of_cluster.is_empty() {
            let hosts = hosts.clone();
            let serving = move || cluster::follow(of_cluster.clone(), hosts.clone());
            drop(tasks.spawn(forever("hosts of the cluster", serving)));
        }
        Self { endpoints, pending, source_errors, _tasks: tasks }
    }

    /// Returns a receiver of the known replicas, in the order of their sources, without duplicates.
    pub fn endpoints(&self) -> watch::Receiver<Arc<[Endpoint]>> {
        self.endpoints.clone()
    }

    /// Returns the shared errors of the sources.
    pub fn source_errors(&self) -> SourceErrors {
        self.source_errors.clone()
    }

    /// Returns when every source was resolved once, successfully or not.
    pub async fn first_round(&self) {
        // An error means that all tasks have ended, as happens with fixed addresses only.
        let _ = self.pending.clone().wait_for(|left| *left == 0).await;
    }
}

/// The replicas of each source, and the list that is published.
struct SharedEndpoints {
    known: Mutex<Vec<Vec<Endpoint>>>,
    sender: watch::Sender<Arc<[Endpoint]>>,
    /// Sources without a first result.
    pending: watch::Sender<usize>,
    source_errors: SourceErrors,
}

impl SourceErrors {
    /// Returns the error of the source at this index.
    pub fn of(&self, at: usize) -> Option<String> {
        lock(&self.0).get(&at).cloned()
    }

    /// Returns how many sources have an error.
    pub fn len(&self) -> usize {
        lock(&self.0).len()
    }

    /// Returns whether no source has an error.
    pub fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    fn put(&self, at: usize, why: Option<String>) {
        let mut source_errors = lock(&self.0);
        match why {
            Some(why) => drop(source_errors.insert(at, why)),
            None => drop(source_errors.remove(&at)),
        }
    }
}

impl SharedEndpoints {
    /// Records that a source has its first result.
    fn finish_first_round(&self) {
        self.pending.send_modify(|left| *left = left.saturating_sub(1));
    }

    /// Sets the replicas of the source at this index, and publishes the list.
    fn put(&self, at: usize, endpoints: Vec<Endpoint>) {
        self.put_all(vec![(at, endpoints)]);
    }

    /// Sets the replicas of the sources at these indices, and publishes the list once.
    fn put_all(&self, of_sources: Vec<(usize, Vec<Endpoint>)>) {
        let mut known = lock(&self.known);
        for (at, endpoints) in of_sources {
            if let Some(place) = known.get_mut(at) {
                *place = endpoints;
            }
        }
        let mut all: Vec<Endpoint> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        all.extend(known.iter().flatten().filter(|endpoint| seen.insert(&endpoint.target)).cloned());
        let all = Arc::<[Endpoint]>::from(all);
        // Under the lock, so that the list sent last is the latest one.
        self.sender.send_if_modified(|list| {
            let changed = *list != all;
            *list = all;
            changed
        });
    }
}

#[cfg(test)]
mod tests;
