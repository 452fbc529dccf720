//! The path of a request, from its head to the last byte of its response.
//!
//! * [`exchange`] wraps every request, from a connection or from a guest of this host ([`call`]).
//! * [`handle`] is the path: it normalizes the head, and finds the service.
//! * [`identify`] finds out whose request it is, where that matters.
//! * `login` has the paths of a login, and the cookies of the host.
//! * `rules` evaluates the conditions of the manifest.
//! * `validate` reads the body, where it has to meet a schema.
//! * `front` changes heads as the manifest says, and finds redirects; `trailers` removes those that would stand for headers.
//! * [`admit`] waits for a permit, and sends the request and its copy.
//! * [`dispatch`] runs a guest or forwards the request to a replica ([`forward`]).
//! * [`cached`] returns a stored response, or stores that of the service.
//! * `compress` compresses the response, where the manifest says so.
//! * `pages` has what browsers get in place of an error.
//! * [`respond`] sends the response; [`record`] counts, logs and traces the request.
//! * [`error`] is the sum of all errors, with status and reason.
//! * [`message`] sends a message to the service that consumes it.
//! * [`mirror`] sends a copy of a request to another version; [`tunnel`] carries a connection that has switched
//!   protocols.
//!
//! This module reads snapshots and never publishes one.

pub mod admit;
pub mod cached;
pub mod call;
mod compress;
pub mod dispatch;
pub mod error;
pub mod exchange;
pub mod forward;
mod front;
pub mod handle;
pub mod handler;
pub mod identify;
mod login;
pub mod message;
pub mod mirror;
mod pages;
pub mod record;
pub mod respond;
mod rules;
mod trailers;
pub mod tunnel;
mod validate;

#[cfg(test)]
mod tests;
