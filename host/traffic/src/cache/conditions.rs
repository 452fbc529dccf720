//! `If-None-Match` and `If-Modified-Since` (RFC 9110, 13). The cache evaluates those of clients itself, so that a
//! service is asked for a complete response that all clients can share, and sends the validators of stale responses to
//! the service.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, response};

use super::freshness::date;
use crate::proxy::lists::{self, Quoting};

/// The conditions of a client's request; empty if it has none.
#[derive(Default)]
pub(crate) struct Conditions(HeaderMap);

const EVALUATED: [HeaderName; 2] = [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE];

/// Headers about the body, which a 304 does not have.
const OF_THE_BODY: [HeaderName; 5] = [
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_RANGE,
];

/// Headers of requests that need something else than a stored response.
pub(super) const BYPASSING: [HeaderName; 4] =
    [header::RANGE, header::IF_RANGE, header::IF_MATCH, header::IF_UNMODIFIED_SINCE];

impl Conditions {
    pub(crate) fn of(request_headers: &HeaderMap) -> Self {
        let mut own = HeaderMap::new();
        for name in EVALUATED {
            for value in request_headers.get_all(&name) {
                own.append(name.clone(), value.clone());
            }
        }
        Self(own)
    }

    /// Whether the client has the response with this head (RFC 9110, 13.1; RFC 9111, 4.3.2).
    pub(crate) fn match_response(&self, status: StatusCode, response_headers: &HeaderMap) -> bool {
        if self.0.is_empty() || status != StatusCode::OK {
            return false;
        }
        // `If-Modified-Since` is ignored if there is an `If-None-Match`.
        if self.0.contains_key(header::IF_NONE_MATCH) {
            let tag = response_headers.get(header::ETAG).map(HeaderValue::as_bytes);
            let same = |one: &[u8]| one == b"*" || tag.is_some_and(|tag| opaque(one) == opaque(tag));
            return lists::elements(&self.0, &header::IF_NONE_MATCH, Quoting::Literal).any(same);
        }
        let modified = response_headers.get(header::LAST_MODIFIED).or_else(|| response_headers.get(header::DATE));
        let since = date(self.0.get(header::IF_MODIFIED_SINCE));
        date(modified).zip(since).is_some_and(|(modified, since)| modified <= since)
    }
}

/// An entity tag without `W/`, for weak comparison (RFC 9110, 8.8.3.2).
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// Whether a 304 with the headers `news` is about the response with the headers `stored`, whose validators were sent
/// (RFC 9111, 4.3.4). A 304 without validators is.
pub(super) fn confirms(news: &HeaderMap, stored: &HeaderMap) -> bool {
    let both =
        |name: &HeaderName| (news.get(name).map(HeaderValue::as_bytes), stored.get(name).map(HeaderValue::as_bytes));
    match both(&header::ETAG) {
        (Some(received), Some(own)) if received.starts_with(b"W/") => opaque(received) == opaque(own),
        (Some(received), Some(own)) => received == own,
        (tag, _) => match both(&header::LAST_MODIFIED) {
            (Some(received), Some(own)) => received == own,
            (received, _) => received.is_none() && tag.is_none(),
        },
    }
}

/// Whether a request has a condition that can lead to a 304 (RFC 9110, 13.1.2 and 13.1.3).
pub(crate) fn is_conditional(request_headers: &HeaderMap) -> bool {
    EVALUATED.iter().any(|name| request_headers.contains_key(name))
}

/// Removes the conditions from a request.
pub(super) fn clear(request_headers: &mut HeaderMap) {
    for name in EVALUATED {
        request_headers.remove(name);
    }
}

/// Adds the validators of a stored response to a request. Returns whether there were any.
pub(super) fn add_validators(request_headers: &mut HeaderMap, stored: &HeaderMap) -> bool {
    let validators = [(header::ETAG, header::IF_NONE_MATCH), (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE)];
    let mut any = false;
    for (validator, condition) in validators {
        if let Some(value) = stored.get(validator) {
            request_headers.insert(condition, value.clone());
            any = true;
        }
    }
    any
}

