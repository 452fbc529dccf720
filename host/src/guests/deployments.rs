//! Deployments in progress: their tasks, and how each of them ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use super::ledger::{Change, Ledger};
use crate::guests::backend::Backend;
use crate::guests::deployer::Deployer;
use lodge_manifest::refusal::Refusal;
use lodge_manifest::refusal::file_name;
use lodge_manifest::spec::GuestSpec;

/// The result of a deployment, and how long it took.
type Deployed = (Result<Backend, Refusal>, Duration);

/// The end of the task of a deployment.
pub(super) type DeploymentResult = Result<(Id, Deployed), JoinError>;

/// The deployments in progress, with the counts for progress messages.
#[derive(Default)]
pub(super) struct Deployments {
    pub(super) tasks: JoinSet<Deployed>,
    /// Each deployment until its task has ended.
    specs: HashMap<Id, (GuestSpec, AbortHandle)>,
    begun: usize,
    done: usize,
}

impl Deployments {
    /// Starts to deploy these files. Cancels an earlier deployment of the same name that is still queued.
    pub(super) fn begin(&mut self, deployer: &Arc<Deployer>, spec: GuestSpec) {
        if self.tasks.is_empty() {
            (self.begun, self.done) = (0, 0);
        }
        self.retain(|other| other.name != spec.name);
        self.begun += 1;
        let (deployed, deployer) = (spec.clone(), Arc::clone(deployer));
        let task = self.tasks.spawn(async move {
            let start = Instant::now();
            let result = deployer.deploy(deployed).await;
            (result, start.elapsed())
        });
        self.specs.insert(task.id(), (spec, task));
    }

    /// Cancels deployments that are not `wanted` any more, and the processes that compile for them.
    pub(super) fn retain(&mut self, wanted: impl Fn(&GuestSpec) -> bool) {
        self.specs.values().filter(|(spec, _)| !wanted(spec)).for_each(|(_, task)| task.abort());
    }

    /// Records the end of a deployment in the ledger. Every deployment that was not cancelled ends there, also by a
    /// panic: one that stayed would never be tried again, and the host would never be ready.
    pub(super) fn end(&mut self, finished: DeploymentResult, ledger: &mut Ledger<Backend>) -> Option<PendingChange> {
        self.done += 1;
        let id = finished.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let (spec, _) = self.specs.remove(&id)?;
        let (result, took) = match finished {
            Ok((_, finished)) => finished,
            Err(end) if end.is_cancelled() => return None,
            Err(crash) => (Err(crashed(&spec, &crash)), Duration::ZERO),
        };
        let change = ledger.compiled(spec, result)?;
        let around = [format!("[{}/{}] ", self.done, self.begun), format!(" ({} ms)", took.as_millis())];
        Some(PendingChange { change, around })
    }
}

/// The refusal after a panic of the host during a deployment.
fn crashed(spec: &GuestSpec, crash: &JoinError) -> Refusal {
    let reason = format!("Lodge crashed while it deployed this: {crash}");
    Refusal::new(&file_name(&spec.path), reason, "report this to Lodge's authors, with the component")
}

/// A change that is logged once it is published.
pub(super) struct PendingChange {
    pub(super) change: Change,
    /// The text before and after it.
    pub(super) around: [String; 2],
}

impl From<Change> for PendingChange {
    fn from(change: Change) -> Self {
        Self { change, around: Default::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::guests::scan::{FileState, ScannedService, Scanner};
    use lodge_base::config::{self, Origin};

    /// A deployment that panics is a refusal: the ledger is settled, and nothing is retried until the file changes.
    #[tokio::test]
    async fn a_panic_is_a_refusal() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.wasm"), b"\0asm\x0d\0\x01\0").unwrap();
        let settings = BTreeMap::from([("guests".to_owned(), directory.path().display().to_string())]);
        let config = config::resolve(&[(Origin::Flag, settings)]).unwrap().config;
        let found: BTreeMap<String, ScannedService> = Scanner::new(directory.path()).scan(&config).unwrap().found;
        let FileState::Ready(spec) = found["a"].state.clone() else { panic!("{found:?}") };
        let (mut ledger, mut compiling) = (Ledger::default(), Deployments::default());
        assert_eq!(ledger.see(found.clone(), Instant::now()).0.len(), 1);
        let task = compiling.tasks.spawn(async { panic!("a bug in Lodge") });
        compiling.specs.insert(task.id(), (spec.clone(), task));
        let ended = compiling.tasks.join_next_with_id().await.unwrap();
        compiling.end(ended, &mut ledger);
        assert!(ledger.is_settled() && compiling.specs.is_empty());
        let [refusal] = ledger.refusals().try_into().unwrap();
        assert!(refusal.reason.contains("a bug in Lodge"), "{refusal}");
        assert_eq!(ledger.see(found.clone(), Instant::now()).0.len(), 0, "it would only panic again");
        // The end of a cancelled deployment has no effect.
        compiling.specs.insert(compiling.tasks.spawn(std::future::pending()).id(), {
            let task = tokio::spawn(async {}).abort_handle();
            (spec, task)
        });
        compiling.tasks.abort_all();
        let ended = compiling.tasks.join_next_with_id().await.unwrap();
        compiling.end(ended, &mut ledger);
        assert_eq!((ledger.refusals().len(), compiling.specs.len()), (1, 0));
    }
}
