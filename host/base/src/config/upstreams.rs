//! `[upstreams]`: connections to replicas.

use super::key::{Key, count};

/// Connections to replicas, for all services together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstreams {
    /// The most connections to replicas; an HTTP/2 connection counts as four.
    pub connections: usize,
}

/// Every setting, in the order of the docs.
pub(super) const KEYS: &[Key<Upstreams>] = &[Key {
    name: "connections",
    default: "4096",
    help: "connections to the replicas of all services; an HTTP/2 connection counts as four. Beyond it idle ones are closed, then requests wait",
    set: |c, text| count(text, 4..=1_000_000).map(|value| c.connections = value),
}];
