//! `[limits]`: the limits of the service, in place of the host's defaults.

use crate::schema;
use crate::section::{Owner, Section};
use lodge_base::config::limits::{LIMITS, Limits};

/// Limits of sandboxes and of the output and requests of guests. The other limits also apply to upstreams.
pub const OF_COMPONENTS: &[&str] = &[
    "cpu",
    "memory",
    "table_elements",
    "resources",
    "output",
    "output_rate",
    "warm_uses",
    "warm_idle",
    "outgoing",
    "outgoing_rate",
];

/// `[limits]`.
pub(crate) const SECTION: Section = Section {
    name: "limits",
    page: "configuration",
    schema: || schema::settings(LIMITS, &Limits::blank(), &[]),
    owner: Owner::All(|manifest, written, problems| {
        written.settings(LIMITS, &mut manifest.limits, problems);
        // The default of `cpu` must not conflict with an explicit `wall`.
        if !written.has("cpu") {
            manifest.limits.cpu = manifest.limits.cpu.min(manifest.limits.wall);
        }
    }),
    ..Section::DEFAULT
};
