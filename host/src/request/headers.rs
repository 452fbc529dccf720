//! Headers that belong to a connection stop here, and what the guest is told of the client is the host's own word.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, Scheme, Uri};
use http::{Method, Version, request};
use ipnet::IpNet;

use super::upgrade::Wanted;
use crate::capabilities::sandbox::lock;
use crate::error::RequestError;
use crate::ids::hash_of;

/// Meant for the next hop only (RFC 9110, 7.6.1), and what else is about the connection and not the message.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Says who the client is, and is therefore worth forging.
fn is_identity(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, "forwarded" | "x-real-ip") || name.starts_with("x-forwarded-")
}

const FORWARDED: HeaderName = header::FORWARDED;
const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// The header that carries the request id, both ways.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Who is at the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    address: IpAddr,
    local: SocketAddr,
    trusted: bool,
    /// The address as header values, made once per connection.
    plain: HeaderValue,
    element: String,
    /// What the last request was for: usually what the next one is for.
    last: Mutex<Option<Arc<Asked>>>,
}

/// The host that a client asked for, as the guest is told of it.
#[derive(Debug)]
struct Asked {
    authority: Authority,
    /// The authority in the client's own words.
    said: Box<[u8]>,
    host: HeaderValue,
    /// The whole `Forwarded` of a client that is not trusted.
    forwarded: HeaderValue,
}

impl Peer {
    /// The peer at `remote`, reached at `local`; trusted when one of `proxies` holds its address.
    pub fn new(remote: SocketAddr, local: SocketAddr, proxies: &[IpNet]) -> Self {
        let address = remote.ip().to_canonical();
        let element = match address {
            IpAddr::V4(v4) => format!("for={v4}"),
            IpAddr::V6(v6) => format!("for=\"[{v6}]\""),
        };
        // An address is always a valid header value; were it not, the guest would be told nothing.
        let plain = HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        let trusted = proxies.iter().any(|net| net.contains(&address));
        Self { address, local, trusted, plain, element, last: Mutex::new(None) }
    }

    /// A service of this host, which calls another: an address has only the host, and a name is what RFC 7239 has for
    /// what has none. Policies and logs go by addresses all the same, so each has one that no client has: in
    /// fd6c:6f64:6765::/48, by its name.
    pub fn service(name: &str) -> Self {
        // What may stand in such a name is less than in a version's.
        let shown = format!("_{}", name.replace('@', "."));
        let [a, b, c, d, e, f, g, h] = hash_of(name.as_bytes()).to_be_bytes();
        let address = [0xfd, b'l', b'o', b'd', b'g', b'e', a, b, c, d, e, f, g, h, 0, 1];
        Self {
            address: IpAddr::from(address),
            local: SocketAddr::from(([127, 0, 0, 1], 0)),
            trusted: false,
            plain: HeaderValue::from_str(&shown).unwrap_or(HeaderValue::from_static("unknown")),
            element: format!("for={shown}"),
            last: Mutex::new(None),
        }
    }

    /// Its address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether it is a proxy that is believed.
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// The id that a trusted proxy gave the request, if it is a sane one.
    pub fn request_id<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let id = headers.get(REQUEST_ID).filter(|_| self.trusted)?.to_str().ok()?;
        let sane = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        (sane && (1..=128).contains(&id.len())).then_some(id)
    }
}

/// Makes a request head into what the guest sees: absolute, with its hop-by-hop headers gone, and with the host's own
/// word on who the client is.
///
/// # Errors
/// When the head is one that HTTP does not allow to be served.
pub fn arrive(head: &mut request::Parts, peer: &Peer) -> Result<(), RequestError> {
    if head.method == Method::CONNECT {
        return Err(RequestError::BadRequest("CONNECT is for proxies, and this is none"));
    }
    let asked = asked(head, peer)?;
    Wanted::note(head);
    let dropped = hop_by_hop(&head.headers);
    if dropped.contains(&header::TRANSFER_ENCODING) && !is_chunked_once(&head.headers) {
        return Err(RequestError::BadFraming);
    }
    drop_hop_by_hop(&mut head.headers, dropped);
    let scheme = if peer.trusted {
        forward(&mut head.headers, &asked.authority, peer)?
    } else {
        introduce(&mut head.headers, &asked, peer)
    };
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    (parts.scheme, parts.authority) = (Some(scheme), Some(asked.authority.clone()));
    head.uri = Uri::from_parts(parts).map_err(|_| RequestError::BadRequest("the request target is not valid"))?;
    Ok(())
}

/// Removes what is meant for the next hop only. `te: trailers` stays: it says what the client understands, and gRPC
/// guests ask for it.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    drop_hop_by_hop(headers, hop_by_hop(headers));
}

fn hop_by_hop(headers: &HeaderMap) -> Vec<HeaderName> {
    headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect()
}

