//! The promises of Lodge, end to end: one program, a group per page of the docs, a file per promise.
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

/// What a client sees of HTTP: docs/guide.md and docs/errors.md.
mod http {
    mod connections;
    mod content_length;
    mod errors;
    mod grpc;
    mod normalization;
    mod routing;
    mod slow_readers;
    mod streaming;
    mod upgrade;
}

/// Files become services: docs/directory.md and docs/manifest.md.
mod directory {
    mod changes;
    mod compilation;
    mod idle_unload;
    mod manifest_edits;
    mod manifest_keys;
    mod refused_files;
}

/// What a guest cannot do, whatever it does: docs/security.md.
mod sandbox {
    mod cpu_shares;
    mod engine_faults;
    mod instance_pool;
    mod isolation;
    mod limits;
}

/// Which requests are admitted: docs/policies.md.
mod policies {
    mod admission;
    mod breaker;
    mod concurrency;
}

/// Several versions of one service: docs/versions.md.
mod versions {
    mod commands;
    mod traffic_split;
}

/// Services whose replicas run elsewhere: docs/upstreams.md.
mod upstreams {
    mod balancing;
    mod bodies;
    mod failover;
    mod loop_detection;
}

/// Requests that guests send: docs/calls.md.
mod calls {
    mod grants;
    mod limits;
    mod local;
    pub(crate) mod outgoing;
}

/// Responses that are stored: docs/caching.md.
mod caching {
    mod collapsing;
    mod invalidation;
    pub(crate) mod reuse;
}

/// Running a host: docs/operate.md.
mod operate {
    mod admin_api;
    mod api_contract;
    mod drain;
    mod memory;
    mod page;
    mod rollout_status;
}

/// Logs, metrics and traces: docs/observe.md.
mod observe {
    mod dashboards;
    mod logs;
    pub(crate) mod metrics;
    pub(crate) mod traces;
}

/// Commands, and what they print: docs/operate.md and docs/configuration.md.
mod cli {
    mod local;
    mod remote;
}

/// The repository itself: docs/contributing.md.
mod repo {
    mod docs;
    mod features;
    mod layers;
    mod tidy;
}
