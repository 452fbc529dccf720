//! What every layer of the host uses. This crate names no other crate of the host.
//!
//! * Helpers: [`lock`], [`time`], [`clock`], [`files`], HTTP clients ([`http1`], [`fetch`]), [`ids`], [`tls`], [`budget`], [`slots`], lists in JSON of a [`bounded`] length, which [`address`]es are public, [`canonical`] forms of hosts and paths, which [`headers`] the host controls,
//!   changes of files of keys ([`key_changes`]), [`problems`] of files that settings name, texts that only hosts can read ([`sealing`]), tasks that are started again ([`lasting`]), and shutdown ([`drain`]).
//! * [`config`]: `lodge.toml`, flags and environment variables.
//! * [`telemetry`]: logs, metrics and traces.
//! * [`cpu`]: how much CPU time a thread has used, and which guest computes next.

pub mod accept;
pub mod address;
pub mod bounded;
pub mod budget;
pub mod canonical;
pub mod clock;
pub mod config;
pub mod cpu;
pub mod drain;
pub mod fetch;
pub mod files;
#[doc(hidden)]
pub mod fuzz;
pub mod headers;
pub mod http1;
pub mod ids;
pub mod key_changes;
pub mod lasting;
pub mod lock;
pub mod problems;
pub mod sealing;
pub mod slots;
pub mod telemetry;
pub mod time;
pub mod tls;
