//! What a request needs, wherever it comes from, and where it comes from.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;

use crate::guests::snapshot::Current;
use lodge_base::budget::Budget;
use lodge_base::config::ServiceHosts;
use lodge_base::ids::Ids;
use lodge_base::telemetry::logs::Logs;
use lodge_base::telemetry::metrics::Metrics;
use lodge_base::telemetry::traces::Tracer;
use lodge_traffic::admission::RequestView;
use lodge_traffic::cache::Responses;
use lodge_traffic::proxy::headers::Peer;
use lodge_traffic::proxy::via::Via;
use lodge_traffic::service::Service;

/// What a request needs, wherever it comes from.
pub struct Handler {
    /// What is served.
    pub current: Current,
    /// Peers that are believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Which clients may use the hosts that services have by their names.
    pub service_hosts: ServiceHosts,
    /// Where ids come from.
    pub ids: Ids,
    /// Where requests are counted that no service owns.
    pub nobody: Arc<Service>,
    /// What is counted of the host.
    pub metrics: Arc<Metrics>,
    /// Who follows them through many hosts.
    pub tracer: Tracer,
    /// Who wants to know of requests.
    pub logs: Arc<Logs>,
    /// What the host is called by who gets its requests.
    pub via: Arc<Via>,
    /// Whether clients are told why a file is refused.
    pub explains: bool,
    /// Answers that are kept, if any are.
    pub responses: Option<Arc<Responses>>,
    /// The bytes of complete responses that are not written yet: `listener.unsent`.
    pub unsent: Arc<Budget>,
}

/// Where a request comes from.
#[derive(Clone, Copy)]
pub struct Hop<'a> {
    /// Who sent it.
    pub peer: &'a Peer,
    /// The call that it is, when a guest of this host sent it.
    pub call: Option<&'a Call<'a>>,
}

/// A guest's request to another service of its host, and what it takes along.
pub struct Call<'a> {
    /// The host whose routes it goes by.
    pub host: &'a str,
    /// The id of the request that the caller is at work on.
    pub request_id: Arc<str>,
    /// When the caller's own time is up.
    pub deadline: Instant,
    /// How many calls there were before it, and itself.
    pub depth: usize,
}

impl Handler {
    /// A request as the policies of a service see it, by one of its routes.
    pub fn asked<'a>(&'a self, hop: Hop<'_>, headers: &'a HeaderMap, route: usize) -> RequestView<'a> {
        let proxies = hop.peer.is_trusted().then_some(&*self.trusted_proxies);
        let (peer, claimed, inside) = (hop.peer.address(), hop.peer.claimed(), hop.call.is_some());
        RequestView { peer, claimed, inside, proxies, headers, route }
    }
}
