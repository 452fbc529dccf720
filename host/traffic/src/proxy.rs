//! What HTTP requires of every intermediary (RFC 9110 7.6): hop-by-hop headers, forwarding headers, `Via` and upgrades.

pub mod body;
pub mod cors;
pub mod headers;
pub mod outbound;
pub mod upgrade;
pub mod via;
