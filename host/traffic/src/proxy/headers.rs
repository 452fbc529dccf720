//! The headers of incoming requests: removes hop-by-hop headers, brings host and path into canonical form, and writes
//! the forwarding headers, so that guests do not depend on what clients claim.

mod peer;
mod target;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Version, request};
use http_body::Frame;

pub use self::peer::Peer;
use self::peer::{RequestHost, element};
pub use self::target::{rewrite, strip_prefix};
use super::upgrade::OfferedProtocols;
use lodge_base::canonical;
use lodge_base::headers::{
    IDENTITY, is_controlled, is_hop_by_hop, is_hosts_own, is_identity, is_same, plain_name, remove_where,
};

/// The reason why HTTP does not allow a request.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// The head is not valid, for this reason.
    #[error("{0}")]
    Head(&'static str),
    /// The request's transfer codings include an unknown one, or `chunked` twice. The end of the body, and so
    /// everything after it on the connection, cannot be determined.
    #[error("the Transfer-Encoding header must be `chunked`, exactly once")]
    Framing,
}

/// How a request header is treated.
enum FieldKind {
    /// The header is kept.
    Other,
    /// The header is about the connection and is removed.
    Hop,
    /// The header identifies the client, or shows that a proxy forwarded the request.
    Forwarding,
    /// The header says whose request it is, and is removed from every request.
    Verified,
    /// With `-` in place of `_`, `.` and the like, the name would be one that this host controls. CGI and similar interfaces cannot
    /// distinguish the two.
    Alias,
}

/// Classifies a header. Every header of every request is classified; for most this reads only the first letter.
fn kind(name: &HeaderName) -> FieldKind {
    let text = name.as_str();
    if !matches!(text.as_bytes().first(), Some(b'c' | b'f' | b'h' | b'k' | b'p' | b't' | b'u' | b'v' | b'x')) {
        return FieldKind::Other;
    }
    if let Some(plain) = plain_name(text) {
        return if is_controlled(&plain) { FieldKind::Alias } else { FieldKind::Other };
    }
    match () {
        () if is_hop_by_hop(text) => FieldKind::Hop,
        () if is_identity(text) || text == "via" => FieldKind::Forwarding,
        () if text.starts_with(IDENTITY) => FieldKind::Verified,
        () => FieldKind::Other,
    }
}

/// Whether a proxy added a header to the request: then the client is not the peer of the connection.
pub fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| matches!(kind(name), FieldKind::Forwarding))
}

const FORWARDED: HeaderName = header::FORWARDED;
const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// What the verified certificate of the client contains, in the form of Envoy.
pub const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// The request id's header, in requests and responses.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// An extension of requests whose head has more fields than `listener.headers`.
#[derive(Clone, Copy, Debug)]
pub struct TooManyFields;

impl TooManyFields {
    /// Whether there are more than `most` fields. The `Cookie` fields into which HTTP/2 splits one count as one (RFC
    /// 9113 8.2.3).
    pub fn applies(headers: &HeaderMap, most: usize) -> bool {
        let extra = || headers.get_all(header::COOKIE).iter().count().saturating_sub(1);
        headers.len() > most && headers.len() - extra() > most
    }
}

/// How a request arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The client is on this machine, and no proxy forwarded the request.
    pub local: bool,
}

/// Brings a request's head into the form that guests see: an absolute target with host and path in [canonical] form, no
/// hop-by-hop headers, and forwarding headers that this host vouches for.
///
/// # Errors
/// When HTTP does not allow the request.
pub fn normalize(head: &mut request::Parts, peer: &Peer) -> Result<Arrival, Malformed> {
    if head.method == Method::CONNECT {
        return Err(Malformed::Head("CONNECT is not supported: this server is not a forward proxy"));
    }
    let scheme = peer.scheme(&head.headers).clone();
    let request_host = request_host(head, peer, &scheme)?;
    OfferedProtocols::detect(head, peer.valid_until());
    let (mut dropped, mut forwarded) = (Vec::new(), false);
    for name in head.headers.keys() {
        match kind(name) {
            FieldKind::Other => continue,
            FieldKind::Forwarding => {
                forwarded = true;
                if peer.trusted || *name == header::VIA {
                    continue;
                }
            }
            FieldKind::Hop | FieldKind::Alias | FieldKind::Verified => {}
        }
        dropped.push(name.clone());
    }
    if !has_known_coding(&head.headers) {
        return Err(Malformed::Framing);
    }
    drop_hop_by_hop(&mut head.headers, dropped, |name| !is_hosts_own(name.as_str()));
    if head.version == Version::HTTP_2 {
        join_cookies(&mut head.headers)?;
    }
    if peer.trusted {
        append_forwarding(&mut head.headers, &request_host.authority, peer, &scheme)?;
    } else {
        set_forwarding(&mut head.headers, &request_host, peer);
    }
    let normal = head.uri.path_and_query().map_or(Ok(None), |target| normal_target(target, &head.method))?;
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.path_and_query = normal.or(parts.path_and_query);
    (parts.scheme, parts.authority) = (Some(scheme), Some(request_host.authority.clone()));
    head.uri = Uri::from_parts(parts).map_err(|_| BAD_TARGET)?;
    Ok(Arrival { local: peer.address.is_loopback() && !peer.trusted && !peer.relayed && !forwarded })
}

