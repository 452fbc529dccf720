//! What a manifest says that has no effect on this host, for operators.

use lodge_base::config::Config;
use lodge_manifest::refusal::file_name;
use lodge_manifest::spec::GuestSpec;

/// Returns what the manifest of these files says without an effect, a line each.
pub fn doubts(spec: &GuestSpec, config: &Config) -> Vec<String> {
    if config.cluster.name.is_some() {
        return Vec::new();
    }
    let manifest = file_name(&spec.path.with_extension("toml"));
    let doubt = |route: &str| {
        let of = if route.is_empty() { String::new() } else { format!(" of {route}") };
        format!(
            "{manifest}: rate.scope{of} is `cluster`, and this host is in no cluster, so the limit holds on this host alone; set \
             cluster.name in lodge.toml"
        )
    };
    spec.manifest.policies.cluster_rates().map(doubt).collect()
}
