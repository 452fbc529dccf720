//! The state of services that `lodge dev` builds from sources in the directory. The host shows builds like files that
//! are compiled or refused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::ledger::Absent;
use lodge_base::lock::lock;
use lodge_manifest::refusal::Refusal;

/// The builds in progress and the failed ones, by the name of the service.
#[derive(Default)]
pub struct Builds {
    builds: Mutex<BTreeMap<String, BuildState>>,
    changed: Notify,
}

/// The state of a build.
#[derive(Clone)]
pub(super) enum BuildState {
    /// It runs or is queued.
    Running,
    /// It has made a component that no scan has found yet.
    Made,
    /// It has failed.
    Failed(Refusal),
}

impl BuildState {
    /// Why there is no component.
    pub(super) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Failed(refusal) => Some(refusal),
            Self::Running | Self::Made => None,
        }
    }
}

impl Builds {
    /// Records that a build has begun.
    pub fn begins(&self, name: &str) {
        // A failure stays visible until there is a better result.
        let running = |build: &mut BuildState| {
            if build.refusal().is_none() {
                *build = BuildState::Running;
            }
        };
        lock(&self.builds).entry(name.to_owned()).and_modify(running).or_insert(BuildState::Running);
        self.changed.notify_one();
    }

    /// Records that a build has failed: why, in one line, and the compiler's output.
    pub fn failed(&self, name: &str, why: &str, said: &str) {
        let mut refusal =
            Refusal::new(&format!("{name}.wasm"), why, "fix its sources; Lodge builds them again when they change");
        refusal.output = (!said.is_empty()).then(|| Arc::from(said));
        lock(&self.builds).insert(name.to_owned(), BuildState::Failed(refusal));
        self.changed.notify_one();
    }

    /// Records that a build has put a component into the directory.
    pub fn made(&self, name: &str) {
        lock(&self.builds).insert(name.to_owned(), BuildState::Made);
        self.changed.notify_one();
    }

    /// Removes a service whose sources are gone.
    pub fn forget(&self, name: &str) {
        if lock(&self.builds).remove(name).is_some() {
            self.changed.notify_one();
        }
    }

    /// Waits until a build has begun or ended since the last call.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The services whose new components a scan that begins now will find.
    pub(super) fn unseen(&self) -> Vec<String> {
        let builds = lock(&self.builds);
        builds.iter().filter(|(_, build)| matches!(build, BuildState::Made)).map(|(name, _)| name.clone()).collect()
    }

    /// Records the end of a scan that began when these were unseen.
    pub(super) fn seen(&self, names: Vec<String>) {
        let mut builds = lock(&self.builds);
        for name in names {
            if matches!(builds.get(&name), Some(BuildState::Made)) {
                builds.remove(&name);
            }
        }
    }

    /// The builds that have not led to a component in the directory.
    pub(super) fn pending(&self) -> BTreeMap<String, BuildState> {
        lock(&self.builds).clone()
    }
}

/// The services without a component of any version.
pub(super) fn absent(pending: &BTreeMap<String, BuildState>) -> impl Iterator<Item = Absent<'_>> {
    pending.iter().map(|(name, build)| Absent { name, manifest: None, refusal: build.refusal() })
}
