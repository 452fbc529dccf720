//! What is known of services that are built from sources in the directory, by `lodge dev`: those being built, and those
//! that do not build. The host shows both as it shows files that are compiled or refused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::ledger::Absent;
use lodge_base::lock::lock;
use lodge_manifest::refusal::Refusal;

/// Builds that the host waits for, and those that have failed, by the name of the service.
#[derive(Default)]
pub struct Builds {
    builds: Mutex<BTreeMap<String, Build>>,
    changed: Notify,
}

/// The state of a build.
#[derive(Clone)]
pub(super) enum Build {
    /// It runs, or waits for its turn.
    Running,
    /// It has made a component that no look at the directory has found yet.
    Made,
    /// It has failed.
    Failed(Refusal),
}

impl Build {
    /// Why there is no component.
    pub(super) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Failed(refusal) => Some(refusal),
            Self::Running | Self::Made => None,
        }
    }
}

impl Builds {
    /// A build of this service has begun.
    pub fn begins(&self, name: &str) {
        // A failure is shown until there is a better result.
        let running = |build: &mut Build| {
            if build.refusal().is_none() {
                *build = Build::Running;
            }
        };
        lock(&self.builds).entry(name.to_owned()).and_modify(running).or_insert(Build::Running);
        self.changed.notify_one();
    }

    /// A build has failed: why, in a line, and the compiler's output.
    pub fn failed(&self, name: &str, why: &str, said: &str) {
        let mut refusal =
            Refusal::new(&format!("{name}.wasm"), why, "mend its sources; they are built again when they change");
        refusal.output = (!said.is_empty()).then(|| Arc::from(said));
        lock(&self.builds).insert(name.to_owned(), Build::Failed(refusal));
        self.changed.notify_one();
    }

    /// A build has put a component into the directory.
    pub fn made(&self, name: &str) {
        lock(&self.builds).insert(name.to_owned(), Build::Made);
        self.changed.notify_one();
    }

    /// The sources of this service are gone.
    pub fn forget(&self, name: &str) {
        if lock(&self.builds).remove(name).is_some() {
            self.changed.notify_one();
        }
    }

    /// Ready when a build has begun or ended since the last call.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The services whose components a look that begins now will find.
    pub(super) fn unseen(&self) -> Vec<String> {
        let builds = lock(&self.builds);
        builds.iter().filter(|(_, build)| matches!(build, Build::Made)).map(|(name, _)| name.clone()).collect()
    }

    /// A look that began when these were unseen has ended.
    pub(super) fn seen(&self, names: Vec<String>) {
        let mut builds = lock(&self.builds);
        for name in names {
            if matches!(builds.get(&name), Some(Build::Made)) {
                builds.remove(&name);
            }
        }
    }

    /// The state of every build that has not led to a component in the directory.
    pub(super) fn pending(&self) -> BTreeMap<String, Build> {
        lock(&self.builds).clone()
    }
}

/// The services without a component of any version.
pub(super) fn absent(pending: &BTreeMap<String, Build>) -> impl Iterator<Item = Absent<'_>> {
    pending.iter().map(|(name, build)| Absent { name, spec: None, refusal: build.refusal() })
}
