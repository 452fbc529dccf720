//! Formats an upstream: its replicas, their sources, and its settings.

use std::collections::BTreeMap;

use crate::admin::contract::{ReplicaStatus, SourceStatus, UpstreamStatus};
use crate::cli::units::count;

/// Formats the number of available replicas.
pub(super) fn available(replicas: &[ReplicaStatus]) -> String {
    let available = replicas.iter().filter(|replica| replica.state == "available").count();
    format!("{available} of {} available", count(replicas.len() as u64, "replica"))
}

/// Returns a line for each replica or, without any, the errors of the sources.
pub(super) fn replicas(replicas: &[ReplicaStatus], sources: &[SourceStatus]) -> Vec<String> {
    if replicas.is_empty() {
        let why = failing(sources).join("; ");
        return vec![if why.is_empty() { "none".into() } else { format!("none: {why}") }];
    }
    replicas.iter().map(replica).collect()
}

fn replica(it: &ReplicaStatus) -> String {
    let until = it.until.as_ref().map_or(String::new(), |until| format!(" until {until}"));
    let why = it.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
    let connections = count(it.connections as u64, "connection");
    format!("{}  {}{until}{why}; weight {}, {} in flight, {connections}", it.url, it.state, it.weight, it.in_flight)
}

/// Returns the sources that fail, with the reason.
pub(super) fn failing(sources: &[SourceStatus]) -> Vec<String> {
    sources.iter().filter_map(|it| Some(format!("{}: {}", it.source, it.fails.as_ref()?))).collect()
}

/// Returns the certificate of the host for the replicas, and what is wrong with its files now.
pub(super) fn certificate(upstream: &UpstreamStatus) -> Vec<String> {
    let own = upstream.certificate.iter().map(|own| {
        let names = if own.names.is_empty() { "no name".to_owned() } else { own.names.join(", ") };
        format!("{names} ({}), expires {}", own.subject, own.expires)
    });
    own.chain(upstream.tls_fails.clone()).collect()
}

/// Returns a line of settings for each table of the manifest. The balancing policy comes first, as the most important
/// one.
pub(super) fn settings(upstream: &UpstreamStatus) -> Vec<String> {
    let mut tables = BTreeMap::<&str, Vec<String>>::new();
    for (key, value) in &upstream.settings {
        let (table, key) = key.split_once('.').unwrap_or(("", &**key));
        let settings = tables.entry(table).or_default();
        let at = if key == "policy" { 0 } else { settings.len() };
        settings.insert(at, format!("{key} {value}"));
    }
    if !tables.is_empty() {
        tables.entry("health").or_insert_with(|| vec!["none, without health.path".into()]);
    }
    let line = |(table, settings): (&str, Vec<String>)| {
        let table = if table.is_empty() { String::new() } else { format!("{table}: ") };
        format!("{table}{}", settings.join(", "))
    };
    tables.into_iter().map(line).collect()
}
