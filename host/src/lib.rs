//! Lodge: a native host for microservices that are WebAssembly components.
//!
//! Copy `users.wasm` into a directory, and the host serves `/users`, each request in a sandbox of its own.
//!
//! There are two flows, with one module for every step, listed in the order in which data passes through them:
//!
//! * A **request** ([`request`]): accept → route → admit → instantiate → call → respond. Read [`request::handle`] first: it
//!   is the whole path.
//! * A **guest** ([`guests`]): watch → load → compile → publish.
//!
//! They share one immutable value, [`guests::snapshot::Snapshot`]: `guests` publishes it, `request` reads it.
//!
//! What is always true:
//!
//! * Holding a value is the proof. A [`Permit`](lodge_traffic::admission::Permit) was admitted, a [`Guest`](lodge_runtime::guest::Guest) can be
//!   served, an [`Instance`](lodge_runtime::instance::Instance) owns its store.
//! * Every queue, buffer, body and wait has a named bound in [`lodge_base::config`], or a constant beside its use.
//! * Every failure of a request is a [`RequestError`](request::error::RequestError). It becomes a response in one place, and its public
//!   text contains nothing about the host or the guest's internals.
//!
//! `docs/architecture.md` has the map of the modules, one request step by step, and the glossary. `docs/decisions.md` says why
//! things are as they are, and `docs/performance.md` what was tried on the request path.

pub mod admin;
pub mod audit;
pub mod certificates;
pub mod cli;
pub mod cluster;
pub mod data;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod guests;
pub mod host;
pub mod listener;
pub mod messages;
pub mod registry;
pub mod request;
