//! Describes a rollout: the share of a version, and the versions of a service.

use super::state;
use crate::admin::contract::{Judgement, RollbackMargins, VersionShare, VersionStatus};
use crate::guests::target::Target;
use lodge_manifest::percent::Percent;
use lodge_manifest::share::{Rollback, Rule, TrafficShare};
use lodge_traffic::service::deployment::Deployment;

/// Returns the share of its service's requests that a version gets.
pub(super) fn share(share: &TrafficShare) -> VersionShare {
    VersionShare {
        percent: percent(share.percent),
        rules: share.rules.iter().map(Rule::to_string).collect(),
        mirror: percent(share.mirror),
        rollback: share.rollback.as_ref().map(margins),
    }
}

fn margins(rollback: &Rollback) -> RollbackMargins {
    let Rollback { errors, p99, minimum } = *rollback;
    RollbackMargins { errors: percent(errors), p99: f64::from(p99) / 100.0, minimum }
}

/// Returns by how much a version was judged, if it can be withdrawn.
pub(super) fn judgement(version: &Deployment) -> Option<Judgement> {
    version.spec.manifest.share.as_ref()?.rollback.as_ref()?;
    Some(Judgement { requests: version.judged_requests(), comparisons: version.comparisons() })
}

/// Returns the versions of a service.
pub(super) fn versions(service: &Target) -> Vec<VersionStatus> {
    let versions = service.split.iter().flat_map(|split| split.versions());
    let status = |(share, version): (&TrafficShare, &std::sync::Arc<Target>)| VersionStatus {
        name: version.deployment().name.to_string(),
        percent: percent(share.percent),
        state: state(version).into(),
    };
    versions.map(status).collect()
}

fn percent(share: Percent) -> f64 {
    f64::from(share.0) / 100.0
}