const BAD_TARGET: Malformed = Malformed::Head("the request target is not valid");

/// Returns the target with its path in normal form, or `None` if it has that form. `*` is only for OPTIONS (RFC 9112
/// 3.2.4), and an empty path is `/` (RFC 9110 4.2.3).
fn normal_target(target: &PathAndQuery, method: &Method) -> Result<Option<PathAndQuery>, Malformed> {
    if target.as_str() == "*" {
        return if *method == Method::OPTIONS { Ok(None) } else { Err(BAD_TARGET) };
    }
    let (path, whole) = (target.path(), target.as_str().starts_with('/'));
    if whole && canonical::is_plain(path) {
        return Ok(None);
    }
    let normal = canonical::normal(path).ok_or(BAD_TARGET)?;
    if whole && normal == path {
        return Ok(None);
    }
    let (mark, query) = target.query().map_or(("", ""), |query| ("?", query));
    format!("{normal}{mark}{query}").parse().map(Some).map_err(|_| BAD_TARGET)
}

/// Joins the `Cookie` fields that an HTTP/2 client may split into one, which guests and HTTP/1.1 replicas need (RFC
/// 9113 8.2.3).
fn join_cookies(headers: &mut HeaderMap) -> Result<(), Malformed> {
    let mut crumbs = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return Ok(()) };
    let mut joined = first.to_vec();
    for crumb in [second].into_iter().chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb);
    }
    let joined = HeaderValue::from_bytes(&joined).map_err(|_| Malformed::Head("the Cookie header is not valid"))?;
    headers.insert(header::COOKIE, joined);
    Ok(())
}

/// Removes hop-by-hop headers. `te: trailers` stays: it says what the client understands, and gRPC guests check it.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let dropped = headers.keys().filter(|name| is_hop_by_hop(name.as_str())).cloned().collect();
    drop_hop_by_hop(headers, dropped, |_| true);
}

/// Further headers that no trailer may be: how long the body is and what it contains, and whose request it is.
const HEAD_ONLY: [HeaderName; 8] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::TRAILER,
    header::AUTHORIZATION,
    header::COOKIE,
    HeaderName::from_static("x-api-key"),
];

/// Filters a frame of a request's body. Removes trailers that only a header section may have (RFC 9110 6.5.1), because
/// some servers merge trailers into the headers.
pub fn filter_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    let mut trailers = match frame.into_trailers() {
        Ok(trailers) => trailers,
        Err(frame) => return frame,
    };
    let is_heads = |name: &HeaderName| {
        let is_other = matches!(kind(name), FieldKind::Other) && !is_hosts_own(name.as_str());
        !is_other || HEAD_ONLY.iter().any(|known| is_same(known.as_str(), name.as_str()))
    };
    remove_where(&mut trailers, is_heads);
    Frame::trailers(trailers)
}

/// Whether the body has no transfer coding, or only the chunked one. hyper decodes chunks only, and who does not learn of another
/// coding would read compressed bytes as plain ones. A second `chunked` is a smuggling attempt (RFC 9112 6.1).
pub fn has_known_coding(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(line) = lines.next() else { return true };
    line.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") && lines.next().is_none()
}

