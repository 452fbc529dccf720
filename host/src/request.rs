//! The path of one request, from its head to the last byte of its response.
//!
//! * [`exchange`] wraps every request: those of connections, and those that guests of this host send ([`call`]).
//! * [`handle`] is the path. It normalises the head, finds the service, and asks admission for a permit.
//! * [`dispatch`] runs a guest or forwards the request to a replica ([`forward`]); [`cached`] looks for a stored response first.
//! * [`respond`] sends the response, and [`record`] counts and logs what happened.
//! * [`error`] lists all ways in which a request can fail.
//! * [`mirror`] sends a copy of a request to another version; [`tunnel`] carries a connection that has switched protocols.
//!
//! Nothing here publishes a snapshot.

pub mod cached;
pub mod call;
pub mod dispatch;
pub mod error;
pub mod exchange;
pub mod forward;
pub mod handle;
pub mod handler;
pub mod mirror;
pub mod record;
pub mod respond;
pub mod tunnel;
