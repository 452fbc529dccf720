//! What is served right now, as one immutable value.
//!
//! The [publisher](super::publisher) makes snapshots and requests read them: this is the only place where the two flows
//! meet. A request keeps its target, so nothing changes during it.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::Method;

use super::absent::{AbsenceReason, Absentees};
use super::claims::{LostClaim, RouteClaims, RouteOwners};
use super::target::Target;
use crate::guests::backend::Backend;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::route::Route;
use lodge_manifest::spec::{GuestSpec, ServiceRoutes, host_of};
use lodge_traffic::routing::router::{Match, Missed, Router};

/// All services with their routes.
#[derive(Default)]
pub struct Snapshot {
    /// Grows with every publication.
    pub generation: u64,
    /// The routes of all services that serve. [`Snapshot::find`] also knows those of the others.
    pub(super) router: Router<Arc<Target>>,
    /// The services that have these routes, and those of services that cannot serve.
    pub(super) owners: RouteOwners,
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

/// The reason why no service handles a client's request.
#[derive(Debug, PartialEq, Eq)]
pub enum Unserved<'a> {
    /// No route matches.
    Missed(Missed),
    /// The service of the route cannot serve.
    Absent(&'a AbsenceReason),
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

    /// Returns the route of a client's request, as [`Router::find`] does. While a service cannot serve, its routes with their restrictions
    /// are still its own: no route of another service handles its requests.
    ///
    /// # Errors
    /// When no route matches, or the service of the route cannot serve.
    pub fn find(
        &self,
        authority: &str,
        path: &str,
        method: &Method,
        by_name: bool,
    ) -> Result<Match<'_, Arc<Target>>, Unserved<'_>> {
        match self.absent.at(authority, path, method, by_name) {
            Ok(Some(why)) => Err(Unserved::Absent(why)),
            Ok(None) => self.router.find(authority, path, method, by_name).map_err(Unserved::Missed),
            Err(missed) => Err(Unserved::Missed(missed)),
        }
    }

    /// Returns why a service or version with these files would be refused beside the others, if it would.
    pub fn conflict(&self, spec: &GuestSpec) -> Option<Refusal> {
        let lost = self.owners.kept(&spec.name, &RouteClaims::of(&spec.name, &spec.all_routes()))?;
        Some(taken(spec, &lost, self.absent.is_disabled(&lost.owner)))
    }

    /// Adds a target with all of its routes, or refuses it if another one has them.
    pub(super) fn admit(&mut self, target: &Arc<Target>) -> Result<(), Refusal> {
        let spec = &target.deployment().spec;
        let ServiceRoutes { routes, guarded, .. } = spec.all_routes();
        if let Err((route, owner)) = self.router.insert(routes.iter(), target, guarded) {
            return Err(taken_route(spec, route, &owner.deployment().name, false));
        }
        self.hosts.insert(host_of(&spec.name), Arc::clone(target));
        self.targets.push(Arc::clone(target));
        Ok(())
    }
}

/// The refusal of files that claim what another service has, which may be disabled.
pub(super) fn taken(spec: &GuestSpec, lost: &LostClaim, is_disabled: bool) -> Refusal {
    match spec.all_routes().routes.get(lost.number) {
        Some(route) => taken_route(spec, route, &lost.owner, is_disabled),
        None => {
            let reason = format!("its host name for calls already belongs to {}", lost.owner);
            Refusal::new(&file_name(&spec.path), reason, "give one of them another name").of(spec.digest)
        }
    }
}

fn taken_route(spec: &GuestSpec, route: &Route, owner: &str, is_disabled: bool) -> Refusal {
    let mut reason = format!("its route {route} already belongs to {owner}");
    let mut remedy = "give one of them another name, or other `routes` in its manifest".to_owned();
    if is_disabled {
        reason.push_str(", which is disabled and keeps its routes");
        remedy = format!("remove this route from {owner}.toml, or give this service other `routes`");
    }
    Refusal::new(&file_name(&spec.path), reason, remedy).of(spec.digest)
}
