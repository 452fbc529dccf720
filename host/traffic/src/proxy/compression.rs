//! Whether a response is compressed, and what its head says then (RFC 9110, 7.7, 8.4 and 12.5.5).
//!
//! The host compresses at the end of a request, whatever wrote the response: the cache stores what the service sent.

pub mod body;
pub mod encoder;
pub mod fuzz;
pub mod memory;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, response};

use super::coding::AcceptedCodings;
use super::lists::{self, Quoting};
use lodge_manifest::compress::{Coding, CompressionRules};

/// Fields about the bytes of a body, which are others when it is compressed.
const OF_BYTES: [HeaderName; 6] = [
    header::CONTENT_LENGTH,
    header::ACCEPT_RANGES,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// What decides about the response to one request.
#[derive(Debug)]
pub struct CompressionRequest {
    accepted: AcceptedCodings,
    /// Its `If-None-Match`.
    known: HeaderMap,
    head_only: bool,
}

impl CompressionRequest {
    /// Reads the head of a request.
    pub fn new(method: &Method, headers: &HeaderMap) -> Self {
        let accepted =
            if is_transformable(headers) { AcceptedCodings::of(headers) } else { AcceptedCodings::default() };
        let mut known = HeaderMap::new();
        for tags in headers.get_all(header::IF_NONE_MATCH) {
            known.append(header::IF_NONE_MATCH, tags.clone());
        }
        Self { accepted, known, head_only: *method == Method::HEAD }
    }

    /// Whether the request is for a head alone, which is that of the response to GET.
    pub fn is_head(&self) -> bool {
        self.head_only
    }

    /// The codings for the response, the best one first.
    pub fn codings(&self, rules: &CompressionRules) -> impl Iterator<Item = Coding> + use<> {
        self.accepted.among(&rules.codings)
    }

    /// Whether a response may be compressed. Its head says then that it depends on what the client accepts. `size` is that of the body
    /// in bytes, if it is known.
    pub fn prepare(&self, rules: &CompressionRules, head: &mut response::Parts, size: Option<u64>) -> bool {
        if head.status == StatusCode::NOT_MODIFIED {
            self.prepare_not_modified(rules, &mut head.headers);
            return false;
        }
        let announced = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let size = announced.or(size.filter(|_| !self.head_only));
        let suits = is_whole(head.status, &head.headers) && is_compressible(rules, &head.headers, size);
        if suits {
            // Also if this one is not compressed, or a cache would send it to all.
            add_vary(&mut head.headers);
        }
        suits
    }

    /// The response that the client has may be a compressed one: then it knows its entity tag as a weak one.
    fn prepare_not_modified(&self, rules: &CompressionRules, headers: &mut HeaderMap) {
        add_vary(headers);
        let tag = headers.get(header::ETAG).map(HeaderValue::as_bytes).unwrap_or_default();
        let mut tags = lists::elements(&self.known, &header::IF_NONE_MATCH, Quoting::Literal);
        if tags.any(|known| known.strip_prefix(b"W/") == Some(tag)) && self.codings(rules).next().is_some() {
            weaken(headers);
        }
    }
}

/// Changes the head of a response whose body will have this coding.
pub fn write_head(coding: Coding, headers: &mut HeaderMap) {
    for name in &OF_BYTES {
        headers.remove(name);
    }
    drop_announced(headers);
    headers.insert(header::CONTENT_ENCODING, coding.value());
    weaken(headers);
}

/// Removes the trailers about the bytes of a body, which are those before it was compressed.
fn without_digests(mut trailers: HeaderMap) -> HeaderMap {
    for name in &OF_BYTES {
        trailers.remove(name);
    }
    trailers
}

/// Removes the names of such trailers from the field that announces them.
fn drop_announced(headers: &mut HeaderMap) {
    let is_of_bytes = |name: &[u8]| OF_BYTES.iter().any(|field| name.eq_ignore_ascii_case(field.as_str().as_bytes()));
    let mut names = lists::elements(headers, &header::TRAILER, Quoting::Literal);
    if !names.any(is_of_bytes) {
        return;
    }
    drop(names);
    let names = lists::elements(headers, &header::TRAILER, Quoting::Literal);
    let kept = names.filter(|name| !is_of_bytes(name)).collect::<Vec<_>>().join(&b", "[..]);
    headers.remove(header::TRAILER);
    if let Some(kept) = HeaderValue::from_bytes(&kept).ok().filter(|kept| !kept.is_empty()) {
        headers.insert(header::TRAILER, kept);
    }
}

/// Whether a response has all bytes of a representation, as it is.
fn is_whole(status: StatusCode, headers: &HeaderMap) -> bool {
    let without = [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::PARTIAL_CONTENT];
    !status.is_informational()
        && !without.contains(&status)
        && !headers.contains_key(header::CONTENT_ENCODING)
        && !headers.contains_key(header::CONTENT_RANGE)
        && is_transformable(headers)
}

/// Whether the sender of a message does not forbid to transform it. A line that cannot be read might.
fn is_transformable(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::CACHE_CONTROL);
    lines.iter().all(|line| lists::is_closed(line.as_bytes(), Quoting::Escapes))
        && !lists::elements(headers, &header::CACHE_CONTROL, Quoting::Escapes).any(|directive| {
            let name = directive.split(|byte| *byte == b'=').next().unwrap_or_default();
            name.trim_ascii().eq_ignore_ascii_case(b"no-transform")
        })
}

fn is_compressible(rules: &CompressionRules, headers: &HeaderMap, size: Option<u64>) -> bool {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let kind = kinds.next().filter(|_| kinds.next().is_none()).and_then(|kind| kind.to_str().ok());
    size.is_none_or(|size| size > 0 && size >= rules.min_size) && kind.is_some_and(|kind| rules.takes(kind))
}

fn add_vary(headers: &mut HeaderMap) {
    let known = |name: &[u8]| name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding");
    if !lists::elements(headers, &header::VARY, Quoting::Escapes).any(known) {
        headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
}

/// Makes an entity tag weak: the same content has other bytes now (RFC 9110, 8.8.3.3).
fn weaken(headers: &mut HeaderMap) {
    let strong = headers.get(header::ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"));
    let weak = strong.and_then(|tag| HeaderValue::from_bytes(&[&b"W/"[..], tag.as_bytes()].concat()).ok());
    if let Some(weak) = weak {
        headers.insert(header::ETAG, weak);
    }
}

#[cfg(test)]
mod tests;
