//! The settings and state of policies, as text for operators.

use std::borrow::Cow;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::Admission;
use super::policy_set::PolicySet;
use lodge_manifest::clients::Clients;

/// The settings and state of one policy.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct PolicyStatus {
    /// The policy's key in the manifest.
    pub policy: Cow<'static, str>,
    /// The route that has the policy; `None` for the whole service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The settings.
    pub settings: String,
    /// The present state; `None` for policies without state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

impl Admission {
    /// Returns the service's policies, in the order in which they are checked.
    pub fn policies(&self, now: Instant) -> Vec<PolicyStatus> {
        let policy_sets = || self.routes.iter().chain([&self.policies]);
        let mut statuses: Vec<_> = policy_sets().flat_map(clients).collect();
        statuses.extend(policy_sets().filter_map(|policies| rate(policies, now)));
        statuses.extend(policy_sets().filter_map(|policies| breaker(policies, now)));
        statuses.extend(
            policy_sets()
                .filter_map(|policies| Some(policies.status("priority", policies.priority?.to_string(), None))),
        );
        statuses.extend(self.adaptive.iter().map(|(settings, _)| {
            let slots = format!("{} of {} slots", self.service.size(), self.limits.0);
            self.policies.status("adaptive", settings.to_string(), Some(slots))
        }));
        statuses
    }
}

impl PolicySet {
    fn status(&self, policy: &'static str, settings: String, state: Option<String>) -> PolicyStatus {
        let route = (!self.route.is_empty()).then(|| self.route.clone());
        PolicyStatus { policy: policy.into(), route, settings, state }
    }
}

fn clients(policies: &PolicySet) -> impl Iterator<Item = PolicyStatus> {
    let Clients { allow, deny } = &policies.clients;
    let lists = [("allow", allow), ("deny", deny)].into_iter().filter(|(_, nets)| !nets.is_empty());
    lists.map(|(policy, nets)| {
        let nets: Vec<_> = nets.iter().map(ToString::to_string).collect();
        policies.status(policy, nets.join(", "), None)
    })
}

fn rate(policies: &PolicySet, now: Instant) -> Option<PolicyStatus> {
    let rate = policies.rate.as_ref()?;
    let keys = rate.keys(now).map(|keys| format!("{keys} in use"));
    let room = rate.remaining(now).map(|remaining| format!("{remaining} remaining"));
    let state: Vec<_> = keys.or(room).into_iter().chain(rate.shared()).collect();
    Some(policies.status("rate", rate.settings().to_string(), Some(state.join("; ")).filter(|_| !state.is_empty())))
}

fn breaker(policies: &PolicySet, now: Instant) -> Option<PolicyStatus> {
    let breaker = policies.breaker.as_ref()?;
    let counts = breaker.counts(now);
    let name = breaker.state(now).name();
    let state = format!("{name}; of {} calls {} failed, {} slow", counts.calls, counts.failed, counts.slow);
    Some(policies.status("breaker", breaker.settings().to_string(), Some(state)))
}
