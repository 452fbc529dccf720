//! The promises of Lodge, end to end: one binary, a file per promise.
//!
//! Guests are built once per run; a host is started in this process on port 0, or as the real binary where the
//! promise is about a process (memory, signals, what is printed).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and may block its own thread"
)]

mod harness;

mod aborts;
mod admin;
mod breakers;
mod cache;
mod call_limits;
mod calls;
mod cli;
mod collapsing;
mod compiling;
mod console;
mod deploy;
mod docs;
mod drain;
mod edits;
mod errors;
mod failures;
mod fairness;
mod files;
mod flow;
mod grants;
mod grpc;
mod habits;
mod http;
mod idle;
mod invalidation;
mod isolation;
mod lengths;
mod limits;
mod live;
mod logs;
mod loops;
mod manifests;
mod memory;
mod metrics;
mod outgoing;
mod page;
mod pool;
mod rollouts;
mod serving;
mod shown;
mod spellings;
mod stalls;
mod streaming;
mod tidy;
mod traces;
mod tunnels;
mod uploads;
mod upstreams;
mod versions;
