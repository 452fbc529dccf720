//! What every request needs, and who sent it.

use std::net::IpAddr;
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
use lodge_traffic::cache::ResponseCache;
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
    pub responses: Option<Arc<ResponseCache>>,
    /// The bytes of complete responses that are not written yet: `listener.unsent`.
    pub unsent: Arc<Budget>,
}

/// Who sent a request. It is resolved once, when the request arrives.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// The peer of the connection, or the service of this host that sent the request.
    pub peer: &'a Peer,
    /// The call between services, if a guest of this host sent the request.
    pub call: Option<&'a Call<'a>>,
    /// The client's address, by which policies, versions and replicas know it.
    pub client: IpAddr,
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

impl Caller<'_> {
    /// Returns a request with these headers as the policies of its service see it, by the route with this number.
    pub fn view<'a>(&self, headers: &'a HeaderMap, route: usize) -> RequestView<'a> {
        RequestView { client: self.client, claimed: self.peer.claimed(), inside: self.call.is_some(), headers, route }
    }
}
