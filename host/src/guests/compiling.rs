//! Deployments under way: the tasks that make of files what answers, and how each of them ends.

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

/// What a deployment came to, and how long it took.
type Finished = (Result<Backend, Refusal>, Duration);

/// Deployments under way, and how far this burst of them is.
#[derive(Default)]
pub(super) struct Compiling {
    pub(super) tasks: JoinSet<Finished>,
    /// Each of them until it has ended, however that is.
    specs: HashMap<Id, (GuestSpec, AbortHandle)>,
    begun: usize,
    done: usize,
}

impl Compiling {
    /// Begins to deploy these files. A version of the same name that still waits for its turn must not take it.
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

    /// Gives up what is no longer wanted, and the processes that compile it.
    pub(super) fn retain(&mut self, wanted: impl Fn(&GuestSpec) -> bool) {
        self.specs.values().filter(|(spec, _)| !wanted(spec)).for_each(|(_, task)| task.abort());
    }

    /// Takes in how a deployment ended. Each that was begun and not given up ends in the ledger, also by a panic: what is
    /// left there as being compiled would never be tried again, and the host never be ready.
    pub(super) fn end(
        &mut self,
        finished: Result<(Id, Finished), JoinError>,
        ledger: &mut Ledger<Backend>,
    ) -> Option<Told> {
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
        Some(Told { change, around })
    }
}

/// A panic of the host in the middle of a deployment.
fn crashed(spec: &GuestSpec, crash: &JoinError) -> Refusal {
    let reason = format!("Lodge failed on it: {crash}");
    Refusal::new(&file_name(&spec.path), reason, "report it to Lodge's authors, with the component")
}

/// A change that is to be logged once it is published.
pub(super) struct Told {
    pub(super) change: Change,
    /// What comes before and after it.
    pub(super) around: [String; 2],
}

impl From<Change> for Told {
    fn from(change: Change) -> Self {
        Self { change, around: Default::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::guests::scan::{Found, Scanner, State};
    use lodge_base::config::{self, Origin};

    /// A deployment that panics is a refusal: the ledger is settled, and nothing is retried until the file changes.
    #[tokio::test]
    async fn a_panic_is_a_refusal() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.wasm"), b"\0asm\x0d\0\x01\0").unwrap();
        let settings = BTreeMap::from([("guests".to_owned(), directory.path().display().to_string())]);
        let config = config::resolve(&[(Origin::Flag, settings)]).unwrap().config;
        let found: BTreeMap<String, Found> = Scanner::new(directory.path()).scan(&config).unwrap().found;
        let State::Ready(spec) = found["a"].state.clone() else { panic!("{found:?}") };
        let (mut ledger, mut compiling) = (Ledger::default(), Compiling::default());
        assert_eq!(ledger.see(found.clone(), Instant::now()).0.len(), 1);
        let task = compiling.tasks.spawn(async { panic!("a fault of Lodge's") });
        compiling.specs.insert(task.id(), (spec.clone(), task));
        let ended = compiling.tasks.join_next_with_id().await.unwrap();
        compiling.end(ended, &mut ledger);
        assert!(ledger.is_settled() && compiling.specs.is_empty());
        let [refusal] = ledger.refusals().try_into().unwrap();
        assert!(refusal.reason.contains("a fault of Lodge's"), "{refusal}");
        assert_eq!(ledger.see(found.clone(), Instant::now()).0.len(), 0, "it would only panic again");
        // One that was given up says nothing: what is wanted instead is another's.
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
