//! The request path from the head to the end of the response, in memory: without connections, guests and replicas.
//!
//! Every service is an upstream whose list of replicas is empty, so an admitted request fails with `no-replica`. A
//! response comes from the cache.

mod audited;
mod cache;
mod deadlines;
mod fixture;
mod forwarded;
mod mirroring;
mod permits;
mod rules;
mod statuses;
mod validation;
