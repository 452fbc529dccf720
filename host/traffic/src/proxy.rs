//! What HTTP requires of every intermediary (RFC 9110 7.6): hop-by-hop headers, forwarding headers, `Via` and upgrades; what
//! hosts of a cluster say of the requests that they forward; lists
//! in headers, content codings and compression, the memory of frames, and pages of other origins.

pub mod body;
pub mod cluster_hop;
pub mod coding;
pub mod compression;
pub mod cors;
pub mod frames;
pub mod header_rules;
pub mod headers;
pub mod host_key;
pub(crate) mod lists;
pub mod outbound;
pub mod upgrade;
pub mod via;
