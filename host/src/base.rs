//! Helpers without dependencies on other modules of the host: locks, time, files, ids, TLS, task supervision, shutdown.

pub mod budget;
pub mod canonical;
pub mod clock;
pub mod drain;
pub mod files;
#[doc(hidden)]
pub mod fuzz;
pub mod ids;
pub mod lasting;
pub mod lock;
pub mod time;
pub mod tls;
