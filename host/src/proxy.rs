//! What every intermediary owes its client and what is behind it (RFC 9110 7.6): headers, `Via` and the switch of protocols.

pub mod headers;
pub mod outbound;
pub mod upgrade;
pub mod via;
