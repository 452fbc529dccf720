//! `If-None-Match` and `If-Modified-Since`: a client's own are answered here, so that a service is asked for what everybody
//! can have; a kept answer's validators are what the service is asked about. RFC 9110, 13.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, response};

use super::freshness::elements;

/// What a client has already. Empty for one that has nothing.
#[derive(Default)]
pub(super) struct Conditions(HeaderMap);

const OURS: [HeaderName; 2] = [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE];

/// About the body that a 304 does not have.
const OF_THE_BODY: [HeaderName; 5] = [
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_RANGE,
];

/// Asks for something else than what is kept.
pub(super) const OTHERS: [HeaderName; 4] =
    [header::RANGE, header::IF_RANGE, header::IF_MATCH, header::IF_UNMODIFIED_SINCE];

impl Conditions {
    /// Those of a request.
    pub(super) fn of(asked: &HeaderMap) -> Self {
        let mut own = HeaderMap::new();
        for name in OURS {
            for value in asked.get_all(&name) {
                own.append(name.clone(), value.clone());
            }
        }
        Self(own)
    }

    /// Whether the client has what this is the head of.
    pub(super) fn hold(&self, status: StatusCode, answer: &HeaderMap) -> bool {
        if self.0.is_empty() || status != StatusCode::OK {
            return false;
        }
        // A date is for who has no tag.
        if self.0.contains_key(header::IF_NONE_MATCH) {
            let tag = answer.get(header::ETAG).and_then(|tag| tag.to_str().ok());
            let same = |one: &str| one == "*" || tag.is_some_and(|tag| opaque(one) == opaque(tag));
            return elements(&self.0, &header::IF_NONE_MATCH).any(same);
        }
        let date = |value: Option<&HeaderValue>| httpdate::parse_http_date(value?.to_str().ok()?).ok();
        let modified = date(answer.get(header::LAST_MODIFIED));
        let since = date(self.0.get(header::IF_MODIFIED_SINCE));
        modified.zip(since).is_some_and(|(modified, since)| modified <= since)
    }
}

/// Tags are compared weakly: what differs in bytes only is not worth a transfer.
fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// Takes a client's conditions out of a request.
pub(super) fn clear(asked: &mut HeaderMap) {
    for name in OURS {
        asked.remove(name);
    }
}

/// Asks whether there is anything newer than this; says whether it has a validator to ask with.
pub(super) fn ask(asked: &mut HeaderMap, kept: &HeaderMap) -> bool {
    let validators = [(header::ETAG, header::IF_NONE_MATCH), (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE)];
    let mut any = false;
    for (validator, condition) in validators {
        if let Some(value) = kept.get(validator) {
            asked.insert(condition, value.clone());
            any = true;
        }
    }
    any
}

/// Makes a head into that of a 304.
pub(super) fn not_modified(head: &mut response::Parts) {
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
    fn who_has_it_already() {
        let kept = headers(&[("etag", "W/\"a,b\""), ("last-modified", "Tue, 14 Nov 2023 22:13:20 GMT")]);
        let holds = |name: &'static str, value: &'static str| {
            Conditions::of(&headers(&[(name, value)])).hold(StatusCode::OK, &kept)
        };
        assert!(holds("if-none-match", "*") && !holds("if-none-match", "\"c\"") && !holds("if-none-match", "a"));
        assert!(holds("if-modified-since", "Tue, 14 Nov 2023 22:13:20 GMT"));
        assert!(holds("if-modified-since", "Tue, 14 Nov 2023 22:13:21 GMT"));
        assert!(!holds("if-modified-since", "Tue, 14 Nov 2023 22:13:19 GMT") && !holds("if-modified-since", "now"));
        assert!(!holds("accept", "*/*"));
        let plain = headers(&[("etag", "\"x\""), ("last-modified", "Tue, 14 Nov 2023 22:13:20 GMT")]);
        let both =
            headers(&[("if-none-match", "\"y\", W/\"x\""), ("if-modified-since", "Tue, 14 Nov 2000 22:13:20 GMT")]);
        assert!(Conditions::of(&both).hold(StatusCode::OK, &plain), "tags come before dates");
        assert!(!Conditions::of(&both).hold(StatusCode::NOT_FOUND, &plain));
    }

    #[test]
    fn asks_about_what_is_kept() {
        let mut asked = headers(&[("if-none-match", "\"the client's\""), ("accept", "*/*")]);
        clear(&mut asked);
        assert_eq!(asked.len(), 1);
        assert!(!ask(&mut asked, &headers(&[("age", "1")])));
        assert!(ask(&mut asked, &headers(&[("etag", "\"a\"")])));
        assert_eq!(asked[header::IF_NONE_MATCH], "\"a\"");
    }
}
