//! The common parts of backends for servers, independent of the server's protocol.
//!
//! * [`ServerUrl`] reads URLs, with errors that do not repeat passwords; [`Tls`] and [`connect`] open connections.
//! * [`Links`] keeps a fixed number of connections open. It replaces those that are lost or silent, with growing pauses, and
//!   every operation ends at its deadline meanwhile.
//! * [`RemoteSpaces`] bounds the operations in progress, of all services and of each.
//! * [`Receivers`] waits for messages on a server that does not tell of them.
//! * With the feature `testing`, [`testing`] starts real servers, and has the tests of outages.

mod backoff;
mod connect_failure;
mod links;
mod receivers;
mod spaces;
mod stream;
#[cfg(feature = "testing")]
pub mod testing;
mod tls;
mod url;

pub use backoff::Backoff;
pub use connect_failure::ConnectFailure;
pub use links::{LinkFailure, Links, OpenedLink, ServerConnector};
pub use receivers::{PRESENCE, RECEIVE_TIMEOUT, Receivers, SettlementArguments};
pub use spaces::{OperationPermit, RemoteSpace, RemoteSpaces};
pub use stream::{ServerStream, Unanswered, connect};
pub use tls::{Tls, TlsError};
pub use url::{Password, ServerUrl, UrlError, UrlScheme};
