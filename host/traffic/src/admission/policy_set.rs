//! The policies of a service or of one of its routes, with their state.

use std::sync::Arc;
use std::time::Instant;

use super::Rate;
use super::breaker::{Breaker, BreakerState};
use super::rate::ClusterRates;
use lodge_manifest::clients::Clients;
use lodge_manifest::policies::PolicySettings;
use lodge_manifest::policies::Priority;

/// The policies that a request has to pass before it may wait for a slot.
#[derive(Debug)]
pub(super) struct PolicySet {
    /// The route that has these policies; empty for the whole service.
    pub(super) route: String,
    pub(super) clients: Clients,
    pub(super) rate: Option<Rate>,
    pub(super) breaker: Option<Arc<Breaker>>,
    pub(super) priority: Option<Priority>,
}

impl PolicySet {
    /// Returns the set for these policies of a route, or of the whole `service` if `route` is empty. The state of `previous`, the set of the same route, carries over, except for
    /// its breaker's where `another` component serves from now on: that state is about the old component.
    pub(super) fn new(
        (service, route): (&str, &str),
        rates: &Arc<ClusterRates>,
        policies: &PolicySettings,
        previous: Option<&Self>,
        another: bool,
        now: Instant,
    ) -> Self {
        let scope = if route.is_empty() { "" } else { "route-" };
        let known = previous.and_then(|policies| policies.rate.as_ref());
        let rate = policies.rate.as_ref().map(|settings| {
            let rate = known.map(|rate| rate.with_settings(settings, scope, now));
            rate.unwrap_or_else(|| Rate::new(settings, scope, now)).in_cluster(rates, service, route)
        });
        let known = previous.and_then(|policies| policies.breaker.as_ref()).filter(|_| !another);
        let breaker = policies.breaker.map(|settings| {
            Arc::new(known.map_or_else(|| Breaker::new(settings, now), |breaker| breaker.with_settings(settings)))
        });
        let (clients, priority) = (policies.clients.clone(), policies.priority);
        Self { route: route.to_owned(), clients, rate, breaker, priority }
    }

    /// Whether the set has no policies.
    pub(super) fn is_empty(&self) -> bool {
        self.clients.admits_all() && self.rate.is_none() && self.breaker.is_none() && self.priority.is_none()
    }

    /// Returns the breaker's state; `None` without a breaker.
    pub(super) fn state(&self, now: Instant) -> Option<BreakerState> {
        self.breaker.as_ref().map(|breaker| breaker.state(now))
    }
}
