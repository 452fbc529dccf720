//! Guests at work: machine code from components, and sandboxes that run it. Everything that touches wasmtime is here or in
//! [`capabilities`](crate::capabilities).

pub mod answer;
pub mod body;
pub mod code_cache;
pub mod compile;
pub mod guest;
pub mod instance;
pub mod optimiser;
mod pool;
pub mod trial;
