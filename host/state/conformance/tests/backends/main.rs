//! The embedded backends: the conformance suite, and what only they promise.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panics"
)]

mod blobs;
mod crash;
mod crash_messages;
mod damage;
mod files;
mod memory;
mod sqlite;
