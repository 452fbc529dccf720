//! The end-to-end tests: one program, one group per page of the docs, one file per promise.
//!
//! Guests are built once per run. A host is started in this process on port 0, or as the real binary where the promise
//! is about a process (memory, signals, output).

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

/// HTTP as clients see it: docs/guide.md and docs/errors.md.
mod http {
    mod acme;
    mod client_certificates;
    mod compression;
    mod connections;
    mod content_length;
    mod cors;
    mod error_pages;
    mod errors;
    mod front;
    mod grpc;
    mod normalization;
    mod proxy_protocol;
    mod routing;
    mod slow_readers;
    mod static_files;
    mod streaming;
    mod tls;
    mod upgrade;
}

/// From files to services: docs/directory.md and docs/manifest.md.
mod directory {
    mod changes;
    mod compilation;
    mod idle_unload;
    mod manifest_edits;
    mod manifest_keys;
    mod middleware;
    pub(crate) mod refused_files;
    mod registry;
    mod signatures;
    mod whole_worlds;
}

/// What no guest can do: docs/security.md.
mod sandbox {
    mod cpu_shares;
    mod engine_faults;
    mod full_tables;
    mod instance_pool;
    mod isolation;
    mod limits;
}

/// Admission of requests: docs/policies.md.
mod policies {
    mod admission;
    pub(crate) mod auth;
    mod breaker;
    mod certificates;
    mod concurrency;
    mod forged_headers;
    mod header_parameters;
    mod jwt;
    mod login;
    mod login_attacks;
    mod passwords;
    mod rules;
    mod validation;
}

/// Several versions of one service: docs/versions.md.
mod versions {
    mod commands;
    pub(crate) mod traffic_split;
}

/// Services whose replicas run elsewhere: docs/upstreams.md.
mod upstreams {
    mod balancing;
    mod bodies;
    mod failover;
    mod kubernetes;
    mod loop_detection;
    mod mesh;
}

/// Requests that guests send: docs/calls.md.
mod calls {
    mod grants;
    mod limits;
    pub(crate) mod local;
    pub(crate) mod outgoing;
}

/// Stored responses: docs/caching.md.
mod caching {
    mod collapsing;
    mod invalidation;
    pub(crate) mod reuse;
}

/// What services keep: docs/state.md.
mod state {
    mod blobs;
    mod config;
    mod files;
    mod isolation;
    mod keyvalue;
    mod locks;
    mod postgres;
    mod postgres4;
    mod postgres_wasmcloud;
    mod s3;
    mod samples;
    pub(crate) mod servers;
    mod shared;
    mod sqlite;
    mod users;
}

/// Messages between services: docs/messages.md.
mod messages {
    mod at_most_once;
    mod consume;
    mod dead;
    mod handler;
    mod handler3;
    mod inbound;
    mod publish;
    mod restart;
    mod schedule;
    #[cfg(any(feature = "nats", feature = "redis"))]
    mod shared;
}

/// Hosts that know each other: docs/cluster.md.
mod cluster {
    #[cfg(feature = "redis")]
    mod calls;
    mod members;
}

/// Running a host: docs/operate.md.
mod operate {
    mod admin_access;
    mod admin_api;
    mod api_contract;
    mod audit;
    mod compose;
    mod data;
    mod drain;
    mod file_problems;
    mod memory;
    mod page;
    mod rollout_status;
    mod systemd;
}

/// Deploying on hosts elsewhere: docs/deploy.md.
mod deploy {
    mod mistakes;
    mod pipeline;
    mod taken_back;
}

/// Logs, metrics and traces: docs/observe.md.
mod observe {
    mod dashboards;
    mod guest_spans;
    mod logs;
    pub(crate) mod metrics;
    mod operations;
    pub(crate) mod traces;
}

/// Commands and their output: docs/operate.md and docs/configuration.md.
mod cli {
    mod check;
    mod elsewhere;
    mod local;
    mod remote;
    mod start;
}

/// The repository itself: docs/contributing.md.
mod repo {
    mod circles;
    mod docs;
    mod features;
    mod layers;
    mod tidy;
}
