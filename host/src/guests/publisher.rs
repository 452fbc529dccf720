//! The writer of snapshots: decides which service gets a route, and which versions a service has.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use super::absent::Absentees;
use super::builds::Builds;
use super::snapshot::{Current, Snapshot};
use super::target::{self, Target};
use crate::guests::backend::Backend;
use lodge_base::config::Config;
use lodge_manifest::percent::Percent;
use lodge_manifest::policies::Policies;
use lodge_manifest::refusal::Refusal;
use lodge_traffic::admission::{Admission, Concurrency, SharedLimits};

/// The writer of snapshots, owned by one task.
#[derive(Clone)]
pub struct Publisher {
    pub(super) current: Current,
    shared_limits: Arc<SharedLimits>,
    pub(super) builds: Arc<Builds>,
}

impl Publisher {
    /// Creates an empty, incomplete snapshot. `host` limits all services together.
    pub fn new(host: Arc<Concurrency>) -> Self {
        let current = Current(Arc::new(ArcSwap::default()));
        Self { current, shared_limits: Arc::new(SharedLimits::new(host)), builds: Arc::default() }
    }

    /// The limits that all services share.
    pub fn shared_limits(&self) -> Arc<SharedLimits> {
        Arc::clone(&self.shared_limits)
    }

    /// The state of builds.
    pub fn builds(&self) -> Arc<Builds> {
        Arc::clone(&self.builds)
    }

    /// The reader of snapshots.
    pub fn current(&self) -> Current {
        self.current.clone()
    }

    /// Creates a publisher for a check of what would be served.
    pub fn alone(config: &Config) -> Self {
        Self::new(Arc::new(Concurrency::new(config.engine.instances, config.engine.queue, config.limits.queue_wait)))
    }

    /// Publishes the next snapshot: these backends, except those whose routes are taken, and these refusals.
    ///
    /// Of two services with one route, the one that has it already keeps it, else the first by name gets it. The other
    /// one keeps its previous version if the routes of that are free. Before the first complete snapshot no service has
    /// a route already: the speed of compilation must not decide.
    pub fn publish(&self, backends: Vec<Backend>, refused: Vec<Refusal>, complete: bool) {
        self.publish_beside(backends, refused, complete, Absentees::default());
    }

    /// The same, with the services that cannot serve.
    pub(super) fn publish_beside(
        &self,
        backends: Vec<Backend>,
        refused: Vec<Refusal>,
        complete: bool,
        absent: Absentees,
    ) {
        let previous = self.current.snapshot();
        let generation = previous.generation + 1;
        let (wanted, refusals) = (backends.clone(), refused.clone());
        let mut next = Snapshot {
            generation,
            wanted,
            refused,
            refusals,
            complete,
            absent,
            everywhere: Arc::from("/*"),
            ..Snapshot::default()
        };
        let mut targets = self.targets(&previous, backends, &mut next.refusals);
        let holds = |target: &Target| {
            let old = previous.target(&target.deployment().name);
            previous.complete && old.is_some_and(|old| old.deployment().routes() == target.deployment().routes())
        };
        targets.sort_by_cached_key(|target| (!holds(target), Arc::clone(&target.deployment().name)));
        for target in targets {
            let name = Arc::clone(&target.deployment().name);
            if let Err(refusal) = next.admit(target) {
                next.refusals.push(refusal);
                if let Some(old) = previous.target(&name) {
                    // It may have lost these as well, and is refused already then.
                    let _ = next.admit(Arc::clone(old));
                }
            }
        }
        let served = next.targets.iter().map(|target| (target.deployment().routes(), target.deployment().spec.host()));
        next.absent.beside(served);
        for target in &next.targets {
            target.deployment().activate();
            // Versions have the routes of their service.
            if target.of.is_none() {
                target.admission.activate();
            }
        }
        let is_high = |target: &Arc<Target>| target.deployment().spec.manifest.policies.is_high();
        self.shared_limits.shedding.set_reserved(next.targets.iter().any(is_high));
        next.targets.sort_by(|a, b| a.deployment().name.cmp(&b.deployment().name));
        next.refusals.sort_by(|a, b| a.file.cmp(&b.file));
        self.current.0.store(Arc::new(next));
    }

    /// The targets of services with their versions, and of the versions themselves. Those that cannot be served are
    /// added to the `refusals`.
    fn targets(&self, previous: &Snapshot, backends: Vec<Backend>, refusals: &mut Vec<Refusal>) -> Vec<Arc<Target>> {
        let mut targets = Vec::new();
        let (mut versions, services): (Vec<_>, Vec<_>) =
            backends.into_iter().partition(|backend| backend.deployment.spec.version_of().is_some());
        for backend in services {
            let old = previous.target(&backend.deployment.name);
            let admission = match old {
                Some(old) if old.backend.is(&backend) => Arc::clone(&old.admission),
                _ => {
                    let said = (backend.deployment.limits(), &backend.deployment.spec.manifest.policies);
                    let known = old.map(|old| (&*old.admission, backend.is_another(&old.backend)));
                    Arc::new(Admission::new(&backend.deployment.name, said, &self.shared_limits, known, Instant::now()))
                }
            };
            let mut beside = Vec::new();
            let mut left = Percent::ALL.0;
            let its = |version: &mut Backend| version.is_version_of(&backend);
            for version in versions.extract_if(.., its) {
                let last = previous.target(&version.deployment.name);
                let new = self.version(last, version, &backend, &admission);
                // The last good version, if the new one has too large a share. Its admission is the service's current
                // one.
                let last_good =
                    || last.map(|last| self.version(Some(last), last.backend.clone(), &backend, &admission));
                let fit = |target: Arc<Target>| {
                    let share = target.share();
                    left.checked_sub(share.percent.0).map(|rest| (rest, share, target))
                };
                let fitting = fit(Arc::clone(&new)).or_else(|| {
                    refusals.push(target::too_much(&new, Percent(left)));
                    last_good().and_then(fit)
                });
                if let Some((rest, share, target)) = fitting {
                    left = rest;
                    targets.push(Arc::clone(&target));
                    beside.push((share, target));
                }
            }
            targets.push(Target::service(old, backend, admission, beside));
        }
        refusals.extend(versions.iter().map(target::alone));
        targets
    }

    /// The target of a version. It shares the admission of its service.
    fn version(
        &self,
        old: Option<&Arc<Target>>,
        backend: Backend,
        service: &Backend,
        admission: &Arc<Admission>,
    ) -> Arc<Target> {
        if let Some(old) = old.filter(|old| old.backend.is(&backend) && Arc::ptr_eq(&old.admission, admission)) {
            return Arc::clone(old);
        }
        let shown = backend.deployment.spec.manifest.share.as_ref().is_some_and(|share| share.mirror > Percent(0));
        let said = (backend.deployment.limits(), &Policies::default());
        let known = old.and_then(|old| old.shadow.as_ref()).map(|known| (known, false));
        let shadow =
            shown.then(|| Admission::new(&backend.deployment.name, said, &self.shared_limits, known, Instant::now()));
        shadow.iter().for_each(Admission::activate);
        let of = Some(Arc::clone(&service.deployment));
        Arc::new(Target { backend, admission: Arc::clone(admission), split: None, shadow, of })
    }
}

#[cfg(test)]
mod tests;
