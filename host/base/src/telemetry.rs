//! Logs, traces and metrics of the host. The module `admin` exposes them.

pub mod logs;
pub mod metrics;
pub mod traces;
