//! What is served right now, as one immutable value.
//!
//! The [publisher](super::publisher) makes snapshots and requests read them: that is the only place where the two flows meet.
//! A request keeps the target that it found, so nothing changes under it.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::absent::Absentees;
use super::target::Target;
use crate::guests::backend::Backend;
use lodge_manifest::policies::PolicySettings;
use lodge_manifest::refusal::Refusal;
use lodge_manifest::refusal::file_name;
use lodge_manifest::route::Route;
use lodge_manifest::spec::host_of;
use lodge_traffic::routing::router::Router;

/// Everything that can be asked, and by whom it is answered.
#[derive(Default)]
pub struct Snapshot {
    /// Grows with every publication.
    pub generation: u64,
    /// Where requests go.
    pub router: Router<Arc<Target>>,
    /// Who is served, by name.
    pub targets: Vec<Arc<Target>>,
    /// Who is served, by the host whose every path is theirs: what calls between services go by.
    pub hosts: HashMap<String, Arc<Target>>,
    /// The route that these have.
    pub everywhere: Arc<str>,
    /// What is in the directory and not served.
    pub refusals: Vec<Refusal>,
    /// What was to be published: `targets` and `refusals` before routes were given out.
    pub(super) wanted: Vec<Backend>,
    pub(super) refused: Vec<Refusal>,
    /// Every file was compiled or refused.
    pub complete: bool,
    /// Services that are in the directory and do not answer.
    pub absent: Absentees,
}

/// The reading end: the snapshot of this moment, for the price of an atomic load.
#[derive(Clone)]
pub struct Current(pub(super) Arc<ArcSwap<Snapshot>>);

impl Current {
    /// The snapshot of this moment. Do not hold it across an await: clone the target out of it.
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.0.load()
    }
}

impl Snapshot {
    /// The service, or version of one, that has this name.
    pub fn target(&self, name: &str) -> Option<&Arc<Target>> {
        let place = self.targets.binary_search_by(|target| (*target.backend.name).cmp(name)).ok()?;
        self.targets.get(place)
    }

    /// Puts a target at all of its routes, or refuses it whole.
    pub(super) fn admit(&mut self, target: Arc<Target>) -> Result<(), Refusal> {
        let backend = &target.backend;
        let called = host_of(&backend.name);
        // Where both have a host of their own the router says so.
        let unhosted = |owner: &&Arc<Target>| backend.spec.host().is_none() || owner.backend.spec.host().is_none();
        if let Some(owner) = self.hosts.get(&called).filter(unhosted) {
            let reason = format!("{} has the same name to who calls it", owner.backend.name);
            return Err(Refusal::new(&file_name(&backend.spec.path), reason, "give one of them another name"));
        }
        let host = |host| Route { cache: backend.spec.manifest.cache, ..Route::host(host) };
        let own = backend.spec.host().map(host);
        let guarded = backend.spec.manifest.policies.service != PolicySettings::default();
        if let Err((route, owner)) = self.router.insert(backend.routes().iter().chain(&own), &target, guarded) {
            let reason = format!("its route {route} already belongs to {}", owner.backend.name);
            let remedy = "give one of them another name, or other `routes` in its manifest";
            return Err(Refusal::new(&file_name(&backend.spec.path), reason, remedy));
        }
        self.hosts.insert(called, Arc::clone(&target));
        self.targets.push(target);
        Ok(())
    }
}
