//! The story of a request, in the order of the files.
//!
//! [`accept`] takes a connection, [`serve`] speaks HTTP on it while [`activity`] watches how long the client takes, and
//! [`transfer`] how much of its responses;
//! [`frame`] is around each request, and around those that guests send to each other; [`handle`] is the path itself: [`headers`] make the head into what the guest sees, its host and path in their
//! [`canonical`] forms, [`route`]
//! finds who answers, admission lets it in, [`instance`] runs the guest with the request's [`body`] until there is an
//! [`answer`], and [`respond`] sends it; or [`forward`] passes it on to a replica elsewhere, which [`via`] keeps from
//! becoming a circle. Nothing here ever changes a snapshot.

pub mod call;
pub mod dispatch;
pub mod exchange;
pub mod forward;
pub mod handle;
pub mod handler;
pub mod mirror;
pub mod record;
pub mod respond;
pub mod tunnel;
