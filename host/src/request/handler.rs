//! The frame around a request, whether a connection brought it or a guest sent it: an id, a clock, a trace, and an `Err`
//! made into a response once.

use std::sync::Arc;
use std::time::Instant;

use http::header::HeaderValue;
use http::{HeaderMap, Request, Response};
use http_body::Body as _;

use super::handle::handle;
use super::record::Record;
use super::respond::{self, Body, Reserve};
use crate::admission::RequestView;
use crate::base::budget::Budget;
use crate::base::ids::Ids;
use crate::cache::Responses;
use crate::config::ServiceHosts;
use crate::guests::snapshot::Current;
use crate::proxy::headers::{Peer, REQUEST_ID};
use crate::proxy::via::Via;
use crate::runtime::body::RequestBody;
use crate::service::Service;
use crate::telemetry::logs::Logs;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Tracer;

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

    /// Answers one request: the only place where a failure becomes a response.
    pub async fn answer<B: RequestBody>(&self, hop: Hop<'_>, mut request: Request<B>) -> Response<Body> {
        // A guest that reaches the listener from a trusted address is no proxy. A client can forge the mark of a guest, so policies
        // have to admit both addresses. Rare, hence the box.
        let guest = hop.peer.is_trusted() && self.via.is_from_guest(request.headers());
        let distrusted = guest.then(|| {
            let claimed = self.asked(hop, request.headers(), usize::MAX).client();
            Box::new(hop.peer.distrusted(claimed))
        });
        let hop = Hop { peer: distrusted.as_deref().unwrap_or(hop.peer), ..hop };
        let id = match hop.call {
            Some(call) => Arc::clone(&call.request_id),
            None => hop.peer.request_id(request.headers()).map_or_else(|| self.ids.request(), Arc::from),
        };
        // The id is made of hexadecimal digits, or was a header already.
        let id_header = HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("invalid"));
        request.headers_mut().insert(REQUEST_ID, id_header.clone());
        let version = request.version();
        let mut record = Record::new(Arc::clone(&id), self.tracer.begin(request.headers_mut()));
        let mut response = match handle(self, hop, request, &mut record).await {
            Ok(response) => response,
            Err(error) => {
                record.failed(&error, &self.nobody, hop.peer.address());
                let mut problem = respond::problem(&error, &id);
                let reserve = Reserve { version, unsent: &self.unsent };
                let bytes = problem.body().size_hint().exact().unwrap_or_default();
                if !problem.body_mut().count(bytes.try_into().unwrap_or(usize::MAX), reserve) {
                    // The status says most of it, and a head needs no window.
                    *problem.body_mut() = Body::text(None);
                }
                problem
            }
        };
        record.answered(response.status());
        response.headers_mut().insert(REQUEST_ID, id_header);
        response.map(|body| body.with(record))
    }
}
