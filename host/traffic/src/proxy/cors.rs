//! CORS (the Fetch standard, 3.2): which pages of other origins may use a route from a browser.
//!
//! The host responds to preflights itself, and decides alone what a response says of CORS: fields that a service sets are
//! replaced. Origins are compared byte by byte with those of the manifest, and only one that is there is sent back.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, request};

use lodge_manifest::cors::Cors;

/// The fields of responses.
const FIELDS: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

/// The rules for one request.
#[derive(Debug)]
pub struct CorsRequest {
    rules: Arc<Cors>,
    /// What `Access-Control-Allow-Origin` says; `None` if the page may not use the route.
    allowed: Option<HeaderValue>,
}

/// Returns the method that a page asks for by a preflight; `None` if the request is no preflight.
pub fn preflight(head: &request::Parts) -> Option<Method> {
    if head.method != Method::OPTIONS || !head.headers.contains_key(header::ORIGIN) {
        return None;
    }
    let method = one(&head.headers, &header::ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(method.as_bytes()).ok()
}

impl CorsRequest {
    /// Applies the rules to the headers of a request.
    pub fn new(rules: &Arc<Cors>, headers: &HeaderMap) -> Self {
        let allowed = match &rules.origins {
            // Requests with credentials need a list. Without `Origin` as well: a cache may give the response to a page later.
            None => Some(HeaderValue::from_static("*")),
            Some(origins) => one(headers, &header::ORIGIN).filter(|origin| origins.contains(origin)).cloned(),
        };
        Self { rules: Arc::clone(rules), allowed }
    }

    /// Whether the page that sends the request may use the cookies of its browser.
    pub fn allows_credentials(&self) -> bool {
        self.rules.credentials && self.allowed.is_some()
    }

    /// Writes the fields of a response.
    pub fn write(&self, headers: &mut HeaderMap) {
        for name in &FIELDS {
            headers.remove(name);
        }
        // The response to another origin differs, which caches must know also if this one has no field.
        if self.rules.origins.is_some() {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        let Some(origin) = &self.allowed else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.rules.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(expose) = &self.rules.expose {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }

    /// Writes the fields of the response to a preflight for this method.
    pub fn write_preflight(&self, method: &Method, headers: &mut HeaderMap) {
        self.write(headers);
        headers.remove(header::ACCESS_CONTROL_EXPOSE_HEADERS);
        if self.allowed.is_none() {
            return;
        }
        // A method is a token, which is a valid value.
        let method = HeaderValue::from_str(method.as_str()).ok();
        method.map(|method| headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, method));
        if let Some(allowed) = &self.rules.headers {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed.clone());
        }
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.rules.max_age));
    }
}

