//! Patterns of schemas: the syntax is that of ECMA-262, and the search takes linear time.
//!
//! What cannot be searched in linear time, such as back references, is refused when the schema is read.

use std::str::Chars;

use regex::{Error, RegexBuilder};

/// The most bytes of a pattern.
const BYTES: usize = 2_000;

/// The most bytes of memory for a compiled pattern, and for what it remembers while it is used.
const SIZE: usize = 256 << 10;

/// The first size that is tried: most patterns are smaller.
const SMALL: usize = 256;

/// What `\s` and `\S` are about, in a class.
const SPACE: &str =
    r"\t\n\x0B\x0C\r\x20\u{A0}\u{1680}\u{2000}-\u{200A}\u{2028}\u{2029}\u{202F}\u{205F}\u{3000}\u{FEFF}";

/// A compiled pattern.
#[derive(Debug)]
pub(in crate::validation) struct Pattern {
    /// The pattern.
    pub(in crate::validation) regex: regex::Regex,
    /// The most bytes of memory that its states take.
    pub(in crate::validation) size: usize,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong, in one line.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        if text.len() > BYTES {
            return Err(format!("the pattern has {} bytes, more than {BYTES}", text.len()));
        }
        let (translated, mut size) = (translated(text)?, SMALL);
        loop {
            match RegexBuilder::new(&translated).size_limit(size).dfa_size_limit(SIZE).build() {
                Ok(regex) => return Ok(Self { regex, size }),
                Err(Error::CompiledTooBig(_)) if size < SIZE => size *= 2,
                Err(Error::CompiledTooBig(most)) => {
                    return Err(format!("the compiled pattern is over {most} bytes; write a smaller one"));
                }
                Err(error) => {
                    let text = error.to_string();
                    let last = text.lines().last().unwrap_or_default();
                    let why = last.trim_start_matches("error: ");
                    return Err(format!("it is not a pattern that can be searched in linear time: {why}"));
                }
            }
        }
    }
}

/// Returns the same pattern in the syntax of the crate `regex`, in which some characters and classes have another meaning.
///
/// # Errors
/// If a part of it has no meaning in ECMA-262, but one in the crate.
fn translated(text: &str) -> Result<String, String> {
    let (mut out, mut rest, mut in_class) = (String::with_capacity(text.len() + 16), text.chars(), false);
    while let Some(next) = rest.next() {
        match (next, in_class) {
            ('\\', _) => escape(&mut rest, in_class, &mut out)?,
            ('[', false) => {
                let negated = next_if(&mut rest, '^');
                // An empty class matches nothing, and one that excludes nothing everything. To the crate, the bracket is a member.
                in_class = !next_if(&mut rest, ']');
                out.push_str(match (in_class, negated) {
                    (true, false) => "[",
                    (true, true) => "[^",
                    (false, false) => r"[^\s\S]",
                    (false, true) => r"[\s\S]",
                });
            }
            (']', true) => {
                in_class = false;
                out.push(']');
            }
            // Between brackets, these are operators of the crate.
            ('[' | '&' | '~', true) => out.extend(['\\', next]),
            ('-', true) if out.ends_with('-') => out.push_str("\\-"),
            ('.', false) => out.push_str(r"[^\n\r\u{2028}\u{2029}]"),
            ('(', false) if !is_group(rest.as_str()) => {
                let begin: String = rest.take(3).collect();
                return Err(refusal(&format!("({begin}")));
            }
            ('{', false) if rest.as_str().starts_with(',') => return Err(refusal("{,")),
            (other, _) => out.push(other),
        }
    }
    Ok(out)
}

/// Translates an escape, after its backslash.
fn escape(rest: &mut Chars<'_>, in_class: bool, out: &mut String) -> Result<(), String> {
    let Some(next) = rest.next() else {
        // Not a pattern in either syntax.
        out.push('\\');
        return Ok(());
    };
    let more = rest.as_str();
    let is_hex = || more.get(..2).is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    match next {
        'd' => out.push_str("[0-9]"),
        'D' => out.push_str("[^0-9]"),
        'w' => out.push_str("[0-9A-Za-z_]"),
        'W' => out.push_str("[^0-9A-Za-z_]"),
        's' => out.extend(["[", SPACE, "]"]),
        'S' => out.extend(["[^", SPACE, "]"]),
        'b' if in_class => out.push_str("\\x08"),
        'b' => out.push_str("(?-u:\\b)"),
        'B' if !in_class => out.push_str("(?-u:\\B)"),
        '0' if !more.starts_with(|next: char| next.is_ascii_digit()) => out.push_str("\\x00"),
        'c' if more.starts_with(|next: char| next.is_ascii_alphabetic()) => {
            let letter = rest.next().map_or(0, |letter| letter as u32 % 32);
            out.push_str(&format!("\\x{letter:02X}"));
        }
        'x' if is_hex() => out.push_str("\\x"),
        'p' | 'P' if more.starts_with('{') && !more.starts_with("{^") => out.extend(['\\', next]),
        // The crate says why it has no back references.
        't' | 'n' | 'v' | 'f' | 'r' | 'u' | '1'..='9' | 'k' => out.extend(['\\', next]),
        letter if letter.is_alphanumeric() => return Err(refusal(&format!("\\{letter}"))),
        other => out.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
    }
    Ok(())
}

