//! Wraps every request, from a connection or from a guest: adds its id, its record and its trace. Failures become
//! responses here, and nowhere else.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, HeaderValue, STRICT_TRANSPORT_SECURITY};
use http::uri::Scheme;
use http::{Method, Request, Response, Version};
use http_body::Body as _;

use super::compress::compress;
use super::handle::handle;
use super::handler::{Call, Caller, Handler};
use super::login::add_session;
use super::pages::ErrorPages;
use super::record::Record;
use super::respond::{self, Body, Reserve};
use crate::request::error::RequestError;
use lodge_base::accept;
use lodge_runtime::body::RequestBody;
use lodge_traffic::proxy::headers::{Peer, REQUEST_ID};

/// What the response to a request that fails depends on, besides the error.
#[derive(Clone, Copy)]
struct ErrorForm {
    version: Version,
    /// Whether the request is for a head alone.
    head_only: bool,
    /// Whether the client gets pages of the host; `None` if nobody does.
    browser: Option<bool>,
}

impl Handler {
    /// Returns the response to a request of `peer`. `call` is the call between services, if the peer is a service of
    /// this host.
    pub fn respond<'a, B: RequestBody>(
        &'a self,
        peer: &'a Peer,
        call: Option<&'a Call<'a>>,
        mut request: Request<B>,
    ) -> impl Future<Output = Response<Body>> {
        let client = peer.client(request.headers(), &self.trusted_proxies);
        // A request with the mark of a guest from a trusted address does not come from a proxy, so its forwarding
        // headers are not trusted. A client can forge the mark: policies must admit both addresses. This is rare, so it
        // is boxed.
        let guest = peer.is_trusted() && self.via.is_from_guest(request.headers());
        let distrusted = guest.then(|| Box::new(peer.distrusted(client)));
        let client = distrusted.as_ref().map_or(client, |peer| peer.address());
        let id = match call {
            Some(call) => Arc::clone(&call.request_id),
            None => {
                let given = distrusted.as_deref().unwrap_or(peer).request_id(request.headers());
                given.map_or_else(|| self.ids.request(), Arc::from)
            }
        };
        // An id is a header value already, or hexadecimal digits, so this does not fail.
        let id_header = HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("invalid"));
        request.headers_mut().insert(REQUEST_ID, id_header.clone());
        let form = ErrorForm {
            version: request.version(),
            head_only: request.method() == Method::HEAD,
            browser: (call.is_none() && !self.pages.is_empty()).then(|| accept::names_html(request.headers())),
        };
        let secure = peer.scheme(request.headers()) == &Scheme::HTTPS;
        let hsts = self.hsts.as_ref().filter(|_| secure && call.is_none());
        let mut record = Record::new(id, self.tracer.begin(request.headers_mut()));
        async move {
            let caller = Caller { peer: distrusted.as_deref().unwrap_or(peer), call, client };
            let mut response = match handle(self, &caller, request, &mut record).await {
                Ok(response) => response,
                Err(error) => {
                    record.report_failure(&error, &self.unmatched, caller.peer.address());
                    self.problem(&error, form, &record)
                }
            };
            record.set_status(response.status());
            response.headers_mut().insert(REQUEST_ID, id_header);
            if let Some(hsts) = hsts {
                response.headers_mut().entry(STRICT_TRANSPORT_SECURITY).or_insert_with(|| hsts.clone());
            }
            if let Some(front) = &record.front {
                front.change_response(secure, &mut response);
                let service = record.service().unwrap_or(&self.unmatched);
                response = compress(front, response, (&self.compression, caller.client), service);
            }
            if let Some(cookie) = record.renewed.take() {
                add_session(response.headers_mut(), *cookie);
            }
            response.map(|body| body.with(record))
        }
    }

    /// Returns the response that reports an error.
    fn problem(&self, error: &RequestError, form: ErrorForm, record: &Record) -> Response<Body> {
        let route = record.front.as_ref().and_then(|front| front.pages());
        let pages = ErrorPages::new(route, form.browser.map(|browser| (&self.pages, browser)));
        let mut problem = respond::problem(error, record.request_id(), pages);
        let reserve = Reserve { version: form.version, unsent: &self.unsent };
        let bytes = problem.body().size_hint().exact().unwrap_or_default();
        if form.head_only {
            // hyper would send the body over HTTP/2.
            *problem.body_mut() = Body::text(None);
            problem.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(bytes));
        } else if !problem.body_mut().count(bytes.try_into().unwrap_or(usize::MAX), reserve) {
            // Without room for the text, only the head is sent: it has the status and is not subject to flow control.
            *problem.body_mut() = Body::text(None);
        }
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::mirror::AnyBody;

    /// The future is moved several times for every request before it is first polled.
    #[test]
    fn the_future_of_a_request_is_small() {
        fn size<R>(_: impl FnOnce(&'static Handler, &'static Peer, Request<AnyBody>) -> R) -> usize {
            size_of::<R>()
        }
        let size = size(|handler, peer, request| handler.respond(peer, None, request));
        assert!(size <= 1_728, "{size} bytes");
    }
}
