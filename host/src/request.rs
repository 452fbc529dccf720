//! The path of one request, from its head to the last byte of its response.
//!
//! [`exchange`] is around each request, whether a connection brought it or a guest of this host sent it ([`call`]). [`handle`]
//! is the path itself: the head arrives in its canonical form, the router finds the service, admission gives a permit, and
//! [`dispatch`] has a guest answer, or a replica ([`forward`]), and [`cached`] is around these two where responses are stored. [`respond`] sends the response, and [`record`] knows what
//! happened, [`error`] all ways in which it can fail. [`mirror`] runs a copy of a request for another version; [`tunnel`] passes bytes of a connection that has become
//! something else. Nothing here changes a snapshot.

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
