//! What is needed of the XML of S3: elements by their names, without attributes. It is not a parser of XML: the documents are those
//! of one server, their names are known, and keys have no characters that XML encodes.

/// Returns the text of the first element `name`, as it is written.
pub(crate) fn text<'a>(document: &'a str, name: &str) -> Option<&'a str> {
    elements(document, name).next()
}

/// Returns the contents of all elements `name`, which do not contain each other.
pub(crate) fn elements<'a>(document: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (open, close) = (format!("<{name}"), format!("</{name}>"));
    let mut rest = document;
    std::iter::from_fn(move || {
        loop {
            let (_, after) = rest.split_once(open.as_str())?;
            let (attributes, inside) = after.split_once('>')?;
            rest = inside;
            // Not that of a longer name.
            if !attributes.is_empty() && !attributes.starts_with([' ', '/']) {
                continue;
            }
            if attributes.ends_with('/') {
                return Some("");
            }
            let (content, after) = inside.split_once(close.as_str())?;
            rest = after;
            return Some(content);
        }
    })
}

/// Returns text without the references of XML.
pub(crate) fn unescape(text: &str) -> String {
    text.replace("&quot;", "\"")
        .replace("&#34;", "\"")
        .replace("&apos;", "'")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found() {
        let document = r#"<?xml version="1.0"?><R xmlns="x"><Keys/><Key>a</Key><C><Key>b</Key></C><Empty/><Key>c"#;
        assert_eq!(elements(document, "Key").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((text(document, "Empty"), text(document, "None")), (Some(""), None));
        assert_eq!(text(r#"<R xmlns="x">in</R>"#, "R"), Some("in"));
        assert_eq!(unescape("&quot;a&amp;lt;&quot;"), "\"a&lt;\"");
    }
}
