//! CPU time: measures it per request, and schedules guests that compute for long.

pub mod meter;
pub mod scheduler;
pub mod turn;
