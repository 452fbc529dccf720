//! The pages for the errors of a request: those of its route, then those of the host.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use lodge_base::accept;
use lodge_traffic::error_pages::{ErrorPage, PageSet};
use lodge_traffic::live_files::LiveValue;

/// The pages of a route, for one request.
pub struct BrowserPages {
    pages: Arc<PageSet>,
    browser: bool,
}

/// The pages for the error of one request. Without any, it gets problem details.
#[derive(Clone, Copy, Default)]
pub struct ErrorPages<'a> {
    route: Option<&'a PageSet>,
    host: Option<&'a PageSet>,
    /// Whether the client is a browser, which gets a page if there is one.
    pub browser: bool,
}

impl BrowserPages {
    /// Returns the pages of a route for a request with these headers.
    pub fn new(pages: &Arc<PageSet>, headers: &HeaderMap) -> Self {
        Self { pages: Arc::clone(pages), browser: accept::names_html(headers) }
    }
}

impl<'a> ErrorPages<'a> {
    /// Returns the pages of a route and those of the host, which say whether the client is a browser.
    pub fn new(route: Option<&'a BrowserPages>, host: Option<(&'a PageSet, bool)>) -> Self {
        Self {
            route: route.map(|route| &*route.pages),
            host: host.map(|(pages, _)| pages),
            browser: route.map(|route| route.browser).or(host.map(|(_, browser)| browser)).unwrap_or_default(),
        }
    }

    /// Leaves out the pages of the route, for a client that must not know that there is one.
    pub fn without_route(self) -> Self {
        Self { route: None, ..self }
    }

    /// Returns the page for a status, whether or not this client gets it.
    pub fn find(self, status: StatusCode) -> Option<&'a LiveValue<ErrorPage>> {
        match self.route {
            // It has no pages, also none of the host.
            Some(none) if none.is_empty() => None,
            Some(own) => own.find(status).or_else(|| self.host?.find(status)),
            None => self.host?.find(status),
        }
    }
}