/// Turns a head into that of a 304.
pub(crate) fn not_modified(head: &mut response::Parts) {
    head.status = StatusCode::NOT_MODIFIED;
    for name in &OF_THE_BODY {
        head.headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn conditions_that_match() {
        let stored = headers(&[("etag", "W/\"a,b\""), ("last-modified", "Tue, 14 Nov 2023 22:13:20 GMT")]);
        let holds = |name: &'static str, value: &'static str| {
            Conditions::of(&headers(&[(name, value)])).match_response(StatusCode::OK, &stored)
        };
        assert!(holds("if-none-match", "*") && !holds("if-none-match", "\"c\"") && !holds("if-none-match", "a"));
        assert!(holds("if-modified-since", "Tue, 14 Nov 2023 22:13:20 GMT"));
        assert!(holds("if-modified-since", "Tue, 14 Nov 2023 22:13:21 GMT"));
        assert!(!holds("if-modified-since", "Tue, 14 Nov 2023 22:13:19 GMT") && !holds("if-modified-since", "now"));
        assert!(!holds("accept", "*/*"));
        let plain = headers(&[("etag", "\"x\""), ("last-modified", "Tue, 14 Nov 2023 22:13:20 GMT")]);
        let both =
            headers(&[("if-none-match", "\"y\", W/\"x\""), ("if-modified-since", "Tue, 14 Nov 2000 22:13:20 GMT")]);
        assert!(Conditions::of(&both).match_response(StatusCode::OK, &plain), "tags take precedence over dates");
        assert!(!Conditions::of(&both).match_response(StatusCode::NOT_FOUND, &plain));
    }

    /// If a response has no `Last-Modified`, its `Date` is compared.
    #[test]
    fn date_replaces_last_modified() {
        let stored = headers(&[("date", "Tue, 14 Nov 2023 22:13:20 GMT")]);
        let holds = |since: &'static str| {
            Conditions::of(&headers(&[("if-modified-since", since)])).match_response(StatusCode::OK, &stored)
        };
        assert!(holds("Tuesday, 14-Nov-23 22:13:20 GMT") && !holds("Tue, 14 Nov 2023 22:13:19 GMT"));
    }

    #[test]
    fn tags_can_contain_any_character() {
        let with = |name: HeaderName, tag: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_bytes(tag).unwrap());
            headers
        };
        let check = |request_headers: &[u8], tag: &[u8], expected: bool| {
            let conditions = Conditions::of(&with(header::IF_NONE_MATCH, request_headers));
            assert_eq!(conditions.match_response(StatusCode::OK, &with(header::ETAG, tag)), expected);
        };
        check(b"\"x\", \"a,b\"", b"W/\"a,b\"", true);
        check(b"\"x\", \"a,b\"", b"\"b\"", false);
        check("\"ü\"".as_bytes(), "\"ü\"".as_bytes(), true);
        check(b"\"a\\\", \"b\"", b"\"b\"", true);
    }

    #[test]
    fn a_304_about_another_response() {
        let check = |news: &[(&'static str, &'static str)], stored: &[(&'static str, &'static str)], expected: bool| {
            assert_eq!(confirms(&headers(news), &headers(stored)), expected, "{news:?} {stored:?}");
        };
        let (strong, weak, other) = (("etag", "\"a\""), ("etag", "W/\"a\""), ("etag", "\"b\""));
        let (early, late) =
            (("last-modified", "Tue, 14 Nov 2023 22:13:20 GMT"), ("last-modified", "Tue, 14 Nov 2023 22:13:21 GMT"));
        check(&[strong], &[strong], true);
        check(&[other], &[strong], false);
        check(&[weak], &[strong], true);
        check(&[weak], &[other], false);
        check(&[strong], &[weak], false);
        check(&[], &[strong, early], true);
        check(&[early], &[strong, early], true);
        check(&[late], &[strong, early], false);
        check(&[strong, late], &[strong, early], true);
        check(&[other, early], &[strong, early], false);
        check(&[other, early], &[early], true);
        check(&[other], &[early], false);
        check(&[early], &[strong], false);
    }

    #[test]
    fn validators_replace_the_clients_conditions() {
        let mut request_headers = headers(&[("if-none-match", "\"the client's\""), ("accept", "*/*")]);
        clear(&mut request_headers);
        assert_eq!(request_headers.len(), 1);
        assert!(!add_validators(&mut request_headers, &headers(&[("age", "1")])));
        assert!(add_validators(&mut request_headers, &headers(&[("etag", "\"a\"")])));
        assert_eq!(request_headers[header::IF_NONE_MATCH], "\"a\"");
    }
}
