//! Which service answers a request, and which version of it. Pure.

pub mod router;
pub mod split;
