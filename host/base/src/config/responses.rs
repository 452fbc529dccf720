//! `[responses]`: the response cache.

use super::key::{Key, size};

/// The response cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Responses {
    /// The most bytes of all entries, including those being recorded; 0 disables the cache.
    pub memory: usize,
    /// The most bytes of one entry, head and body.
    pub entry: usize,
}

/// Every setting, in the order of the docs.
pub(super) const KEYS: &[Key<Responses>] = &[
    Key {
        name: "memory",
        default: "64MiB",
        help: "memory for stored responses, all services together; 0 stores none, whatever manifests say",
        set: |c, text| size(text, 0..=1 << 40).map(|value| c.memory = value),
    },
    Key {
        name: "entry",
        default: "1MiB",
        help: "size of a response that is stored; at most a quarter of `responses.memory`",
        set: |c, text| size(text, 1 << 10..=1 << 30).map(|value| c.entry = value),
    },
];
