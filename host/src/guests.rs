//! The story of a guest: a file in the directory becomes something that answers.
//!
//! [`watch`] says when to look; [`load`] scans the directory and reads each [`manifest`]; [`ledger`] holds that against
//! what is served; [`compile`] makes a guest of each file, off the request path and bounded, or finds it in the
//! [`cache`]; `compiling` says what came of it; [`snapshot`] publishes what can be served as one immutable value, and [`report`] puts that into words. Nothing here ever sees a request,
//! and it acts on what is in the directory, never on what an event said.

pub mod absent;
pub mod backend;
pub mod builds;
pub mod changes;
mod compiling;
pub mod ledger;
pub mod publisher;
mod reader;
pub mod reconcile;
pub mod report;
pub mod rollout;
pub mod scan;
pub mod snapshot;
pub mod target;
pub mod watch;
