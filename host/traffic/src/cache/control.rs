//! `Cache-Control` and `Pragma`, of requests and of responses (RFC 9111, 5.2 and 5.4).

use std::time::Duration;

use http::header::{self, HeaderMap};

use crate::proxy::lists::{self, Quoting};

/// The maximum of a number of seconds; larger ones count as this (RFC 9111, 1.2.2).
pub(super) const MOST: u64 = 1 << 31;

/// The directives of a message, in order.
#[derive(Debug, Default)]
pub(super) struct CacheControl {
    directives: Vec<(String, Option<String>)>,
}

/// The value of a directive in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seconds {
    /// The directive is absent.
    Absent,
    /// The directive has no value.
    Bare,
    /// The number of seconds, at most [`MOST`].
    Valid(Duration),
    /// The value is not a number, or the directive occurs twice with different values.
    Invalid,
}

impl CacheControl {
    /// The directives of a message. `None` if a line cannot be parsed, since it might forbid anything.
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let mut directives = Vec::new();
        for line in headers.get_all(header::CACHE_CONTROL) {
            let line = line.to_str().ok().filter(|line| lists::is_closed(line.as_bytes(), Quoting::Escapes))?;
            for element in lists::parts(line.as_bytes(), b',', Quoting::Escapes).filter(|part| !part.is_empty()) {
                let element = std::str::from_utf8(element).ok()?;
                let (name, value) =
                    element.split_once('=').map_or((element, None), |(name, value)| (name, Some(value)));
                directives.push((name.to_ascii_lowercase(), value.map(str::to_owned)));
            }
        }
        // `Pragma` only counts in the absence of `Cache-Control`.
        if !headers.contains_key(header::CACHE_CONTROL) {
            let pragma = lists::elements(headers, &header::PRAGMA, Quoting::Escapes);
            let mut said = pragma.filter(|word| word.eq_ignore_ascii_case(b"no-cache"));
            directives.extend(said.next().map(|_| ("no-cache".to_owned(), None)));
        }
        Some(Self { directives })
    }

    /// Whether a directive is present, whatever its value. `private` and `no-cache` with a list of headers apply to the
    /// whole response, which RFC 9111 (5.2.2.4, 5.2.2.7) allows. A directive with space before its `=` is malformed,
    /// but more likely meant than not, so it counts.
    pub(super) fn has(&self, wanted: &str) -> bool {
        self.directives.iter().any(|(name, _)| name.trim_end() == wanted)
    }

    /// The value of a directive in seconds.
    pub(super) fn seconds(&self, wanted: &str) -> Seconds {
        let mut all = self.directives.iter().filter(|(name, _)| name.trim_end() == wanted);
        let Some(first) = all.next() else { return Seconds::Absent };
        let read = |(name, value): &(String, Option<String>)| match value {
            _ if name.len() != wanted.len() => Seconds::Invalid,
            None => Seconds::Bare,
            Some(value) => number(unquoted(value)).map_or(Seconds::Invalid, Seconds::Valid),
        };
        let value = read(first);
        if all.all(|other| read(other) == value) { value } else { Seconds::Invalid }
    }
}

impl Seconds {
    /// The number, if it is valid.
    pub(super) fn valid(self) -> Option<Duration> {
        if let Self::Valid(seconds) = self { Some(seconds) } else { None }
    }
}

/// Parses a number of seconds: digits only. Larger numbers become [`MOST`].
pub(super) fn number(text: &str) -> Option<Duration> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(Duration::from_secs(text.parse().unwrap_or(MOST).min(MOST)))
}

/// Recipients accept `max-age="60"` for `max-age=60` (RFC 9111, 5.2).
fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(lines: &[&str]) -> Option<CacheControl> {
        let lines = lines.iter().map(|line| (header::CACHE_CONTROL, line.parse::<http::HeaderValue>().unwrap()));
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value);
        }
        CacheControl::read(&headers)
    }

    #[test]
    fn directives_in_seconds() {
        let check = |lines: &[&str], expected| {
            assert_eq!(control(lines).unwrap().seconds("max-age"), expected, "{lines:?}");
        };
        let valid = |seconds| Seconds::Valid(Duration::from_secs(seconds));
        check(&["max-age=60"], valid(60));
        check(&["public, MAX-AGE=\"060\""], valid(60));
        check(&["max-age=60, max-age=60", "max-age=60"], valid(60));
        check(&["max-age=60", "max-age=61"], Seconds::Invalid);
        check(&["max-age=99999999999999999999"], valid(MOST));
        check(&["x=\"max-age=60\""], Seconds::Absent);
        check(&["max-age"], Seconds::Bare);
        for wrong in ["max-age=-1", "max-age=+1", "max-age=1.0", "max-age='1'", "max-age =1", "max-age= 1", "max-age="]
        {
            check(&[wrong], Seconds::Invalid);
        }
    }

    /// A line that cannot be parsed might be `no-store`.
    #[test]
    fn unreadable_lines_forbid_storing() {
        assert!(control(&["max-age=60, x=\"no-store"]).is_none());
        assert!(control(&["x=\"a, no-store\""]).is_some_and(|control| !control.has("no-store")));
        let mut headers = HeaderMap::new();
        headers.insert(header::CACHE_CONTROL, http::HeaderValue::from_bytes(b"x=\"\xff\"").unwrap());
        assert!(CacheControl::read(&headers).is_none());
        headers = HeaderMap::new();
        headers.insert(header::PRAGMA, http::HeaderValue::from_static("x, No-Cache"));
        assert!(CacheControl::read(&headers).is_some_and(|control| control.has("no-cache")));
        headers.insert(header::CACHE_CONTROL, http::HeaderValue::from_static("max-age=60"));
        assert!(CacheControl::read(&headers).is_some_and(|control| !control.has("no-cache")));
    }
}
