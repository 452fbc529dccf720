//! The policies of a service, or of one of its routes, at work.

use std::sync::Arc;
use std::time::Instant;

use super::Rate;
use super::breaker::{Breaker, BreakerState};
use crate::manifest::clients::Clients;
use crate::manifest::policies::PolicySettings;
use crate::manifest::policies::Priority;

/// What a request goes through before it may wait for a slot.
#[derive(Debug)]
pub(super) struct PolicySet {
    /// The route that has it; empty for the whole service.
    pub(super) route: String,
    pub(super) clients: Clients,
    pub(super) rate: Option<Rate>,
    pub(super) breaker: Option<Arc<Breaker>>,
    pub(super) priority: Option<Priority>,
}

impl PolicySet {
    /// The policies of these policies. What the `previous` one of the same route knows lives on, but for the breaker of
    /// `another` component: it has judged what is not view any more.
    pub(super) fn new(
        route: &str,
        policies: &PolicySettings,
        previous: Option<&Self>,
        another: bool,
        now: Instant,
    ) -> Self {
        let scope = if route.is_empty() { "" } else { "route-" };
        let rate = policies.rate.as_ref().map(|settings| match previous.and_then(|policies| policies.rate.as_ref()) {
            Some(rate) => rate.with_settings(settings, scope, now),
            None => Rate::new(settings, scope, now),
        });
        let known = previous.and_then(|policies| policies.breaker.as_ref()).filter(|_| !another);
        let breaker = policies.breaker.map(|settings| {
            Arc::new(known.map_or_else(|| Breaker::new(settings, now), |breaker| breaker.with_settings(settings)))
        });
        let (clients, priority) = (policies.clients.clone(), policies.priority);
        Self { route: route.to_owned(), clients, rate, breaker, priority }
    }

    /// Whether everybody passes, and nothing is to be done for it.
    pub(super) fn is_open(&self) -> bool {
        self.clients.admits_all() && self.rate.is_none() && self.breaker.is_none() && self.priority.is_none()
    }

    /// Which way the breaker is, if there is one.
    pub(super) fn state(&self, now: Instant) -> Option<BreakerState> {
        self.breaker.as_ref().map(|breaker| breaker.state(now))
    }
}
