//! The story of a guest: a file in the directory becomes something that answers.
//!
//! [`load`] scans the directory and reads each [`manifest`]; [`compile`] makes a guest of each file, off the request
//! path and bounded; [`snapshot`] publishes what can be served as one immutable value. Nothing here ever sees a
//! request. It acts on what is in the directory, never on what an event said, so watching it (to come) only has
//! to say *when* to look.

pub mod compile;
pub mod load;
pub mod manifest;
pub mod snapshot;
