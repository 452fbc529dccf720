//! S3: the conformance suite, outages, crashes, and what only this backend promises, with a real server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panics"
)]

mod conformance;
mod crashes;
mod lost;
mod moves;
mod outages;
mod quotas;
mod server;
mod tls;
