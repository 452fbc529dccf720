//! A rollout: what a version gets of its service's requests, and which versions a service has.

use serde::Serialize;

use super::state;
use crate::guests::target::Target;
use lodge_manifest::share::{Percent, Rollback, Rule, TrafficShare};

/// What a version gets of its service's requests.
#[derive(Debug, Serialize)]
pub struct Part {
    /// Percent of those that no rule decides.
    pub percent: f64,
    /// Those that it gets whatever its part is, as its manifest has them.
    #[serde(rename = "match")]
    pub rules: Vec<String>,
    /// Percent of the others' requests that it is shown as well.
    pub mirror: f64,
    /// How much worse it may do before it is taken out; without this, it never is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Margins>,
}

/// By how much a version may do worse than its service.
#[derive(Debug, Serialize)]
pub struct Margins {
    /// Percentage points more of its requests may fail.
    pub errors: f64,
    /// Its 99th percentile may be so many times the service's.
    pub p99: f64,
    /// Requests of the last minute, of each, before anything is concluded.
    pub minimum: u64,
}

/// A version, as its service knows it.
#[derive(Debug, Serialize)]
pub struct Beside {
    /// Its name, as in `users@2`.
    pub name: String,
    /// Percent of the requests that no rule decides.
    pub percent: f64,
    /// What it does; of what is not `serving` or `unloaded`, the service answers the part.
    pub state: &'static str,
}

impl Part {
    pub(super) fn of(share: &TrafficShare) -> Self {
        Self {
            percent: percent(share.percent),
            rules: share.rules.iter().map(Rule::to_string).collect(),
            mirror: percent(share.mirror),
            rollback: share.rollback.as_ref().map(Margins::of),
        }
    }
}

impl Margins {
    fn of(rollback: &Rollback) -> Self {
        let Rollback { errors, p99, minimum } = *rollback;
        Self { errors: percent(errors), p99: f64::from(p99) / 100.0, minimum }
    }
}

/// The versions beside a service.
pub(super) fn beside(service: &Target) -> Vec<Beside> {
    let versions = service.split.iter().flat_map(|split| split.versions());
    let told = |(share, version): (&TrafficShare, &std::sync::Arc<Target>)| Beside {
        name: version.backend.name.to_string(),
        percent: percent(share.percent),
        state: state(version),
    };
    versions.map(told).collect()
}

fn percent(part: Percent) -> f64 {
    f64::from(part.0) / 100.0
}
