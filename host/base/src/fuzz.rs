//! How fuzz targets read their input. The targets are beside the parsers that they test; `lodge::fuzz` lists them all.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The first line of an input and what follows it.
pub fn line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (line, rest) = bytes.split_at_checked(end).unwrap_or_default();
    (line, rest.get(1..).unwrap_or_default())
}

/// Headers as `name: value` lines. A line that HTTP does not allow ends them: hyper would have refused the request.
pub fn header_lines(mut bytes: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    while !bytes.is_empty() {
        let (field, rest) = line(bytes);
        bytes = rest;
        let colon = field.iter().position(|byte| *byte == b':').unwrap_or(field.len());
        let (name, value) = field.split_at_checked(colon).unwrap_or_default();
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else { break };
        headers.append(name, value);
    }
    headers
}