/// Whether a group begins as in ECMA-262, after its parenthesis. What looks around is left to the crate, which says that it has none.
fn is_group(text: &str) -> bool {
    let Some(kind) = text.strip_prefix('?') else { return true };
    ["i:", "-i:", ":", "=", "!", "<"].iter().any(|known| kind.starts_with(known))
}

fn next_if(rest: &mut Chars<'_>, expected: char) -> bool {
    let found = rest.as_str().starts_with(expected);
    if found {
        rest.next();
    }
    found
}

fn refusal(part: &str) -> String {
    format!("it is not a pattern of ECMA-262: `{part}` has no meaning there, or another one")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::read(pattern).unwrap_or_else(|why| panic!("{pattern}: {why}")).regex.is_match(text)
    }

    /// As in ECMA-262, where the two differ.
    #[test]
    fn patterns_are_those_of_the_standard() {
        for (pattern, text, expected) in [
            (r"^\d+$", "12", true),
            (r"^\d$", "\u{0664}", false),
            (r"^\w$", "\u{e9}", false),
            (r"^\W$", "\u{e9}", true),
            (r"^[\w-]+$", "a-b_1", true),
            (r"^[^\W]+$", "a_1", true),
            (r"^\s$", "\u{feff}", true),
            (r"^\S$", "\u{feff}", false),
            (r"^[\s]$", "\u{a0}", true),
            (r"^\s$", "\u{85}", false),
            (r"^a.b$", "a\u{2028}b", false),
            (r"^a.b$", "a\u{1f600}b", true),
            (r"^[[]$", "[", true),
            (r"^[a&&b]+$", "a&b", true),
            (r"^[+--]$", ",", true),
            (r"^[a~~]$", "~", true),
            (r"^[^]$", "x", true),
            (r"^[]$", "x", false),
            (r"^\[[]$", "[x", false),
            (r"^[\b]$", "\u{8}", true),
            (r"\bab\b", "-ab-", true),
            (r"^\cA$", "\u{1}", true),
            (r"^\u0041\x42\/\-$", "AB/-", true),
            (r"^\p{L}+$", "\u{e9}a", true),
            (r"^a$", "a\n", false),
            (r"es", "expression", true),
            (r"^[\]]$", "]", true),
            (r"^\0$", "\0", true),
            (r"^\<a\>$", "<a>", true),
            (r"^\<a\>$", "a", false),
            (r"^[\<\>\_\@\ ]+$", "< >_@", true),
            (r"^[a\-z]+$", "-a", true),
            (r"^[a\-z]+$", "b", false),
            (r"^\.\*\&\~$", ".*&~", true),
            (r"^(?:a|(?<n>b)|(?i:c))$", "C", true),
            (r"^[(?x]+$", "(?x", true),
            (r"^\P{L}\v\f$", "1\u{b}\u{c}", true),
            (r"^\u{1f600}\u0041$", "\u{1f600}A", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text:?}");
        }
    }

    #[test]
    fn what_may_take_long_is_refused() {
        for pattern in [r"(a)\1", r"a(?=b)", r"(?!b)", r"(?<=a)b", r"[", r"(", r"a{2", r"(?<n>a)\k<n>"] {
            let why = Pattern::read(pattern).unwrap_err();
            assert!(why.starts_with("it is not a pattern") && !why.contains('\n'), "{pattern}: {why}");
        }
        for pattern in [
            r"\a",
            r"\A",
            r"a\z",
            r"\x{41}",
            r"\x4",
            r"\c1",
            r"(?x) a",
            r"(?P<n>a)",
            r"(?i)a",
            r"(?U:a+)",
            r"(?s:.)",
            r"\pL",
            r"\p{^L}",
            r"\U00000041",
            r"\Qa\E",
            r"\e",
            r"\01",
            r"[\B]",
            r"a{,3}",
            "\\\u{e9}",
        ] {
            let why = Pattern::read(pattern).unwrap_err();
            assert!(why.starts_with("it is not a pattern of ECMA-262: `"), "{pattern}: {why}");
        }
        assert!(Pattern::read(r"(\p{L}{200}){200}").unwrap_err().contains("over"));
        assert!(Pattern::read(&"a".repeat(BYTES + 1)).unwrap_err().contains("more than"));
        assert!(matches("^(a+)+$", &"a".repeat(100_000)));
    }
}