/// Whether a body is in chunks and in nothing else: what hyper takes off is the chunks, and a guest that is not told of
/// another coding would take compressed bytes for plain ones. Twice is a trick (RFC 9112, 6.1).
fn is_chunked_once(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    let only = lines.next().is_some_and(|line| line.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"));
    only && lines.next().is_none()
}

/// Removes these, and what `Connection` names.
fn drop_hop_by_hop(headers: &mut HeaderMap, mut dropped: Vec<HeaderName>) {
    if dropped.is_empty() {
        return;
    }
    for value in headers.get_all(header::CONNECTION) {
        let names = value.to_str().unwrap_or_default().split(',');
        dropped.extend(names.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok()));
    }
    let wants_trailers = headers.get_all(header::TE).iter().any(|value| {
        value.to_str().is_ok_and(|value| value.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers")))
    });
    // Where both are, the length is not the body's (RFC 9112, 6.3).
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

/// Takes the first `length` bytes off the path, and tells the guest which in `X-Forwarded-Prefix`.
///
/// # Errors
/// Never for a length that a route has matched.
pub fn strip_prefix(head: &mut request::Parts, length: usize) -> Result<(), RequestError> {
    const BAD: RequestError = RequestError::BadRequest("the request target is not valid");
    let (prefix, rest) = head.uri.path().split_at_checked(length).ok_or(BAD)?;
    let outer = head.headers.get(PREFIX).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let forwarded = HeaderValue::try_from(format!("{outer}{prefix}")).map_err(|_| BAD)?;
    let slash = if rest.starts_with('/') { "" } else { "/" };
    let query = head.uri.query().map_or(String::new(), |query| format!("?{query}"));
    let path = format!("{slash}{rest}{query}");
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.path_and_query = Some(path.parse().map_err(|_| BAD)?);
    head.uri = Uri::from_parts(parts).map_err(|_| BAD)?;
    head.headers.insert(PREFIX, forwarded);
    Ok(())
}

/// What was asked for as the client has it, by the word of a proxy that is believed: the host and the first part of the path
/// may be others there. Answers depend on both.
pub fn outer(head: &request::Parts, peer: &Peer) -> Uri {
    let said =
        |name: &HeaderName| head.headers.get(name).filter(|_| peer.trusted).and_then(|value| value.to_str().ok());
    let (host, prefix) = (said(&HOST), said(&PREFIX));
    if host.is_none() && prefix.is_none() {
        return head.uri.clone();
    }
    let mut parts = head.uri.clone().into_parts();
    if let Some(host) = host.and_then(|host| host.rsplit(',').next_back()?.trim().parse().ok()) {
        parts.authority = Some(host);
    }
    let path = parts.path_and_query.as_ref().map_or("/", |path| path.as_str());
    if let Ok(path) = format!("{}{path}", prefix.unwrap_or_default().trim_end_matches('/')).parse() {
        parts.path_and_query = Some(path);
    }
    Uri::from_parts(parts).unwrap_or_else(|_| head.uri.clone())
}

/// The target's own authority, else the Host header; HTTP/1.0 may have neither.
fn asked(head: &request::Parts, peer: &Peer) -> Result<Arc<Asked>, RequestError> {
    const BAD: RequestError = RequestError::BadRequest("the Host header is not valid");
    const MISSING: RequestError = RequestError::BadRequest("the Host header is missing");
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return Err(RequestError::BadRequest("more than one Host header"));
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
    let mut last = lock(&peer.last);
    if let Some(last) = last.as_ref().filter(|last| *last.said == *said) {
        return Ok(Arc::clone(last));
    }
    let authority = Authority::try_from(said).map_err(|_| BAD)?;
    if authority.as_str().contains('@') {
        return Err(BAD);
    }
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| BAD)?;
    let forwarded = HeaderValue::try_from(element(peer, &authority, &Scheme::HTTP)).map_err(|_| BAD)?;
    let asked = Arc::new(Asked { authority, said: said.into(), host, forwarded });
    *last = Some(Arc::clone(&asked));
    Ok(asked)
}

/// What this host says of the client in `Forwarded`.
fn element(peer: &Peer, authority: &Authority, scheme: &Scheme) -> String {
    format!("{};host=\"{authority}\";proto={scheme}", peer.element)
}

/// Puts the host's own word in the place of what a client says of itself.
fn introduce(headers: &mut HeaderMap, asked: &Asked, peer: &Peer) -> Scheme {
    let forged: Vec<_> = headers.keys().filter(|name| is_identity(name)).cloned().collect();
    for name in &forged {
        headers.remove(name);
    }
    headers.insert(FORWARDED, asked.forwarded.clone());
    headers.insert(FOR, peer.plain.clone());
    headers.insert(PROTO, HeaderValue::from_static("http"));
    headers.insert(HOST, asked.host.clone());
    Scheme::HTTP
}

/// Adds to what a trusted proxy says of the client, and returns the scheme that the client used.
fn forward(headers: &mut HeaderMap, authority: &Authority, peer: &Peer) -> Result<Scheme, RequestError> {
    const BAD: RequestError = RequestError::BadRequest("the forwarding headers are not valid");
    let scheme = match headers.get(PROTO).map(HeaderValue::as_bytes) {
        Some(b"https") => Scheme::HTTPS,
        _ => Scheme::HTTP,
    };
    let element = element(peer, authority, &scheme);
    let append = |headers: &mut HeaderMap, name: HeaderName, own: &str| -> Result<(), RequestError> {
        let said: Vec<_> = headers.get_all(&name).iter().filter_map(|value| value.to_str().ok()).collect();
        let value = if said.is_empty() { own.to_owned() } else { format!("{}, {own}", said.join(", ")) };
        headers.insert(name, HeaderValue::try_from(value).map_err(|_| BAD)?);
        Ok(())
    };
    append(headers, FORWARDED, &element)?;
    if headers.contains_key(FOR) {
        append(headers, FOR, peer.plain.to_str().unwrap_or("unknown"))?;
    } else {
        headers.insert(FOR, peer.plain.clone());
    }
    if !headers.contains_key(PROTO) {
        headers.insert(PROTO, HeaderValue::from_static(if scheme == Scheme::HTTPS { "https" } else { "http" }));
    }
    if !headers.contains_key(HOST) {
        headers.insert(HOST, HeaderValue::from_str(authority.as_str()).map_err(|_| BAD)?);
    }
    Ok(scheme)
}

#[cfg(test)]
mod tests;
