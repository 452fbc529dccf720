//! Guests at work: machine code from components, the sandboxes that run it, and what a guest may import.
//!
//! * [`capabilities`]: the interfaces that guests import, with what each of them is granted.
//! * [`outgoing`]: HTTP requests that guests send.
//! * The other modules compile components and run instances.

pub mod body;
pub mod capabilities;
pub mod code_cache;
pub mod compile;
pub mod error;
mod exports;
pub mod guest;
pub mod instance;
pub mod optimiser;
pub mod outgoing;
mod pool;
pub mod response;
pub mod trial;
