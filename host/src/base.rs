//! Helpers without dependencies on other modules of the host: locks, time, files, ids, TLS, task supervision, shutdown.

pub mod budget;
pub mod canonical;
pub mod clock;
pub mod drain;
pub mod files;
pub mod ids;
pub mod lasting;
pub mod lock;
pub mod time;
pub mod tls;
