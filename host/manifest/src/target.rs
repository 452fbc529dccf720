//! Paths that the host itself sends requests to.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// What a path may not contain as it is. `%` may, for what is encoded already.
const SPECIAL: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'`');

/// Checks a path, which may have a query. `example` is one.
///
/// # Errors
/// What to write instead.
pub(crate) fn check(text: &str, example: &str) -> Result<(), String> {
    let shown = text.escape_debug();
    if !text.starts_with('/') {
        return Err(format!("`{shown}` is not a path; write it like {example}"));
    }
    if text.contains('#') {
        return Err(format!("`{shown}` has a fragment, which is never sent; remove it, or write %23 for a #"));
    }
    let encoded = utf8_percent_encode(text, SPECIAL).to_string();
    if encoded != text {
        return Err(format!("`{shown}` is not a path; write {encoded}"));
    }
    match http::uri::PathAndQuery::try_from(text) {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("`{shown}` is not a path; write it like {example}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_sent_as_it_is_written() {
        for text in ["/", "/a", "/a%20b?c=d&e", "/x:y/~z;v=1", "/a?b?c"] {
            assert_eq!(check(text, "/x"), Ok(()));
        }
        for (text, said) in [
            ("", "`` is not a path; write it like /x"),
            ("a b", "`a b` is not a path; write it like /x"),
            ("/a b", "`/a b` is not a path; write /a%20b"),
            ("/ä?{x}", "`/ä?{x}` is not a path; write /%C3%A4?{x}"),
            ("/a\nb", "`/a\\nb` is not a path; write /a%0Ab"),
            ("/a#b", "`/a#b` has a fragment, which is never sent; remove it, or write %23 for a #"),
        ] {
            assert_eq!(check(text, "/x"), Err(said.to_owned()));
        }
        // What is proposed is accepted.
        for byte in 0..128_u8 {
            let text = format!("/a{}b?c{}", char::from(byte), char::from(byte));
            let proposed =
                check(&text, "/x").err().and_then(|said| said.split_once("; write /").map(|it| it.1.to_owned()));
            if let Some(proposed) = proposed {
                assert_eq!(check(&format!("/{proposed}"), "/x"), Ok(()), "{text:?}");
            }
        }
    }
}
