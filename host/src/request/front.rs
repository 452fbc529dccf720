//! What the manifest says of the heads of a client's request and of its response, for the route that matched.

use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode, header, request};

use super::handler::Caller;
use super::pages::BrowserPages;
use crate::guests::target::Target;
use lodge_base::canonical;
use lodge_manifest::compress::CompressionRules;
use lodge_manifest::front::Front;
use lodge_manifest::headers::HeaderChanges;
use lodge_traffic::error_pages::PageSet;
use lodge_traffic::proxy::compression::CompressionRequest;
use lodge_traffic::proxy::cors::CorsRequest;
use lodge_traffic::proxy::header_rules;

/// The rules for one request.
pub(super) struct ClientFront {
    front: Arc<Front>,
    cors: Option<CorsRequest>,
    compression: Option<CompressionRequest>,
    pages: Option<BrowserPages>,
}

impl ClientFront {
    /// Applies the rules of a route to the head of a request. `pages` are those of the route for errors.
    pub(super) fn new(front: &Arc<Front>, pages: Option<&Arc<PageSet>>, head: &request::Parts) -> Self {
        let cors = front.cors.as_ref().map(|rules| CorsRequest::new(rules, &head.headers));
        let compression = front.compress.as_ref().map(|_| CompressionRequest::new(&head.method, &head.headers));
        let pages = pages.map(|pages| BrowserPages::new(pages, &head.headers));
        Self { front: Arc::clone(front), cors, compression, pages }
    }

    /// Whether a page of another origin sends the request, and may use the cookies of its browser.
    pub(super) fn allows_credentials(&self) -> bool {
        self.cors.as_ref().is_some_and(CorsRequest::allows_credentials)
    }

    /// Returns the pages of the route for errors, if it has its own.
    pub(super) fn pages(&self) -> Option<&BrowserPages> {
        self.pages.as_ref()
    }

    /// Returns the changes to the head of the request, if there are any.
    pub(super) fn request_changes(&self) -> Option<&HeaderChanges> {
        self.front.headers.as_ref().map(|rules| &rules.request)
    }

    /// Returns the rules of the route.
    pub(super) fn rules(&self) -> &Arc<Front> {
        &self.front
    }

    /// Changes the head of the request on its way to the service.
    pub(super) fn change_request(&self, headers: &mut HeaderMap) {
        if let Some(rules) = &self.front.headers {
            header_rules::change_request(rules, headers);
        }
    }

    /// Changes the head of the response. `secure` is whether the client uses HTTPS.
    pub(super) fn change_response<B>(&self, secure: bool, response: &mut Response<B>) {
        let status = response.status();
        if let Some(rules) = &self.front.headers {
            header_rules::change_response(rules, status, secure, response.headers_mut());
        }
        if let Some(cors) = &self.cors {
            cors.write(response.headers_mut());
        }
    }

    /// Returns what decides whether the response is compressed; `None` if it is not.
    pub(super) fn compression(&self) -> Option<(&CompressionRules, &CompressionRequest)> {
        self.front.compress.as_deref().zip(self.compression.as_ref())
    }
}

/// Returns where a client's request is redirected, and with which status, if the manifest of the service says so.
pub(super) fn redirect(
    service: &Target,
    caller: &Caller<'_>,
    head: &request::Parts,
) -> Option<(StatusCode, header::HeaderValue)> {
    let redirects = &service.deployment().spec.manifest.redirects;
    if redirects.is_empty() || caller.call.is_some() {
        return None;
    }
    let host = head.uri.authority().map_or("", |authority| canonical::host(authority.as_str()));
    let (path, query) = (head.uri.path(), head.uri.query());
    redirects.iter().find_map(|redirect| Some((redirect.status, redirect.location(host, path, query)?)))
}
