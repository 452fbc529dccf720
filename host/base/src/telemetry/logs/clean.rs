//! Escapes text from guests, clients and file names, which must neither end a log line nor control the reader's
//! terminal.
//!
//! Applied in the two places that every line passes: the writer and the tail.

use std::borrow::Cow;

/// Replaces each such character by [`char::REPLACEMENT_CHARACTER`]. Tabs stay.
pub fn clean(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_hostile) {
        text.chars().map(|c| if is_hostile(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
    } else {
        text.into()
    }
}

/// Cleans a log line of text or JSON, so that only its last character ends a line. In JSON escaped characters are
/// replaced, too, because parsing the line would restore them.
pub(super) fn line(line: &[u8], json: bool) -> Cow<'_, [u8]> {
    let body = line.strip_suffix(b"\n").unwrap_or(line);
    let plain = body.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
    if plain && line.len() > body.len() && !(json && body.contains(&b'\\')) {
        return line.into();
    }
    let text = String::from_utf8_lossy(body);
    let mut cleaned = if json { unescaped(&text) } else { clean(&text).into_owned() };
    cleaned.push('\n');
    cleaned.into_bytes().into()
}

/// Replaces hostile characters in JSON, literal or escaped.
fn unescaped(json: &str) -> String {
    let mut cleaned = String::with_capacity(json.len());
    let mut chars = json.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            cleaned.push(if is_hostile(c) { char::REPLACEMENT_CHARACTER } else { c });
            continue;
        }
        match chars.next() {
            Some('n' | 'r' | 'b' | 'f') => cleaned.push(char::REPLACEMENT_CHARACTER),
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                let escaped = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                if escaped.is_some_and(is_hostile) {
                    cleaned.push(char::REPLACEMENT_CHARACTER);
                } else {
                    cleaned.push_str("\\u");
                    cleaned.push_str(&digits);
                }
            }
            escaped => {
                cleaned.push('\\');
                cleaned.extend(escaped);
            }
        }
    }
    cleaned
}

/// Returns a text of another program as part of one line, of at most `most` characters. Each character that would not be seen as one, or
/// that changes how others are shown, becomes a space.
pub fn foreign_line(text: &str, most: usize) -> String {
    let plain = |c: char| if c.is_control() || is_hostile(c) || is_invisible(c) { ' ' } else { c };
    text.chars().map(plain).take(most).collect::<String>().trim().to_owned()
}

/// Whether a character has no shape of its own. Guests may write these, as parts of emoji and of some scripts.
fn is_invisible(c: char) -> bool {
    let without_width =
        matches!(c, '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    without_width || matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Whether a character can end the line, change the direction of text, or begin a control sequence of a terminal.
pub fn is_hostile(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (c.is_control() && c != '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(text: &str, json: bool) -> String {
        String::from_utf8(line(text.as_bytes(), json).into_owned()).unwrap()
    }

    #[test]
    fn a_line_is_one_line() {
        assert!(matches!(line(b"plain\ttext\n", false), Cow::Borrowed(_)));
        assert!(matches!(line(b"{\"a\":\"b\"}\n", true), Cow::Borrowed(_)));
        assert_eq!(cleaned("ünïcode 日本\n", false), "ünïcode 日本\n");
        assert_eq!(cleaned("a\nb\r\x1b[2J\u{202e}\u{85}c\\n\n", false), "a�b��[2J��c\\n\n");
        assert_eq!(cleaned("no end", false), "no end\n");
        assert_eq!(line(b"\xff\n", false), "\u{fffd}\n".as_bytes());
    }

    #[test]
    fn texts_of_others_are_one_line() {
        let hostile =
            "a\u{2028}b\u{202e}c\u{1b}[31m\r\nd\te\u{feff}f\u{200b}g\u{ad}h\u{e0041}i\u{61c}j\u{2066}k\u{85}l";
        assert_eq!(foreign_line(hostile, 100), "a b c [31m  d e f g h i j k l");
        assert_eq!(foreign_line(&format!("\n{}", "é".repeat(9)), 5), "éééé");
    }

    #[test]
    fn json_escapes_are_not_decoded() {
        for hostile in ['\n', '\r', '\u{8}', '\u{c}', '\0', '\u{1b}', '\u{7f}', '\u{9b}', '\u{202e}', '\u{2028}'] {
            for around in ["", "\\", "\"", "\\\\", "\\u", "\t"] {
                let value = serde_json::json!({ "message": format!("a{around}{hostile}b") });
                let text = cleaned(&format!("{value}\n"), true);
                let read: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert_eq!(read["message"], format!("a{around}\u{fffd}b"), "{text}");
            }
        }
        let harmless = serde_json::json!({ "message": "\"\\ \t \\n \\u001b é" });
        assert_eq!(cleaned(&format!("{harmless}\n"), true), format!("{harmless}\n"));
    }
}
