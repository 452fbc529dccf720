//! Headers that belong to a connection stop here, and what the guest is told of the client is the host's own word.

use std::net::{IpAddr, SocketAddr};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, Scheme, Uri};
use http::{Method, Version, request};
use ipnet::IpNet;

use crate::error::RequestError;

/// Meant for the next hop only (RFC 9110, 7.6.1), and what else is about the connection and not the message.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

const FORWARDED: HeaderName = header::FORWARDED;
const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Says who the client is, and is therefore worth forging.
const IDENTITY: [HeaderName; 7] = [
    FORWARDED,
    FOR,
    PROTO,
    HOST,
    HeaderName::from_static("x-forwarded-port"),
    PREFIX,
    HeaderName::from_static("x-real-ip"),
];

/// The header that carries the request id, both ways.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    address: IpAddr,
    local: SocketAddr,
    trusted: bool,
    /// The address as header values, made once per connection.
    plain: HeaderValue,
    element: String,
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
        Self { address, local, trusted: proxies.iter().any(|net| net.contains(&address)), plain, element }
    }

    /// Its address.
    pub fn address(&self) -> IpAddr {
        self.address
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
    let authority = authority(head, peer)?;
    strip_hop_by_hop(&mut head.headers);
    let scheme = forward(&mut head.headers, &authority, peer)?;
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    (parts.scheme, parts.authority) = (Some(scheme), Some(authority));
    head.uri = Uri::from_parts(parts).map_err(|_| RequestError::BadRequest("the request target is not valid"))?;
    Ok(())
}

/// Removes what is meant for the next hop only. `te: trailers` stays: it says what the client understands, and gRPC
/// guests ask for it.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let mut named = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        let names = value.to_str().unwrap_or_default().split(',');
        named.extend(names.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok()));
    }
    let wants_trailers = headers.get_all(header::TE).iter().any(|value| {
        value.to_str().is_ok_and(|value| value.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers")))
    });
    for name in HOP_BY_HOP.iter().chain(&named) {
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

/// The target's own authority, else the Host header; HTTP/1.0 may have neither.
fn authority(head: &request::Parts, peer: &Peer) -> Result<Authority, RequestError> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return Err(RequestError::BadRequest("more than one Host header"));
    }
    let authority = match (head.uri.authority(), host) {
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) => Authority::try_from(host.as_bytes())
            .map_err(|_| RequestError::BadRequest("the Host header is not valid"))?,
        (None, None) if head.version == Version::HTTP_10 => Authority::try_from(peer.local.to_string())
            .map_err(|_| RequestError::BadRequest("the Host header is missing"))?,
        (None, None) => return Err(RequestError::BadRequest("the Host header is missing")),
    };
    if authority.as_str().contains('@') {
        return Err(RequestError::BadRequest("the Host header is not valid"));
    }
    Ok(authority)
}

/// Writes the forwarding headers and returns the scheme that the client used.
fn forward(headers: &mut HeaderMap, authority: &Authority, peer: &Peer) -> Result<Scheme, RequestError> {
    const BAD: RequestError = RequestError::BadRequest("the forwarding headers are not valid");
    if !peer.trusted {
        for name in &IDENTITY {
            headers.remove(name);
        }
    }
    let scheme = match headers.get(PROTO).map(HeaderValue::as_bytes) {
        Some(b"https") => Scheme::HTTPS,
        _ => Scheme::HTTP,
    };
    let element = format!("{};host=\"{authority}\";proto={scheme}", peer.element);
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