/// Returns the only value of a header; `None` if there are several.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lodge_base::config;
    use lodge_manifest::Manifest;

    fn rules(text: &str) -> Arc<Cors> {
        let limits = config::resolve(&[]).unwrap().config.limits;
        Manifest::read("users", &format!("[cors]\n{text}"), &limits, 1 << 30).unwrap().cors.unwrap()
    }

    fn headers(name: &'static str, values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    /// What a response allows, for a request with these values of `Origin`, and its `Vary`.
    fn allowed(text: &str, origins: &[&[u8]]) -> (Option<String>, String) {
        let mut response = headers("access-control-allow-origin", &[b"https://forged.test"]);
        CorsRequest::new(&rules(text), &headers("origin", origins)).write(&mut response);
        let text = |name: &str| response.get(name).map(|value| value.to_str().unwrap().to_owned());
        (text("access-control-allow-origin"), text("vary").unwrap_or_default())
    }

    #[test]
    fn only_listed_origins_are_allowed() {
        const LIST: &str = "origins = ['https://app.test', 'https://b.test:8443', 'http://localhost:3000']";
        for good in ["https://app.test", "https://b.test:8443", "http://localhost:3000"] {
            assert_eq!(allowed(LIST, &[good.as_bytes()]), (Some(good.to_owned()), "origin".to_owned()));
        }
        for trick in [
            &b"http://app.test"[..],
            b"https://app.test:443",
            b"https://app.test:8443",
            b"https://app.test.evil.test",
            b"https://evil-app.test",
            b"https://evil.test/https://app.test",
            b"https://app.test.",
            b"https://app.test/",
            b"https://App.test",
            b"HTTPS://app.test",
            b"https://x.app.test",
            b"https://app.test@evil.test",
            b"https://evil.test#https://app.test",
            b"https://app.test\tevil",
            b"https://app.test https://evil.test",
            b"https://app.test,https://evil.test",
            b"https://app.tes",
            b"https://app_test",
            b"https://\xe4pp.test",
            b"app.test",
            b"*",
            b"null",
            b"",
        ] {
            assert_eq!(allowed(LIST, &[trick]), (None, "origin".to_owned()), "{}", trick.escape_ascii());
        }
        assert_eq!(allowed(LIST, &[]).0, None);
        assert_eq!(allowed(LIST, &[b"https://app.test", b"https://app.test"]).0, None, "two origins");
        assert_eq!(allowed("origins = 'null'", &[b"null"]).0.as_deref(), Some("null"));
        // The response is the same for all, so that caches need not distinguish them.
        for origins in [&[&b"https://any.test"[..]][..], &[]] {
            assert_eq!(allowed("origins = '*'", origins), (Some("*".to_owned()), String::new()));
        }
    }

    #[test]
    fn credentials_are_for_listed_origins() {
        let rules = rules("origins = ['https://app.test']\ncredentials = true\nexpose = ['etag', 'x-b']");
        for (origin, expected) in [("https://app.test", Some("true")), ("https://evil.test", None)] {
            let mut response = headers("access-control-allow-credentials", &[b"true"]);
            response.insert(header::VARY, HeaderValue::from_static("accept"));
            CorsRequest::new(&rules, &headers("origin", &[origin.as_bytes()])).write(&mut response);
            let field = |name: &str| response.get(name).map(|value| value.to_str().unwrap());
            assert_eq!(field("access-control-allow-credentials"), expected);
            assert_eq!(field("access-control-expose-headers"), expected.map(|_| "etag, x-b"));
            assert_eq!(response.get_all(header::VARY).iter().collect::<Vec<_>>(), ["accept", "origin"]);
        }
    }

    #[test]
    fn preflights_name_a_method() {
        let method = |method: &str, fields: &[(&'static str, &str)]| {
            let mut request = http::Request::builder().method(method).uri("/");
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            preflight(&request.body(()).unwrap().into_parts().0).map(|method| method.to_string())
        };
        let (origin, put) = (("origin", "https://a.test"), ("access-control-request-method", "PUT"));
        assert_eq!(method("OPTIONS", &[origin, put]).as_deref(), Some("PUT"));
        for fields in [&[origin][..], &[put], &[origin, put, put], &[origin, ("access-control-request-method", "P T")]]
        {
            assert_eq!(method("OPTIONS", fields), None, "{fields:?}");
        }
        assert_eq!(method("PUT", &[origin, put]), None);
        let rules = rules("origins = 'https://a.test'\nheaders = ['x-a']\nmax_age = '1m'");
        let mut response = HeaderMap::new();
        CorsRequest::new(&rules, &headers("origin", &[b"https://a.test"])).write_preflight(&Method::PUT, &mut response);
        for (name, value) in [("allow-methods", "PUT"), ("allow-headers", "x-a"), ("max-age", "60")] {
            assert_eq!(response[format!("access-control-{name}")], value);
        }
        let mut response = HeaderMap::new();
        CorsRequest::new(&rules, &headers("origin", &[b"https://b.test"])).write_preflight(&Method::PUT, &mut response);
        assert_eq!((response.len(), &response["vary"]), (1, &HeaderValue::from_static("origin")));
    }
}
