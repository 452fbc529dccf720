//! What is served right now, as one immutable value.
//!
//! The [publisher](super::publisher) makes snapshots and requests read them: this is the only place where the two flows
//! meet. A request keeps its target, so nothing changes during it.

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
use lodge_manifest::spec::{GuestSpec, host_of};
use lodge_traffic::routing::router::Router;

/// All services with their routes.
#[derive(Default)]
pub struct Snapshot {
    /// Grows with every publication.
    pub generation: u64,
    /// The routes of all services.
    pub router: Router<Arc<Target>>,
    /// The targets in order of name.
    pub targets: Vec<Arc<Target>>,
    /// The targets by the host on which every path is theirs: calls between services use it.
    pub hosts: HashMap<String, Arc<Target>>,
    /// The route of these hosts.
    pub everywhere: Arc<str>,
    /// The files that are refused.
    pub refusals: Vec<Refusal>,
    /// What was to be published: `targets` and `refusals` before routes were assigned.
    pub(super) wanted: Vec<Backend>,
    pub(super) refused: Vec<Refusal>,
    /// Every file was compiled or refused.
    pub complete: bool,
    /// Services in the directory that cannot serve.
    pub absent: Absentees,
}

/// The reader: returns the current snapshot for the price of an atomic load.
#[derive(Clone)]
pub struct Current(pub(super) Arc<ArcSwap<Snapshot>>);

impl Current {
    /// The current snapshot. Do not hold it across an await: clone the target out of it.
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.0.load()
    }
}

impl Snapshot {
    /// The service or version with this name.
    pub fn target(&self, name: &str) -> Option<&Arc<Target>> {
        let place = self.targets.binary_search_by(|target| (*target.deployment().name).cmp(name)).ok()?;
        self.targets.get(place)
    }

    /// Returns why a service or version with these files would be refused beside the others that are served, if it would.
    pub fn conflict(&self, spec: &GuestSpec) -> Option<Refusal> {
        let mut others = Self::default();
        for target in self.targets.iter().filter(|target| *target.deployment().name != *spec.name) {
            // All of them are served, so none is refused.
            let _ = others.admit(Arc::clone(target));
        }
        let owner = others.targets.first().cloned()?;
        others.claim(spec, &owner).err()
    }

    /// Adds a target with all of its routes, or refuses it.
    pub(super) fn admit(&mut self, target: Arc<Target>) -> Result<(), Refusal> {
        let spec = &target.deployment().spec;
        self.claim(spec, &target)?;
        self.hosts.insert(host_of(&spec.name), Arc::clone(&target));
        self.targets.push(target);
        Ok(())
    }

    /// Adds the routes of these files for a target, or refuses them.
    fn claim(&mut self, spec: &GuestSpec, target: &Arc<Target>) -> Result<(), Refusal> {
        // The router reports a conflict between hosts of clients.
        let unhosted = |owner: &&Arc<Target>| spec.host().is_none() || owner.deployment().spec.host().is_none();
        if let Some(owner) = self.hosts.get(&host_of(&spec.name)).filter(unhosted) {
            let reason = format!("its host name for calls already belongs to {}", owner.deployment().name);
            return Err(Refusal::new(&file_name(&spec.path), reason, "give one of them another name").of(spec.digest));
        }
        let manifest = &spec.manifest;
        let (cache, cors, headers) = (manifest.cache, manifest.cors.clone(), manifest.headers.clone());
        let compress = manifest.compress.clone();
        let host = |host| Route { cache, cors, headers, compress, ..Route::host(host) };
        let own = spec.host().map(host);
        let guarded = manifest.policies.service != PolicySettings::default();
        if let Err((route, owner)) = self.router.insert(manifest.routes.iter().chain(&own), target, guarded) {
            let reason = format!("its route {route} already belongs to {}", owner.deployment().name);
            let remedy = "give one of them another name, or other `routes` in its manifest";
            return Err(Refusal::new(&file_name(&spec.path), reason, remedy).of(spec.digest));
        }
        Ok(())
    }
}
