//! Changes to the heads of requests and responses that a manifest names.

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use lodge_base::headers::remove_where;
use lodge_manifest::headers::{HeaderChanges, HeaderRules};

/// A year, which preload lists of browsers require at least.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// What browsers are told, unless the service says otherwise.
const STRICT: [(HeaderName, HeaderValue); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("SAMEORIGIN")),
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("frame-ancestors 'self'")),
    (header::REFERRER_POLICY, HeaderValue::from_static("strict-origin-when-cross-origin")),
];

/// Headers that name the software of a service.
const REVEALING: [HeaderName; 2] = [header::SERVER, HeaderName::from_static("x-powered-by")];

/// Headers about the content of a response, and about storing it. What a manifest says of the content of a service must not make
/// browsers and caches keep a failure.
const OF_CONTENT: [HeaderName; 10] = [
    header::CACHE_CONTROL,
    HeaderName::from_static("cdn-cache-control"),
    header::CONTENT_DISPOSITION,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LOCATION,
    header::CONTENT_TYPE,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::PRAGMA,
];

/// Changes the head of a request. What is removed or set is removed with `_` or `.` in place of `-` as well, which some interfaces
/// cannot distinguish.
pub fn change_request(rules: &HeaderRules, headers: &mut HeaderMap) {
    if !rules.request.remove.is_empty() || !rules.request.set.is_empty() {
        remove_where(headers, |name| rules.request.replaces(name));
    }
    change(&rules.request, |_| true, headers);
}

/// Changes the head of a response with `status`. `secure` is whether the client uses HTTPS.
pub fn change_response(rules: &HeaderRules, status: StatusCode, secure: bool, headers: &mut HeaderMap) {
    if rules.security {
        for (name, value) in &STRICT {
            headers.entry(name).or_insert_with(|| value.clone());
        }
        // RFC 6797, 7.2: not over plain HTTP.
        if secure {
            headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert(HSTS);
        }
        for name in &REVEALING {
            headers.remove(name);
        }
    }
    let has_content = status.is_success() || status == StatusCode::NOT_MODIFIED;
    change(&rules.response, |name| has_content || !OF_CONTENT.contains(name), headers);
}

/// Changes the headers that are `meant`.
fn change(changes: &HeaderChanges, meant: impl Fn(&HeaderName) -> bool, headers: &mut HeaderMap) {
    for name in changes.remove.iter().filter(|name| meant(name)) {
        headers.remove(name);
    }
    for (name, value) in changes.set.iter().filter(|(name, _)| meant(name)) {
        headers.insert(name, value.clone());
    }
    for (name, value) in changes.add.iter().filter(|(name, _)| meant(name)) {
        headers.append(name, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lodge_base::config;
    use lodge_manifest::Manifest;

    fn response(text: &str, secure: bool, fields: &[(&'static str, &'static str)]) -> Vec<String> {
        response_with(StatusCode::OK, text, secure, fields)
    }

    fn response_with(
        status: StatusCode,
        text: &str,
        secure: bool,
        fields: &[(&'static str, &'static str)],
    ) -> Vec<String> {
        let limits = config::resolve(&[]).unwrap().config.limits;
        let manifest = Manifest::read("users", &format!("[headers]\n{text}"), &limits, 1 << 30).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        change_response(&manifest.headers.unwrap(), status, secure, &mut headers);
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn changes_are_made_in_order() {
        let text =
            "response.remove = ['a', 'b']\nresponse.set = { b = '2', c = '3' }\nresponse.add = { c = ['4'], d = '5' }";
        let fields = [("a", "1"), ("a", "1"), ("b", "1"), ("c", "1"), ("c", "1"), ("e", "1")];
        assert_eq!(response(text, false, &fields), ["b: 2", "c: 3", "c: 4", "d: 5", "e: 1"]);
    }

    /// A service behind an interface that cannot distinguish `_` and `-` gets no other value than that of the manifest.
    #[test]
    fn no_spelling_passes_what_requests_lose() {
        let limits = config::resolve(&[]).unwrap().config.limits;
        let text =
            "[headers]\nrequest.set = { x-run-mode = 'production', x_own = '1' }\nrequest.remove = 'x-debug-user'";
        let rules = Manifest::read("users", text, &limits, 1 << 30).unwrap().headers.unwrap();
        let mut headers = HeaderMap::new();
        for name in [
            "x-run-mode",
            "x_run_mode",
            "x-run_mode",
            "x_run-mode",
            "x.run.mode",
            "x!run~mode",
            "x-own",
            "x_own",
            "x.own",
            "x-debug-user",
            "x_debug_user",
            "x-run-modes",
            "xrun-mode",
        ] {
            headers.append(name, HeaderValue::from_static("forged"));
        }
        change_request(&rules, &mut headers);
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        assert_eq!(lines, ["x-run-mode: production", "x-run-modes: forged", "x_own: 1", "xrun-mode: forged"]);
    }

    /// What a manifest says of content holds for content only.
    #[test]
    fn failures_are_not_stored() {
        let text = "response.set = { cache-control = 'max-age=9', x-a = '1', content-type = 'text/css' }\n\
                    response.add = { etag = '\"1\"' }\nresponse.remove = ['expires', 'x-b']";
        let fields = [("cache-control", "no-store"), ("content-type", "a/b"), ("expires", "0"), ("x-b", "1")];
        for status in [200, 206, 304] {
            let changed = ["cache-control: max-age=9", "content-type: text/css", "etag: \"1\"", "x-a: 1"];
            assert_eq!(response_with(StatusCode::from_u16(status).unwrap(), text, false, &fields), changed, "{status}");
        }
        for status in [302, 308, 401, 404, 429, 500, 503] {
            let kept = ["cache-control: no-store", "content-type: a/b", "expires: 0", "x-a: 1"];
            assert_eq!(response_with(StatusCode::from_u16(status).unwrap(), text, false, &fields), kept, "{status}");
        }
    }

    #[test]
    fn strict_browsers() {
        const STRICT: [&str; 4] = [
            "content-security-policy: frame-ancestors 'self'",
            "referrer-policy: strict-origin-when-cross-origin",
            "x-content-type-options: nosniff",
            "x-frame-options: SAMEORIGIN",
        ];
        let fields = [("server", "a/1.0"), ("x-powered-by", "b")];
        assert_eq!(response("security = true", false, &fields), STRICT);
        let secure = response("security = true", true, &fields);
        assert!(
            secure.contains(&"strict-transport-security: max-age=31536000".to_owned()) && secure.len() == 5,
            "{secure:?}"
        );
        // The service, and then the manifest, know better.
        let own = [
            ("x-frame-options", "DENY"),
            ("content-security-policy", "default-src 'self'"),
            ("strict-transport-security", "max-age=0"),
        ];
        let text =
            "security = true\nresponse.set.referrer-policy = 'no-referrer'\nresponse.remove = 'x-content-type-options'";
        assert_eq!(
            response(text, true, &own),
            [
                "content-security-policy: default-src 'self'",
                "referrer-policy: no-referrer",
                "strict-transport-security: max-age=0",
                "x-frame-options: DENY"
            ]
        );
    }
}
