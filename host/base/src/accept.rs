//! Whether a client is a browser that shows pages.

use http::header::{ACCEPT, HeaderMap};

/// Whether `Accept` names `text/html`, and not with a quality of 0. `*/*` does not: programs send it.
pub fn names_html(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(ACCEPT).iter().map(http::HeaderValue::as_bytes);
    lines.flat_map(|line| line.split(|byte| *byte == b',')).any(|range| {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let html = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/html"));
        html && !parts.any(is_zero)
    })
}

/// Whether this parameter is a quality of 0 (RFC 9110 12.4.2).
fn is_zero(parameter: &[u8]) -> bool {
    let quality = parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q="));
    quality.is_some_and(|quality| quality.starts_with(b"0") && quality.iter().all(|byte| matches!(byte, b'0' | b'.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_browsers_name_pages() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for (lines, expected) in [
            (&[][..], false),
            (&["*/*"], false),
            (&["text/*"], false),
            (&["application/json"], false),
            (&["text/htmlx"], false),
            (&["text/html"], true),
            (&["TEXT/HTML ; q=0.5"], true),
            (&["text/html;level=1"], true),
            (&["text/html;q=0"], false),
            (&["text/html; Q=0.000"], false),
            (&["text/html;q=0.001"], true),
            (&[browser], true),
            (&["application/json", "text/html"], true),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(ACCEPT, line.parse().unwrap());
            }
            assert_eq!(names_html(&headers), expected, "{lines:?}");
        }
    }
}
