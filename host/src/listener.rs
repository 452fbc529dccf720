//! Connections: accepting, reading within a bound of memory, and closing idle or stalled ones.

pub mod accept;
pub mod activity;
pub mod connection;
pub mod held;
pub mod intake;
pub mod places;
pub mod proxy_protocol;
pub mod tls;
pub mod transfer;
