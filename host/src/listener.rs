//! Connections: how they are accepted, what of them is read and kept, and when they have idled too long.

pub mod accept;
pub mod activity;
pub mod connection;
pub mod held;
pub mod intake;
pub mod transfer;
