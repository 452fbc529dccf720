//! `Cache-Control` and `Pragma`, of requests and of responses (RFC 9111, 5.2 and 5.4).

use std::time::Duration;

use http::header::{self, HeaderMap};

use super::lists::{self, Quoting};

/// Seconds that stand for every larger number (RFC 9111, 1.2.2).
pub(super) const MOST: u64 = 1 << 31;

/// The directives of a message, in the order in which they were sent.
#[derive(Debug, Default)]
pub(super) struct Control {
    directives: Vec<(String, Option<String>)>,
}

/// The value of a directive that is a number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seconds {
    /// There is no such directive.
    Absent,
    /// It has no value.
    Bare,
    /// It has this value, [`MOST`] for every larger one.
    Valid(Duration),
    /// It has something else than a number, or is there twice with different values.
    Invalid,
}

impl Control {
    /// The directives of a message; `None` where a line cannot be read, and so might forbid anything.
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
        // It counts only where the header that replaced it is not there at all.
        if !headers.contains_key(header::CACHE_CONTROL) {
            let pragma = lists::elements(headers, &header::PRAGMA, Quoting::Escapes);
            let mut said = pragma.filter(|word| word.eq_ignore_ascii_case(b"no-cache"));
            directives.extend(said.next().map(|_| ("no-cache".to_owned(), None)));
        }
        Some(Self { directives })
    }

    /// Whether a directive is there, whatever its value: what `private` and `no-cache` say of some headers only is
    /// taken for a word on the whole response, as RFC 9111 (5.2.2.4, 5.2.2.7) allows. One with space before its `=` is
    /// malformed, and counts all the same: it is more likely meant than not.
    pub(super) fn says(&self, wanted: &str) -> bool {
        self.directives.iter().any(|(name, _)| name.trim_end() == wanted)
    }

    /// The value of a directive that is a number of seconds.
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
    /// The number, if there is a valid one.
    pub(super) fn valid(self) -> Option<Duration> {
        if let Self::Valid(seconds) = self { Some(seconds) } else { None }
    }
}

/// A number of seconds as HTTP writes it: digits only. One that is too large to count with is [`MOST`].
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

    fn control(lines: &[&str]) -> Option<Control> {
        let lines = lines.iter().map(|line| (header::CACHE_CONTROL, line.parse::<http::HeaderValue>().unwrap()));
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value);
        }
        Control::read(&headers)
    }

    #[test]
    fn numbers_of_seconds() {
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

    /// What cannot be read might be `no-store`.
    #[test]
    fn unreadable_lines_are_no_silence() {
        assert!(control(&["max-age=60, x=\"no-store"]).is_none());
        assert!(control(&["x=\"a, no-store\""]).is_some_and(|control| !control.says("no-store")));
        let mut headers = HeaderMap::new();
        headers.insert(header::CACHE_CONTROL, http::HeaderValue::from_bytes(b"x=\"\xff\"").unwrap());
        assert!(Control::read(&headers).is_none());
        headers = HeaderMap::new();
        headers.insert(header::PRAGMA, http::HeaderValue::from_static("x, No-Cache"));
        assert!(Control::read(&headers).is_some_and(|control| control.says("no-cache")));
        headers.insert(header::CACHE_CONTROL, http::HeaderValue::from_static("max-age=60"));
        assert!(Control::read(&headers).is_some_and(|control| !control.says("no-cache")));
    }
}
