//! Log lines about changes in the directory.

use crate::audit::{AuditTrail, Event};
use crate::guests::deployments::PendingChange;
use crate::guests::doubts::doubts;
use crate::guests::snapshot::Snapshot;
use lodge_base::config::Config;
use lodge_base::telemetry::logs::CHANGE;
use lodge_manifest::spec::GuestSpec;

/// Logs each file once that is ignored because its extension is not in lower case.
pub(super) fn warn_of(ignored: &[String], before: &mut Vec<String>) {
    for name in ignored.iter().filter(|name| !before.contains(name)) {
        tracing::warn!("ignored {name}: its extension must be in lower case; rename it to {}", name.to_lowercase());
    }
    *before = ignored.to_vec();
}

/// Logs changes, except those that the snapshot has refused, which are logged already.
pub(super) fn tell(
    changes: impl IntoIterator<Item = PendingChange>,
    snapshot: &Snapshot,
    config: &Config,
    audit: Option<&AuditTrail>,
) {
    for PendingChange { change, around: [before, after] } in changes {
        let serves =
            |spec: &GuestSpec| snapshot.target(&spec.name).is_some_and(|target| target.deployment().spec == *spec);
        if change.spec().is_none_or(serves) {
            tracing::info!(target: CHANGE, service = change.service(), "{before}{change}{after}");
            for doubt in change.spec().map(|spec| doubts(spec, config)).unwrap_or_default() {
                tracing::warn!(target: CHANGE, service = change.service(), "{doubt}");
            }
            if let Some(audit) = audit {
                let (service, change) = (change.service().to_owned(), format!("{before}{change}{after}"));
                audit.record(Event::Change { service: Some(service), file: None, change });
            }
        }
    }
}
