//! Policies and how they do, in words.

use std::time::Instant;

use serde::Serialize;

use super::Admission;
use super::gate::Gate;
use crate::manifest::clients::Clients;

/// A policy of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Its key in the manifest.
    pub policy: &'static str,
    /// The route that has it; the whole service when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// How it is set.
    pub settings: String,
    /// How it does now; nothing where there is nothing to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

impl Admission {
    /// Its policies, in the order in which they are asked.
    pub fn shown(&self, now: Instant) -> Vec<Shown> {
        let gates = || self.routes.iter().chain([&self.gate]);
        let mut shown: Vec<_> = gates().flat_map(clients).collect();
        shown.extend(gates().filter_map(|gate| rate(gate, now)));
        shown.extend(gates().filter_map(|gate| breaker(gate, now)));
        shown.extend(gates().filter_map(|gate| Some(gate.shown("priority", gate.priority?.to_string(), None))));
        shown.extend(self.adaptive.iter().map(|(settings, _)| {
            let places = format!("{} of {} places", self.service.size(), self.limits.0);
            self.gate.shown("adaptive", settings.to_string(), Some(places))
        }));
        shown
    }
}

impl Gate {
    fn shown(&self, policy: &'static str, settings: String, state: Option<String>) -> Shown {
        let route = (!self.route.is_empty()).then(|| self.route.clone());
        Shown { policy, route, settings, state }
    }
}

fn clients(gate: &Gate) -> impl Iterator<Item = Shown> {
    let Clients { allow, deny } = &gate.clients;
    let lists = [("allow", allow), ("deny", deny)].into_iter().filter(|(_, nets)| !nets.is_empty());
    lists.map(|(policy, nets)| {
        let nets: Vec<_> = nets.iter().map(ToString::to_string).collect();
        gate.shown(policy, nets.join(", "), None)
    })
}

fn rate(gate: &Gate, now: Instant) -> Option<Shown> {
    let rate = gate.rate.as_ref()?;
    let keys = rate.keys(now).map(|keys| format!("{keys} in use"));
    let room = rate.remaining(now).map(|remaining| format!("{remaining} remaining"));
    Some(gate.shown("rate", rate.settings().to_string(), keys.or(room)))
}

fn breaker(gate: &Gate, now: Instant) -> Option<Shown> {
    let breaker = gate.breaker.as_ref()?;
    let counts = breaker.counts(now);
    let position = breaker.position(now).name();
    let state = format!("{position}; of {} calls {} failed, {} slow", counts.calls, counts.failed, counts.slow);
    Some(gate.shown("breaker", breaker.settings().to_string(), Some(state)))
}
