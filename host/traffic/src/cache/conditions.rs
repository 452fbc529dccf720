//! `If-None-Match` and `If-Modified-Since`: a client's own are answered here, so that a service is asked for what everybody
//! can have; a kept answer's validators are what the service is asked about. RFC 9110, 13.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, response};

use super::freshness::date;
use super::lists::{self, Quoting};

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

    /// Whether the client has the response of which this is the head (RFC 9110, 13.1; RFC 9111, 4.3.2).
    pub(super) fn hold(&self, status: StatusCode, answer: &HeaderMap) -> bool {
        if self.0.is_empty() || status != StatusCode::OK {
            return false;
        }
        // The date is not evaluated where there is a tag.
        if self.0.contains_key(header::IF_NONE_MATCH) {
            let tag = answer.get(header::ETAG).map(HeaderValue::as_bytes);
            let same = |one: &[u8]| one == b"*" || tag.is_some_and(|tag| opaque(one) == opaque(tag));
            return lists::elements(&self.0, &header::IF_NONE_MATCH, Quoting::Literal).any(same);
        }
        let modified = answer.get(header::LAST_MODIFIED).or_else(|| answer.get(header::DATE));
        let since = date(self.0.get(header::IF_MODIFIED_SINCE));
        date(modified).zip(since).is_some_and(|(modified, since)| modified <= since)
    }
}

/// An entity tag without its mark of weakness: tags that differ in nothing else match by weak comparison (RFC 9110, 8.8.3.2).
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// Whether a 304 with the headers `news` is about the stored response with the headers `kept` (RFC 9111, 4.3.4), whose
/// validators were all that was asked about. One without a validator can be about nothing else.
pub(super) fn confirms(news: &HeaderMap, kept: &HeaderMap) -> bool {
    let both =
        |name: &HeaderName| (news.get(name).map(HeaderValue::as_bytes), kept.get(name).map(HeaderValue::as_bytes));
    match both(&header::ETAG) {
        (Some(told), Some(own)) if told.starts_with(b"W/") => opaque(told) == opaque(own),
        (Some(told), Some(own)) => told == own,
        (tag, _) => match both(&header::LAST_MODIFIED) {
            (Some(told), Some(own)) => told == own,
            (told, _) => told.is_none() && tag.is_none(),
        },
    }
}

/// Whether a request has conditions that a 304 can be the response to (RFC 9110, 13.1.2 and 13.1.3).
pub(super) fn are_in(asked: &HeaderMap) -> bool {
    OURS.iter().any(|name| asked.contains_key(name))
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

    /// Without a date of modification, the time at which the response was made stands for it.
    #[test]
    fn a_response_is_no_newer_than_its_date() {
        let kept = headers(&[("date", "Tue, 14 Nov 2023 22:13:20 GMT")]);
        let holds =
            |since: &'static str| Conditions::of(&headers(&[("if-modified-since", since)])).hold(StatusCode::OK, &kept);
        assert!(holds("Tuesday, 14-Nov-23 22:13:20 GMT") && !holds("Tue, 14 Nov 2023 22:13:19 GMT"));
    }

    #[test]
    fn tags_with_any_character() {
        let with = |name: HeaderName, tag: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_bytes(tag).unwrap());
            headers
        };
        let check = |asked: &[u8], tag: &[u8], expected: bool| {
            let conditions = Conditions::of(&with(header::IF_NONE_MATCH, asked));
            assert_eq!(conditions.hold(StatusCode::OK, &with(header::ETAG, tag)), expected);
        };
        check(b"\"x\", \"a,b\"", b"W/\"a,b\"", true);
        check(b"\"x\", \"a,b\"", b"\"b\"", false);
        check("\"ü\"".as_bytes(), "\"ü\"".as_bytes(), true);
        check(b"\"a\\\", \"b\"", b"\"b\"", true);
    }

    #[test]
    fn a_304_about_another_response() {
        let check = |news: &[(&'static str, &'static str)], kept: &[(&'static str, &'static str)], expected: bool| {
            assert_eq!(confirms(&headers(news), &headers(kept)), expected, "{news:?} {kept:?}");
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
    fn asks_about_what_is_kept() {
        let mut asked = headers(&[("if-none-match", "\"the client's\""), ("accept", "*/*")]);
        clear(&mut asked);
        assert_eq!(asked.len(), 1);
        assert!(!ask(&mut asked, &headers(&[("age", "1")])));
        assert!(ask(&mut asked, &headers(&[("etag", "\"a\"")])));
        assert_eq!(asked[header::IF_NONE_MATCH], "\"a\"");
    }
}
