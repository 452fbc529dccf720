//! Comma-separated lists in header fields (RFC 9110, 5.6.1). Commas in quoted strings do not separate.

use http::header::{HeaderMap, HeaderName};

/// The grammar of a quoted string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quoting {
    /// A backslash escapes the next character (RFC 9110, 5.6.4).
    Escapes,
    /// A backslash has no meaning: entity tags (RFC 9110, 8.8.3).
    Literal,
}

/// The state of a parser that tracks quoted strings byte by byte.
struct Quotes {
    quoting: Quoting,
    inside: bool,
    escaped: bool,
}

impl Quotes {
    fn new(quoting: Quoting) -> Self {
        Self { quoting, inside: false, escaped: false }
    }

    /// Whether the next byte is outside of quoted strings.
    fn is_outside(&mut self, byte: u8) -> bool {
        let outside = !self.inside;
        (self.inside, self.escaped) = match byte {
            _ if self.escaped => (self.inside, false),
            b'\\' => (self.inside, self.inside && self.quoting == Quoting::Escapes),
            b'"' => (!self.inside, false),
            _ => (self.inside, false),
        };
        outside
    }
}

/// The parts of `text` between separators outside of quoted strings, trimmed. Includes empty parts.
pub(crate) fn parts(text: &[u8], separator: u8, quoting: Quoting) -> impl Iterator<Item = &[u8]> {
    let mut quotes = Quotes::new(quoting);
    text.split(move |byte| quotes.is_outside(*byte) && *byte == separator).map(<[u8]>::trim_ascii)
}

/// Whether every quoted string of `text` is closed. Text after an unclosed one cannot be told from its content.
pub(crate) fn is_closed(text: &[u8], quoting: Quoting) -> bool {
    let mut quotes = Quotes::new(quoting);
    text.iter().for_each(|byte| {
        quotes.is_outside(*byte);
    });
    !quotes.inside
}

/// The non-empty elements of a list header in all of its lines.
pub(crate) fn elements<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    quoting: Quoting,
) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).iter().map(http::HeaderValue::as_bytes);
    lines.flat_map(move |line| parts(line, b',', quoting)).filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_quoted_strings_do_not_separate() {
        let check = |text: &str, quoting, expected: &[&str]| {
            let found: Vec<_> = parts(text.as_bytes(), b',', quoting).map(String::from_utf8_lossy).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("a, b ,,c", Quoting::Escapes, &["a", "b", "", "c"]);
        check("a=\"x, y\", b", Quoting::Escapes, &["a=\"x, y\"", "b"]);
        check("a=\"x\\\", y\", b", Quoting::Escapes, &["a=\"x\\\", y\"", "b"]);
        check("\"x\\\", \"y\"", Quoting::Literal, &["\"x\\\"", "\"y\""]);
        check("a\\, b", Quoting::Escapes, &["a\\", "b"]);
        assert!(is_closed(b"a=\"x\", b", Quoting::Escapes) && !is_closed(b"a=\"x, b", Quoting::Escapes));
        assert!(!is_closed(b"a=\"x\\\"", Quoting::Escapes) && is_closed(b"\"x\\\"", Quoting::Literal));
    }
}
