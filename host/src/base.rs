//! What every room may use, and what uses no room: locks, time, files, ids, TLS, and the life of tasks and hosts.

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
