//! What changed in the directory, as the log has it.

use crate::guests::compiling::Told;
use crate::guests::snapshot::Snapshot;
use lodge_base::telemetry::logs::CHANGE;
use lodge_manifest::spec::GuestSpec;

/// Warns once of each file that is ignored because of how its name is written.
pub(super) fn warn_of(ignored: &[String], before: &mut Vec<String>) {
    for name in ignored.iter().filter(|name| !before.contains(name)) {
        tracing::warn!("ignored {name}: its extension must be in lower case; rename it to {}", name.to_lowercase());
    }
    *before = ignored.to_vec();
}

/// Logs changes, but for those that a snapshot does not have: it refused them, and that is logged already.
pub(super) fn tell(changes: impl IntoIterator<Item = Told>, snapshot: &Snapshot) {
    for Told { change, around: [before, after] } in changes {
        let serves = |spec: &GuestSpec| snapshot.target(&spec.name).is_some_and(|target| target.backend.spec == *spec);
        if change.spec().is_none_or(serves) {
            tracing::info!(target: CHANGE, service = change.service(), "{before}{change}{after}");
        }
    }
}
