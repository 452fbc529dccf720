//! The writer of snapshots: decides which service gets a route, and which versions a service has.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use super::absent::Absentees;
use super::builds::Builds;
use super::claims::{Claimant, ClaimantState, LostClaim, RouteClaims, Served};
use super::snapshot::{Current, Snapshot, taken};
use super::target::{self, Target, WantedShare};
use crate::guests::backend::Backend;
use lodge_base::config::Config;
use lodge_manifest::percent::Percent;
use lodge_manifest::policies::Policies;
use lodge_manifest::refusal::Refusal;
use lodge_manifest::spec::GuestSpec;
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

    /// Publishes the next snapshot: these backends, except those whose routes others have (`claims`), and these refusals.
    pub fn publish(&self, backends: Vec<Backend>, refused: Vec<Refusal>, complete: bool) {
        self.publish_beside(backends, refused, complete, Absentees::default());
    }

    /// The same, with the services that cannot serve.
    pub fn publish_beside(&self, backends: Vec<Backend>, refused: Vec<Refusal>, complete: bool, absent: Absentees) {
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
        let targets = self.targets(&previous, backends, &mut next.refusals, &next.absent);
        assign(&previous, &targets, &mut next);
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
    fn targets(
        &self,
        previous: &Snapshot,
        backends: Vec<Backend>,
        refusals: &mut Vec<Refusal>,
        absent: &Absentees,
    ) -> Vec<Arc<Target>> {
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
            let version = |version: Backend| {
                let last = previous.target(&version.deployment.name);
                (last, self.version(last, version, &backend, &admission))
            };
            let its: Vec<_> = versions.extract_if(.., |version| version.is_version_of(&backend)).map(version).collect();
            let wanted: Vec<_> = its
                .iter()
                .map(|(last, new)| WantedShare {
                    // At a start the shares go by name, and not by what is compiled first.
                    had: last.filter(|_| previous.complete).map(|last| last.share().percent),
                    wants: new.share().percent,
                })
                .collect();
            let mut beside = Vec::new();
            for ((last, new), granted) in its.into_iter().zip(target::grant(&wanted)) {
                let target = match granted {
                    Ok(()) => Some(new),
                    // The last good version. Its admission is the service's current one.
                    Err(left) => {
                        refusals.push(target::too_much(&new, left));
                        last.map(|last| self.version(Some(last), last.backend.clone(), &backend, &admission))
                    }
                };
                beside.extend(target.map(|target| (target.share(), target)));
            }
            targets.extend(beside.iter().map(|(_, target)| Arc::clone(target)));
            targets.push(Target::service(old, backend, admission, beside));
        }
        // Until its service is compiled, a version waits for it.
        versions.retain(|version| {
            version.deployment.spec.version_of().is_none_or(|(service, _)| !absent.is_starting(service))
        });
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

/// Adds the targets that have all of their routes, and the last good versions of others, to the `next` snapshot.
fn assign(previous: &Snapshot, targets: &[Arc<Target>], next: &mut Snapshot) {
    let claims = |target: &Target| RouteClaims::of(&target.deployment().name, &target.deployment().spec.all_routes());
    let serving = targets.iter().map(|target| {
        let name = &*target.deployment().name;
        let last_good = previous.target(name).filter(|old| !Arc::ptr_eq(old, target)).map(|old| claims(old));
        Claimant { name, wanted: claims(target), last_good, state: ClaimantState::Ready }
    });
    let claimants: Vec<_> = serving.chain(next.absent.claimants()).collect();
    let (owners, served) = previous.owners.assign(&claimants);
    drop(claimants);
    next.owners = owners;
    let taken =
        |spec: &GuestSpec, lost: &LostClaim, next: &Snapshot| taken(spec, lost, next.absent.is_disabled(&lost.owner));
    for (target, served) in targets.iter().zip(served) {
        let spec = &target.deployment().spec;
        let last_good = || previous.target(&spec.name);
        let (target, refusal) = match served {
            Served::Wanted => (Some(target), None),
            Served::LastGood(lost) => (last_good(), Some(taken(spec, &lost, next))),
            Served::Nothing(lost) => (None, lost.map(|lost| taken(spec, &lost, next))),
        };
        let admitted = target.map(|target| next.admit(target));
        let refusal = refusal.into_iter().chain(admitted.clone().and_then(Result::err)).next();
        if let Some(refusal) = refusal {
            if !matches!(admitted, Some(Ok(()))) {
                next.absent.refuse(spec, &refusal);
            }
            next.refusals.push(refusal);
        }
    }
    let Snapshot { absent, owners, targets, .. } = next;
    absent.beside(targets.iter().map(|target| &target.deployment().spec), |name, route| owners.owns(name, route));
}

#[cfg(test)]
mod tests;
