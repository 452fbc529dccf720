//! PostgreSQL: the conformance suite, outages, and what only this backend promises, with a real server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panics"
)]

mod conformance;
mod cost;
mod databases;
mod outages;
mod queues;
mod refusals;
mod server;
mod tls;
mod values;
