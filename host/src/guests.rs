//! From files in the directory to services.
//!
//! [`watch`] tells when to scan, and [`scan`] reads the directory. [`ledger`] compares what is on disk with what is
//! served, [`reconcile`] deploys what is new, and [`publisher`] publishes all that can be served as one immutable
//! [`snapshot`]. [`rollout`] compares versions. Nothing here sees a request, and everything follows the files, never
//! the contents of an event.

pub mod absent;
pub mod backend;
pub mod blobs;
pub mod builds;
pub mod changes;
mod claims;
pub mod configurations;
pub mod databases;
pub mod deployer;
mod deployments;
pub mod doubts;
pub mod ledger;
pub mod login_paths;
pub mod placement;
pub mod postgres;
pub mod publisher;
mod reader;
pub mod reconcile;
pub mod remote;
pub mod rollout;
pub mod scan;
pub mod service_files;
pub mod snapshot;
mod state_directory;
pub mod stores;
pub mod target;
pub mod trust;
pub mod volumes;
pub mod watch;
