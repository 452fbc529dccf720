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
    /// The service of another host of the cluster that calls: rates by client tell the services of a host apart.
    pub calling: Option<&'a str>,
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

impl<'a> RequestView<'a> {
    /// Returns the view of a request that this client has sent itself, without credentials, to the first route.
    pub fn new(client: IpAddr, headers: &'a HeaderMap) -> Self {
        Self { client, claimed: None, calling: None, inside: false, headers, route: 0, identity: None }
    }
}
