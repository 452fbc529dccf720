//! Routing: which service responds to a request, and which version of it. Pure: no clock, no lock, no I/O.

pub mod router;
pub mod split;
