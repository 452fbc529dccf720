//! Settings that seem to be in force, and have no effect.

use super::keys::words;
use super::origin::{Origin, place};

/// Settings that have no effect without another one. Those of security would seem to be in force.
const DEPENDENT: [(&str, &str); 23] = [
    ("tls.client", "tls.client_ca"),
    ("tls.acme.contact", "tls.acme.domains"),
    ("tls.acme.directory", "tls.acme.domains"),
    ("tls.acme.ca", "tls.acme.domains"),
    ("tls.acme.eab_kid", "tls.acme.domains"),
    ("tls.acme.eab_key", "tls.acme.domains"),
    ("tls.acme.challenge", "tls.acme.domains"),
    ("tls.acme.path", "tls.acme.domains"),
    ("tls.acme.share_keys", "tls.acme.domains"),
    ("cluster.host", "cluster.name"),
    ("cluster.advertise", "cluster.name"),
    ("cluster.zone", "cluster.name"),
    ("cluster.interval", "cluster.name"),
    ("cluster.ttl", "cluster.name"),
    ("cluster.keep", "cluster.name"),
    ("cluster.calls", "cluster.name"),
    ("state.ca", "state.url"),
    ("state.certificate", "state.url"),
    ("state.key", "state.url"),
    ("state.credentials", "state.url"),
    ("state.replicas", "state.url"),
    ("state.blobs_credentials", "state.blobs"),
    ("state.blobs_ca", "state.blobs"),
];

/// Returns the problems of settings whose other one is not set.
pub(super) fn without_effect(values: &[(String, String, Origin)]) -> Vec<String> {
    let set = |wanted: &str| {
        let found = values.iter().find(|(name, ..)| name == wanted);
        found.filter(|(_, text, origin)| *origin != Origin::Default && !text.is_empty()).map(|(.., origin)| *origin)
    };
    let alone = DEPENDENT.into_iter().filter(|(_, needed)| set(needed).is_none());
    alone
        .filter_map(|(name, needed)| {
            let place = place(set(name)?, name);
            Some(format!("{place}: it has no effect without `{needed}`; set that as well, or remove `{name}`"))
        })
        .collect()
}

/// Returns the problem of a `trust.keys` that is set and names no file, which would require no signature.
pub(super) fn without_keys(values: &[(String, String, Origin)]) -> Option<String> {
    let (name, _, origin) = values.iter().find(|(name, text, origin)| {
        name == "trust.keys" && *origin != Origin::Default && words(text).next().is_none()
    })?;
    let place = place(*origin, name);
    Some(format!(
        "{place}: it names no file, so that no component would need a signature; name one, or remove the setting"
    ))
}
