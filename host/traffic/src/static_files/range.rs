//! `Range` (RFC 9110, 14.2): one range of bytes. Pure.

use std::ops::Range;

use http::HeaderValue;

/// The part of a file that a request is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RequestedRange {
    /// All of it: there is no range, it is not valid, or there are several, which need not be honoured.
    All,
    /// These bytes.
    Bytes(Range<u64>),
    /// Nothing: the range begins after the end.
    None,
}

impl RequestedRange {
    /// Reads the value of `Range` for a file of `size` bytes.
    pub(super) fn read(value: &HeaderValue, size: u64) -> Self {
        Self::parse(value, size).unwrap_or(Self::All)
    }

    fn parse(value: &HeaderValue, size: u64) -> Option<Self> {
        let (unit, set) = value.to_str().ok()?.split_once('=')?;
        let (first, last) = set.trim().split_once('-')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") || [first, last].iter().any(|number| !is_number(number)) {
            return None;
        }
        // A number that does not fit is larger than any file.
        let number = |text: &str| text.parse::<u64>().unwrap_or(u64::MAX);
        Some(match (first, last) {
            ("", "") => return None,
            ("", last) => match (number(last), size) {
                (0, _) => Self::None,
                (_, 0) => Self::All,
                (length, _) => Self::Bytes(size.saturating_sub(length)..size),
            },
            (first, last) => {
                let (begin, end) = (number(first), if last.is_empty() { u64::MAX } else { number(last) });
                if begin > end {
                    return None;
                }
                if begin >= size { Self::None } else { Self::Bytes(begin..end.saturating_add(1).min(size)) }
            }
        })
    }
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|digit| digit.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_of_bytes() {
        let check = |value: &str, size: u64, expected: RequestedRange| {
            assert_eq!(
                RequestedRange::read(&HeaderValue::from_str(value).unwrap(), size),
                expected,
                "{value} of {size}"
            );
        };
        check("bytes=0-0", 10, RequestedRange::Bytes(0..1));
        check("bytes=0-9", 10, RequestedRange::Bytes(0..10));
        check("bytes=0-", 10, RequestedRange::Bytes(0..10));
        check("bytes=5-99", 10, RequestedRange::Bytes(5..10));
        check("bytes=9-9", 10, RequestedRange::Bytes(9..10));
        check("BYTES = 2-3", 10, RequestedRange::Bytes(2..4));
        check("bytes=-3", 10, RequestedRange::Bytes(7..10));
        check("bytes=-99", 10, RequestedRange::Bytes(0..10));
        check("bytes=0-99999999999999999999999", 10, RequestedRange::Bytes(0..10));
        check("bytes=0-18446744073709551615", 10, RequestedRange::Bytes(0..10));
        check("bytes=10-", 10, RequestedRange::None);
        check("bytes=10-20", 10, RequestedRange::None);
        check("bytes=99999999999999999999999-", 10, RequestedRange::None);
        check("bytes=-0", 10, RequestedRange::None);
        check("bytes=0-", 0, RequestedRange::None);
        check("bytes=-5", 0, RequestedRange::All);
        for ignored in [
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=3-2",
            "bytes=a-b",
            "bytes=0x1-2",
            "bytes=+1-2",
            "bytes=1 - 2",
            "bytes=--2",
            "items=0-1",
            "bytes=0-1,3-4",
            "bytes=0-1,",
            "bytes 0-1",
            "bytes=1.5-2",
            "bytes=0-1-2",
            "=0-1",
            "",
        ] {
            check(ignored, 10, RequestedRange::All);
        }
    }
}
