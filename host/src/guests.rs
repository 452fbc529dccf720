//! The path of a file in the directory to a service that answers.
//!
//! [`watch`] says when to look, and [`scan`] looks. [`ledger`] holds what is on disk against what is served, [`reconcile`] has
//! new components compiled, and [`publisher`] publishes all that can be served as one immutable [`snapshot`]. [`rollout`]
//! compares versions. Nothing here sees a request, and everything follows what is in the
//! directory, never what an event said.

pub mod absent;
pub mod backend;
pub mod builds;
pub mod changes;
mod compiling;
pub mod deployer;
pub mod ledger;
pub mod publisher;
mod reader;
pub mod reconcile;
pub mod rollout;
pub mod scan;
pub mod snapshot;
pub mod target;
pub mod watch;
