//! What a login needs of a request.

use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue, ORIGIN};
use http::uri::PathAndQuery;

use super::cookies::HostCookies;
use lodge_base::accept;

const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
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
    /// Whether the client reached another host than that of the login.
    pub is_elsewhere: bool,
    /// Whether a page of another origin, which may not use the session, sends a request that can change something.
    pub is_foreign: bool,
    /// The cookie of the session with its last use, which the response sets.
    pub renewed: Option<HeaderValue>,
}

impl BrowserRequest {
    /// Returns it for a request with this method and these headers.
    pub fn new(target: PathAndQuery, cookies: HostCookies, method: &Method, headers: &HeaderMap) -> Self {
        let navigates = navigates(method, headers);
        Self { target, cookies, navigates, is_elsewhere: false, is_foreign: false, renewed: None }
    }
}

/// Whether a request with these headers comes from a page of this origin, from a person, or from a program that is no browser.
/// `SameSite` does not say so: origins of one site differ in names below a domain and in ports.
pub(super) fn is_of(origin: &str, headers: &HeaderMap) -> bool {
    let sites = headers.get_all(SITE);
    // A page that hides where it is sends `null`, which pages of all origins can.
    let hidden = headers.contains_key(&SITE) && sites.iter().all(|site| site == "same-origin");
    if headers.contains_key(ORIGIN) {
        return headers.get_all(ORIGIN).iter().all(|sent| sent == origin || sent == "null" && hidden);
    }
    sites.iter().all(|site| site == "same-origin" || site == "none")
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
    fn pages_of_other_origins() {
        let (own, evil) = (("origin", "https://shop.test"), ("origin", "https://evil.shop.test"));
        let (null, site) = (("origin", "null"), |site: &'static str| ("sec-fetch-site", site));
        for (fields, expected) in [
            (&[][..], true),
            (&[own], true),
            (&[own, site("same-origin")], true),
            (&[site("same-origin")], true),
            (&[site("none")], true),
            (&[null, site("same-origin")], true),
            (&[evil], false),
            (&[own, evil], false),
            (&[evil, site("same-origin")], false),
            (&[("origin", "https://shop.test:8443")], false),
            (&[("origin", "http://shop.test")], false),
            (&[("origin", "")], false),
            (&[null], false),
            (&[null, site("same-site")], false),
            (&[null, site("same-origin"), site("cross-site")], false),
            (&[site("same-site")], false),
            (&[site("cross-site")], false),
            (&[site("none"), site("cross-site")], false),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(is_of("https://shop.test", &headers), expected, "{fields:?}");
        }
    }

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
