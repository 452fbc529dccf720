//! The parts of the host that every request uses, and the sender of a request.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::HeaderMap;

use crate::audit::AuditTrail;
use crate::certificates::acme::proofs::Proofs;
use crate::guests::remote::RemoteServices;
use crate::guests::snapshot::Current;
use crate::guests::target::Target;
use lodge_base::budget::Budget;
use lodge_base::config::ServiceHosts;
use lodge_base::ids::Ids;
use lodge_base::telemetry::logs::Logs;
use lodge_base::telemetry::metrics::Metrics;
use lodge_base::telemetry::traces::Tracer;
use lodge_traffic::admission::RequestView;
use lodge_traffic::admission::client_memory::ClientMemory;
use lodge_traffic::admission::rate::FailedAttempts;
use lodge_traffic::auth::RequestSender;
use lodge_traffic::cache::ResponseCache;
use lodge_traffic::error_pages::PageSet;
use lodge_traffic::proxy::cluster_hop::ClusterHop;
use lodge_traffic::proxy::headers::Peer;
use lodge_traffic::proxy::via::Via;
use lodge_traffic::service::Service;
use lodge_traffic::upstreams::discover::cluster::ServingHosts;
use lodge_traffic::validation::room::ValidationRoom;

/// The parts of the host that requests use.
pub struct Handler {
    /// The snapshot of what is served.
    pub current: Current,
    /// The services of other hosts of the cluster, for calls; empty outside of a cluster.
    pub remote: OnceLock<RemoteServices>,
    /// What is known of the other hosts of the cluster, if the host is in one.
    pub cluster: Option<ServingHosts>,
    /// The peers whose forwarding headers are trusted.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// The public port of HTTPS, if requests without TLS are redirected to it.
    pub redirect: Option<u16>,
    /// The proofs for orders of certificates, if the host gets any from an authority.
    pub proofs: Option<Arc<Proofs>>,
    /// The value of `Strict-Transport-Security` in responses over TLS.
    pub hsts: Option<http::HeaderValue>,
    /// The clients that may reach a service by its host name.
    pub service_hosts: ServiceHosts,
    /// The audit trail, if there is one.
    pub audit: Option<Arc<AuditTrail>>,
    /// The failed attempts at credentials, by client; `None` if any number is allowed.
    pub failed_attempts: Option<FailedAttempts>,
    /// Generates request ids.
    pub ids: Ids,
    /// Counts requests that no service is known for.
    pub unmatched: Arc<Service>,
    /// The counters of the host.
    pub metrics: Arc<Metrics>,
    /// Starts and exports traces.
    pub tracer: Tracer,
    /// The log.
    pub logs: Arc<Logs>,
    /// The name of this host in `Via`.
    pub via: Arc<Via>,
    /// Whether clients see the reason why a service's files are refused.
    pub explains: bool,
    /// The response cache, unless `responses.memory` is 0.
    pub responses: Option<Arc<ResponseCache>>,
    /// The bytes of complete responses that are not written yet: `listener.unsent`.
    pub unsent: Arc<Budget>,
    /// The memory of encoders that compress responses: `listener.compression`.
    pub compression: Arc<ClientMemory>,
    /// What the validation of request bodies uses.
    pub validation: ValidationRoom,
    /// The pages for errors, where a service has none of its own.
    pub pages: PageSet,
}

/// The sender of a request. Resolved once, when the request arrives.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// The peer of the connection, or the service of this host that sent the request.
    pub peer: &'a Peer,
    /// The call between services, if a guest of this host sent the request.
    pub call: Option<&'a Call<'a>>,
    /// The client's address, by which policies, versions and replicas know it.
    pub client: IpAddr,
}

/// A request of a guest to another service of its host.
pub struct Call<'a> {
    /// The host name that selects the service.
    pub host: &'a str,
    /// The service of other hosts with this name, if this host has none.
    pub elsewhere: Option<&'a Arc<Target>>,
    /// The service that calls; `None` for a message or a schedule of the host.
    pub from: Option<&'a str>,
    /// The id of the request that the calling guest handles. The call has the same id.
    pub request_id: Arc<str>,
    /// The deadline of the calling request.
    pub deadline: Instant,
    /// The number of calls that led here, this one included.
    pub depth: usize,
}

/// What another host of the cluster says of a request that it forwards.
#[derive(Clone, Debug, PartialEq)]
pub struct HostWord {
    /// When the time is over that it has for the request.
    pub until: Instant,
    /// The service of that host that calls.
    pub calling: Option<Box<str>>,
}

impl Handler {
    /// Returns what a host says of a request that arrives now, if it has the key of a host of the cluster. Anybody else could open a breaker
    /// by little time, hide that a service hangs, or be taken for another service. Whether its address is that of clients as well says
    /// nothing.
    pub fn word_of(&self, hop: &ClusterHop, now: Instant) -> Option<HostWord> {
        let hosts = self.cluster.as_ref()?;
        let name = hosts.host(hop.key.as_ref()?)?;
        let calling = hop.from.clone().filter(|service| hosts.has(service, &name));
        Some(HostWord { until: now + hop.left, calling })
    }
}

impl Caller<'_> {
    /// Returns the sender, for the check of its credentials.
    pub fn sender(&self) -> RequestSender<'_> {
        match self.call {
            None => RequestSender::Client(self.peer.client_certificate()),
            Some(call) => call.from.map_or(RequestSender::Host, RequestSender::Service),
        }
    }

    /// Returns what the policies of a service see of a request with these headers, before it is known whose it is.
    /// `route` is the number of the route that matched.
    pub fn view<'a>(&self, headers: &'a HeaderMap, route: usize) -> RequestView<'a> {
        let (claimed, inside) = (self.peer.claimed(), self.call.is_some());
        RequestView { client: self.client, claimed, calling: None, inside, headers, route, identity: None }
    }
}
