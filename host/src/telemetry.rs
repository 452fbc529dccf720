//! Logs, traces and counters: what the host records of itself. The admin room reads them.

pub mod logs;
pub mod metrics;
pub mod traces;
