//! What is around a request, whether a connection brought it or a guest sent it: an id, a clock, a trace, and an error that
//! becomes a response in one place.

use std::sync::Arc;

use http::header::HeaderValue;
use http::{Request, Response};
use http_body::Body as _;

use super::handle::handle;
use super::handler::{Handler, Hop};
use super::record::Record;
use super::respond::{self, Body, Reserve};
use lodge_runtime::body::RequestBody;
use lodge_traffic::proxy::headers::REQUEST_ID;

impl Handler {
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
