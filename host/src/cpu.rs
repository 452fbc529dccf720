//! Processor time: how much a request has used, and which of the requests that compute for long may run.

pub mod meter;
pub mod scheduler;
