//! Where the replicas are: from what was configured to a set of addresses that changes.
//!
//! Every [`Source`] is followed by a task of its own, so that one that does not answer delays no other. What it said
//! last stays while it fails (`memory.rs`), and changes are published as one list, in a `watch`. Who uses the list never
//! waits for a name.

mod follow;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
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
use crate::base::lasting::forever;
use crate::base::lock::lock;
use crate::manifest::upstream::source::Source;
use follow::SourceTask;
pub use resolver::Resolver;

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Who it is.
    pub target: Target,
    /// Its share of requests beside the others', at least 1.
    pub weight: u32,
}

/// How often sources are asked.
#[derive(Clone, Debug)]
pub struct Pace {
    /// The least between two questions, whatever the TTL is. Also the first pause after a failure, which doubles up to
    /// 32 times this.
    pub least: Duration,
    /// The most, whatever the TTL is: some servers give their answers ten minutes, and take them back after one.
    pub most: Duration,
    /// For how long a source must say that there are no replicas until that is believed.
    pub grace: Duration,
    /// Between two looks at a file.
    pub file: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { least: seconds(1), most: seconds(300), grace: seconds(60), file: seconds(1) }
    }
}

/// Why nothing can be learnt from sources, by their places; nothing of those that answer.
#[derive(Clone, Debug, Default)]
pub struct SourceErrors(Arc<Mutex<BTreeMap<usize, String>>>);

/// The tasks that follow sources. They end when this is dropped.
pub struct Discovery {
    endpoints: watch::Receiver<Arc<[Endpoint]>>,
    pending: watch::Receiver<usize>,
    source_errors: SourceErrors,
    _tasks: JoinSet<()>,
}

impl Discovery {
    /// Begins to follow `sources`. Replicas that are known by their addresses are there at once. To be called inside
    /// of the runtime.
    pub fn start(sources: Vec<Source>, resolver: Arc<Resolver>, pace: Pace) -> Self {
        let (sender, endpoints) = watch::channel(Arc::from([]));
        let (pending_sender, pending) = watch::channel(sources.len());
        let known = Mutex::new(vec![Vec::new(); sources.len()]);
        let source_errors = SourceErrors::default();
        let shared =
            Arc::new(SharedEndpoints { known, sender, pending: pending_sender, source_errors: source_errors.clone() });
        let mut tasks = JoinSet::new();
        for (at, source) in sources.into_iter().enumerate() {
            let follow =
                SourceTask { at, shared: Arc::clone(&shared), resolver: Arc::clone(&resolver), pace: pace.clone() };
            match source {
                Source::Fixed(fixed) if fixed.address().is_some() => follow.fixed(&fixed),
                Source::File(path) => {
                    let file = move || follow.clone().file(path.clone());
                    drop(tasks.spawn(forever("file of replicas", file)));
                }
                named => {
                    let named = move || follow.clone().named(named.clone());
                    drop(tasks.spawn(forever("names of replicas", named)));
                }
            }
        }
        Self { endpoints, pending, source_errors, _tasks: tasks }
    }

    /// All replicas that are known now, in the order of their sources, none twice; and every change of them.
    pub fn endpoints(&self) -> watch::Receiver<Arc<[Endpoint]>> {
        self.endpoints.clone()
    }

    /// What is wrong with its sources, now and later.
    pub fn source_errors(&self) -> SourceErrors {
        self.source_errors.clone()
    }

    /// Returns when every source was asked once, whatever it said.
    pub async fn first_round(&self) {
        // An error says that all tasks have ended, as those of fixed addresses do.
        let _ = self.pending.clone().wait_for(|left| *left == 0).await;
    }
}

/// What each source said, and the list that follows from it.
struct SharedEndpoints {
    known: Mutex<Vec<Vec<Endpoint>>>,
    sender: watch::Sender<Arc<[Endpoint]>>,
    /// Sources that were not asked yet.
    pending: watch::Sender<usize>,
    source_errors: SourceErrors,
}

impl SourceErrors {
    /// What is wrong with the source in this place.
    pub fn of(&self, at: usize) -> Option<String> {
        lock(&self.0).get(&at).cloned()
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
    /// A source was asked for the first time.
    fn finish_first_round(&self) {
        self.pending.send_modify(|left| *left = left.saturating_sub(1));
    }

    /// What the source at this place says now.
    fn put(&self, at: usize, endpoints: Vec<Endpoint>) {
        let mut known = lock(&self.known);
        if let Some(place) = known.get_mut(at) {
            *place = endpoints;
        }
        let mut all: Vec<Endpoint> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        all.extend(known.iter().flatten().filter(|endpoint| seen.insert(&endpoint.target)).cloned());
        let all = Arc::<[Endpoint]>::from(all);
        // Inside of the lock, so that the last list is the latest.
        self.sender.send_if_modified(|list| {
            let changed = *list != all;
            *list = all;
            changed
        });
    }
}

#[cfg(test)]
mod tests;