/// Removes `dropped`, and the headers that `Connection` names if `may` allows it.
fn drop_hop_by_hop(headers: &mut HeaderMap, mut dropped: Vec<HeaderName>, may: impl Fn(&HeaderName) -> bool) {
    if dropped.is_empty() {
        return;
    }
    for value in headers.get_all(header::CONNECTION) {
        let names = value.to_str().unwrap_or_default().split(',');
        dropped.extend(names.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok()).filter(&may));
    }
    let wants_trailers = headers.get_all(header::TE).iter().any(|value| {
        value.to_str().is_ok_and(|value| value.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers")))
    });
    // With both headers, the length is not that of the body (RFC 9112 6.3).
    if dropped.contains(&header::TRANSFER_ENCODING) {
        dropped.push(header::CONTENT_LENGTH);
    }
    for name in &dropped {
        headers.remove(name);
    }
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Returns the authority of the target, else the Host header's, in canonical form, and writes that to the Host header.
/// HTTP/1.0 requests may have neither.
fn request_host(head: &mut request::Parts, peer: &Peer, scheme: &Scheme) -> Result<Arc<RequestHost>, Malformed> {
    const BAD: Malformed = Malformed::Head("the Host header is not valid");
    const MISSING: Malformed = Malformed::Head("the Host header is missing");
    const TWO: Malformed = Malformed::Head("the Host header differs from the host of the request target");
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return Err(Malformed::Head("more than one Host header"));
    }
    let local;
    let said = match (head.uri.authority(), host) {
        (Some(authority), _) => authority.as_str().as_bytes(),
        (None, Some(host)) => host.as_bytes(),
        (None, None) if head.version == Version::HTTP_10 => {
            local = peer.local.to_string();
            local.as_bytes()
        }
        (None, None) => return Err(MISSING),
    };
    if host.is_none() && head.version == Version::HTTP_11 && !peer.inside {
        return Err(MISSING);
    }
    let request_host = peer.canonical(said, scheme).ok_or(BAD)?;
    let differs = host.is_some_and(|host| *host != request_host.host);
    if differs && head.uri.authority().is_some() {
        // HTTP/1.1 ignores the Host header when the target has a host (RFC 9112 3.2.2), but it has to be valid. An
        // HTTP/2 request with two different hosts is malformed (RFC 9113 8.3.1).
        let own = host.and_then(|host| canonical::authority(host.as_bytes(), scheme)).ok_or(BAD)?;
        if head.version == Version::HTTP_2 && own != request_host.authority {
            return Err(TWO);
        }
    }
    if differs {
        head.headers.insert(header::HOST, request_host.host.clone());
    }
    Ok(request_host)
}

/// Writes the forwarding headers anew; the client's own were removed before.
fn set_forwarding(headers: &mut HeaderMap, request_host: &RequestHost, peer: &Peer) {
    headers.insert(FORWARDED, request_host.forwarded.clone());
    headers.insert(FOR, peer.plain.clone());
    headers.insert(PROTO, scheme_value(&request_host.scheme));
    headers.insert(HOST, request_host.host.clone());
    if let Some(certificate) = &peer.certificate {
        headers.insert(CLIENT_CERT, certificate.header.clone());
    }
}

fn scheme_value(scheme: &Scheme) -> HeaderValue {
    HeaderValue::from_static(if *scheme == Scheme::HTTPS { "https" } else { "http" })
}

/// Returns the scheme that the client used according to a trusted proxy: the first element of the list, to which each
/// proxy appends; `None` if the header is missing.
fn forwarded_scheme(headers: &HeaderMap) -> Option<&'static Scheme> {
    let first = headers.get(PROTO)?.as_bytes().split(|byte| *byte == b',').next()?;
    let https = first.trim_ascii().eq_ignore_ascii_case(b"https");
    Some(if https { &Scheme::HTTPS } else { &Scheme::HTTP })
}

/// Appends this hop to the forwarding headers of a trusted proxy.
fn append_forwarding(
    headers: &mut HeaderMap,
    authority: &Authority,
    peer: &Peer,
    scheme: &Scheme,
) -> Result<(), Malformed> {
    const BAD: Malformed = Malformed::Head("the forwarding headers are not valid");
    let element = element(peer, authority, scheme);
    let append = |headers: &mut HeaderMap, name: HeaderName, own: &str| -> Result<(), Malformed> {
        // The values are joined as bytes: a client can make a proxy forward bytes that are not text, and the proxy's
        // own element follows them.
        let mut all: Vec<u8> =
            headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b", "[..]);
        if !all.is_empty() {
            all.extend_from_slice(b", ");
        }
        all.extend_from_slice(own.as_bytes());
        headers.insert(name, HeaderValue::from_bytes(&all).map_err(|_| BAD)?);
        Ok(())
    };
    append(headers, FORWARDED, &element)?;
    if headers.contains_key(FOR) {
        append(headers, FOR, peer.plain.to_str().unwrap_or("unknown"))?;
    } else {
        headers.insert(FOR, peer.plain.clone());
    }
    if !headers.contains_key(PROTO) {
        headers.insert(PROTO, scheme_value(scheme));
    }
    if !headers.contains_key(HOST) {
        headers.insert(HOST, HeaderValue::from_str(authority.as_str()).map_err(|_| BAD)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
