//! What a login needs of a request.

use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;

use super::cookies::HostCookies;
use lodge_base::accept;

const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const DESTINATION: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// What a login needs of a client's request.
#[derive(Clone, Debug)]
pub struct BrowserRequest {
    /// Path and query as the client knows them.
    pub target: PathAndQuery,
    /// The cookies of the host.
    pub cookies: HostCookies,
    /// Whether a person opens a page, who can log in then.
    pub navigates: bool,
    /// The cookie of the session with its last use, which the response sets.
    pub renewed: Option<HeaderValue>,
}

impl BrowserRequest {
    /// Returns it for a request with this method and these headers.
    pub fn new(target: PathAndQuery, cookies: HostCookies, method: &Method, headers: &HeaderMap) -> Self {
        Self { target, cookies, navigates: navigates(method, headers), renewed: None }
    }
}

/// Whether a browser opens a page with this request. What scripts, images and frames request cannot be redirected to a login: it
/// would show nothing, or would not be allowed.
fn navigates(method: &Method, headers: &HeaderMap) -> bool {
    let is = |name: &HeaderName, expected: &str| headers.get(name).is_none_or(|value| value == expected);
    *method == Method::GET && accept::names_html(headers) && is(&MODE, "navigate") && is(&DESTINATION, "document")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_lead_to_a_login() {
        for (method, fields, expected) in [
            (Method::GET, &[("accept", "text/html,*/*;q=0.8")][..], true),
            (
                Method::GET,
                &[("accept", "text/html"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")],
                true,
            ),
            (Method::GET, &[("accept", "text/html"), ("sec-fetch-mode", "cors")], false),
            (Method::GET, &[("accept", "text/html"), ("sec-fetch-dest", "iframe")], false),
            (Method::GET, &[("accept", "*/*")], false),
            (Method::GET, &[], false),
            (Method::HEAD, &[("accept", "text/html")], false),
            (Method::POST, &[("accept", "text/html")], false),
        ] {
            let headers: HeaderMap = fields.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
            assert_eq!(navigates(&method, &headers), expected, "{method} {fields:?}");
        }
    }
}
