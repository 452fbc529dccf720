//! Checks the other readings of an ambiguous path. The router takes `//` or `%2F` for part of a segment; the service
//! may take it for a separator. Then the policies of one route would not hold for what the service does.
//!
//! A path is refused when a reading leads to another route of the same service that has policies or methods of its own,
//! or to a route of another service with policies (two services may have the same replicas). It is also refused when a
//! `..` appears only in a reading and leads out of the service's routes. If some route of a service has a `rewrite`, the service compares
//! readings with other paths than those of its routes, so every path with several readings is refused there.

use std::sync::{Arc, OnceLock};

use http::Method;

use super::{Missed, Router};
use lodge_base::canonical::{Reading, Separators, readings};
use lodge_manifest::route::{Pattern, Route, Segment};

/// The routes of one target.
#[derive(Debug)]
pub(super) struct TargetRoutes {
    routes: Vec<Route>,
    /// Every request of the target is under policies.
    guarded: bool,
    /// The target gets other paths by some of the routes.
    pub(super) rewrites: bool,
    merged: Routers,
}

/// A router for each way in which services may separate segments, built for the first path that needs it. Most services
/// never need one.
type Routers = [OnceLock<Box<Router<Destination>>>; Separators::COUNT];

/// The routes of all targets.
#[derive(Debug, Default)]
pub(super) struct AllRoutes {
    all: Vec<Arc<TargetRoutes>>,
    merged: Routers,
}

/// The route to which a reading leads.
#[derive(Clone, Copy, Debug)]
struct Destination {
    /// The index of the route's target among all targets.
    owner: usize,
    /// The route has policies or methods of its own.
    restricted: bool,
    /// The route's target has policies.
    guarded: bool,
}

impl TargetRoutes {
    fn new(routes: Vec<Route>, guarded: bool) -> Self {
        let rewrites = routes.iter().any(|route| route.rewrite.is_some());
        Self { routes, guarded, rewrites, merged: Routers::default() }
    }
}

impl AllRoutes {
    /// Adds a target with these routes.
    pub(super) fn add<'a>(&mut self, routes: impl Iterator<Item = &'a Route>, guarded: bool) -> Arc<TargetRoutes> {
        let owned = Arc::new(TargetRoutes::new(routes.cloned().collect(), guarded));
        self.all.push(Arc::clone(&owned));
        owned
    }

    /// Whether no reading of a path leads to restrictions that the route with this number does not have.
    pub(super) fn readings_agree(
        &self,
        owned: &TargetRoutes,
        number: usize,
        (host, comparable): (&str, &str),
        method: &Method,
        by_name: bool,
    ) -> bool {
        let owns = |owner: usize| self.all.get(owner).is_some_and(|owner| std::ptr::eq(owner.as_ref(), owned));
        readings(comparable).all(|Reading { path, climbs, separators }| {
            let at = separators.index();
            let (Some(within), Some(all)) = (owned.merged.get(at), self.merged.get(at)) else { return false };
            let within = within.get_or_init(|| Box::new(merged_router([owned].into_iter(), separators)));
            let all = all.get_or_init(|| Box::new(merged_router(self.all.iter().map(AsRef::as_ref), separators)));
            let own = match within.lookup(host, &path, method, by_name) {
                Ok((found, _)) => found.number == number || !found.target.restricted,
                Err(Missed::Route) => !climbs,
                Err(_) => false,
            };
            let others = match all.lookup(host, &path, method, by_name) {
                Ok((found, _)) => owns(found.target.owner) || !(found.target.restricted || found.target.guarded),
                Err(Missed::Route) => true,
                Err(_) => false,
            };
            own && others
        })
    }
}

/// Returns a router for the routes of these targets, with their paths separated as a reading does.
fn merged_router<'a>(all: impl Iterator<Item = &'a TargetRoutes>, separators: Separators) -> Router<Destination> {
    let mut router = Router::default();
    let none = Arc::new(TargetRoutes::new(Vec::new(), false));
    for (owner, owned) in all.enumerate() {
        for (number, route) in owned.routes.iter().enumerate() {
            let restricted = route.guarded || !route.methods.is_empty();
            let route = Route { path: merged(&route.path, separators), ..route.clone() };
            router.add(number, &route, &Destination { owner, restricted, guarded: owned.guarded }, &none);
        }
    }
    router
}

/// Returns the pattern that results when these separators separate segments.
fn merged(pattern: &Pattern, separators: Separators) -> Pattern {
    let segments = pattern.segments.iter().flat_map(|segment| match segment {
        Segment::Parameter(name) => vec![Segment::Parameter(name.clone())],
        Segment::Name(name) => {
            let separated = separators.separated(name);
            let names = separated.split('/').filter(|name| !matches!(*name, "" | "." | ".."));
            names.map(|name| Segment::Name(name.to_owned())).collect()
        }
    });
    Pattern { segments: segments.collect(), below: pattern.below }
}
