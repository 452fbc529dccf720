//! The requests of a service, what they used, and what it has stored, as lines.

use std::time::{Duration, SystemTime};

use super::push_item;
use crate::admin::contract::{CacheCounts, MessageCounts, PolicyStatus, ServiceActivity, StoredCounts};
use crate::cli::units::{ago, bytes, count, millis, seconds};

/// Adds requests, latency and resource use.
pub(super) fn push(text: &mut String, activity: &ServiceActivity, now: SystemTime) {
    let ServiceActivity { requests, errors, in_flight, queued, .. } = activity;
    push_item(text, "requests", [format!("{requests}, {errors} errors; {in_flight} in flight, {queued} queued")]);
    push_item(text, "latency", [format!("p50 {}, p99 {}", millis(activity.p50_ms), millis(activity.p99_ms))]);
    if activity.replicas.is_none() {
        push_item(text, "CPU", [seconds(activity.cpu_seconds)]);
        push_item(text, "memory", [bytes(activity.memory_bytes)]);
    }
    push_item(text, "bodies", [format!("{} in, {} out", bytes(activity.bytes_in), bytes(activity.bytes_out))]);
    let cached = activity.cached.iter().map(|CacheCounts { entries, bytes: size, hits, misses }| {
        let plural = if *misses == 1 { "miss" } else { "misses" };
        format!("{entries}, {}; {}, {misses} {plural}", bytes(*size), count(*hits, "hit"))
    });
    push_item(text, "cache", cached);
    let stored = activity.stored.iter().map(|StoredCounts { keys, bytes: size, most_keys, most_bytes }| {
        format!("{keys} of {most_keys} keys, {} of {}", bytes(*size), bytes(*most_bytes))
    });
    push_item(text, "stored", stored);
    push_item(text, "messages", activity.messages.iter().map(messages));
    let refusal = activity.last_refusal.iter().map(|last| {
        let detail = last.detail.as_ref().map_or(String::new(), |detail| format!(" ({detail})"));
        format!("{}{detail}, {}", last.reason, ago(&last.at, now))
    });
    push_item(text, "last refusal", refusal);
}

/// Formats the counts of messages.
fn messages(counts: &MessageCounts) -> String {
    let MessageCounts { waiting, in_flight, dead, bytes: size, oldest_ms } = *counts;
    let oldest = humantime::format_duration(Duration::from_secs(oldest_ms / 1000));
    let backlog = (waiting + in_flight > 0).then(|| format!("; {}, the oldest {oldest} old", bytes(size)));
    format!("{waiting} wait, {in_flight} in flight, {dead} dead{}", backlog.unwrap_or_default())
}

/// Formats a policy with its settings and state.
pub(super) fn policy(policy: &PolicyStatus) -> String {
    let route = policy.route.as_ref().map_or(String::new(), |route| format!("{route} "));
    let state = policy.state.as_ref().map_or(String::new(), |state| format!(": {state}"));
    format!("{route}{} {}{state}", policy.policy, policy.settings)
}
