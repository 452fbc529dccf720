//! The parts of a request that policies use.

use std::net::IpAddr;

use http::HeaderMap;

use crate::auth::identity::Identity;

/// A request as policies see it.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// The client address in forwarding headers that are not trusted. `allow`, `deny` and rates by client apply to it
    /// as well as to `client`.
    pub claimed: Option<IpAddr>,
    /// A guest of this host sent the request. Its own manifest grants the call, and no network is between.
    pub inside: bool,
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// The number of the service's route that matched, in the order of the manifest; any number that no route has means
    /// none.
    pub route: usize,
    /// Whose request it is, if its route needs credentials.
    pub identity: Option<&'a Identity>,
}
