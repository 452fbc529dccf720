//! The peer of a connection, with the host of its last request.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use http::header::{HeaderMap, HeaderValue};
use http::uri::{Authority, Scheme};
use ipnet::IpNet;

use super::{FOR, REQUEST_ID, forwarded_scheme};
use crate::auth::certificate::ClientCertificate;
use lodge_base::canonical;
use lodge_base::ids::hash_of;
use lodge_base::lock::lock;

/// The peer of a connection.
#[derive(Debug)]
pub struct Peer {
    pub(super) address: IpAddr,
    pub(super) local: SocketAddr,
    pub(super) trusted: bool,
    /// The client that the forwarding headers of a trusted proxy name, where they are not trusted for this request.
    claimed: Option<IpAddr>,
    /// The peer is a service of this host, whose requests use no connection.
    pub(super) inside: bool,
    /// A proxy relays the bytes of the connection.
    pub(super) relayed: bool,
    /// The scheme of the connection.
    scheme: Scheme,
    /// The verified certificate of the client.
    pub(super) certificate: Option<Arc<ClientCertificate>>,
    /// When the certificate of the connection, or one of its chain, expires.
    valid_until: Option<SystemTime>,
    /// The address as a header value, made once per connection.
    pub(super) plain: HeaderValue,
    element: String,
    /// The host of the last request, which the next one usually has too.
    last: Mutex<Option<Arc<RequestHost>>>,
}

/// The host of a request in canonical form, with the header values that follow from it.
#[derive(Debug)]
pub(super) struct RequestHost {
    pub(super) authority: Authority,
    /// The authority as the client wrote it.
    raw: Box<[u8]>,
    pub(super) scheme: Scheme,
    pub(super) host: HeaderValue,
    /// The whole `Forwarded` value for a client that is not trusted.
    pub(super) forwarded: HeaderValue,
}

impl Peer {
    /// Returns the peer at `remote` of a connection to `local`. It is trusted when `proxies` contains its address. An
    /// IPv4-mapped address becomes the IPv4 address.
    pub fn new(remote: SocketAddr, local: SocketAddr, proxies: &[IpNet]) -> Self {
        let address = remote.ip().to_canonical();
        let element = match address {
            IpAddr::V4(v4) => format!("for={v4}"),
            IpAddr::V6(v6) => format!("for=\"[{v6}]\""),
        };
        // An address is always a valid header value.
        let plain = HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        let trusted = proxies.iter().any(|net| net.contains(&address));
        let (scheme, certificate, valid_until) = (Scheme::HTTP, None, None);
        let (claimed, inside, relayed, last) = (None, false, false, Mutex::new(None));
        Self {
            address,
            local,
            trusted,
            claimed,
            inside,
            relayed,
            scheme,
            certificate,
            valid_until,
            plain,
            element,
            last,
        }
    }

    /// Returns the peer of a connection over TLS, with the verified certificate of the client.
    pub fn over_tls(self, certificate: Option<ClientCertificate>) -> Self {
        let valid_until = certificate.as_ref().map(ClientCertificate::expires);
        Self { scheme: Scheme::HTTPS, certificate: certificate.map(Arc::new), valid_until, ..self }
    }

    /// Returns when the certificate of the connection, or one of its chain, expires: from then on it takes no requests.
    pub fn valid_until(&self) -> Option<SystemTime> {
        self.valid_until
    }

    /// Returns the peer whose bytes a proxy relays, so that its address says nothing about where it is.
    pub fn relayed(self) -> Self {
        Self { relayed: true, ..self }
    }

    /// Returns the certificate of the client. That of a trusted proxy says nothing of the clients behind it.
    pub fn client_certificate(&self) -> Option<&ClientCertificate> {
        self.certificate.as_deref().filter(|_| !self.trusted)
    }

    /// Returns the peer for a service of this host that calls another one. It has no address of its own, so `Forwarded`
    /// has an obfuscated identifier (RFC 7239 6.3). Policies and logs need an address: it is derived from the name, in
    /// fd6c:6f64:6765::/48, where no client is.
    pub fn service(name: &str) -> Self {
        // An obfuscated identifier allows fewer characters than the name of a version.
        let shown = format!("_{}", name.replace('@', "."));
        let [a, b, c, d, e, f, g, h] = hash_of(name.as_bytes()).to_be_bytes();
        let address = [0xfd, b'l', b'o', b'd', b'g', b'e', a, b, c, d, e, f, g, h, 0, 1];
        Self {
            address: IpAddr::from(address),
            local: SocketAddr::from(([127, 0, 0, 1], 0)),
            trusted: false,
            claimed: None,
            inside: true,
            relayed: false,
            scheme: Scheme::HTTP,
            certificate: None,
            valid_until: None,
            plain: HeaderValue::from_str(&shown).unwrap_or(HeaderValue::from_static("unknown")),
            element: format!("for={shown}"),
            last: Mutex::new(None),
        }
    }

    /// Returns the same peer for a request whose forwarding headers are not trusted. Policies check the client that
    /// they name, `claimed`, as well, because the mark that a guest sent the request can be forged. The certificate is that of the
    /// proxy, which may pass on a request of anybody.
    pub fn distrusted(&self, claimed: IpAddr) -> Self {
        let Self { address, local, inside, relayed, valid_until, .. } = *self;
        Self {
            address,
            local,
            trusted: false,
            claimed: Some(claimed),
            inside,
            relayed,
            scheme: self.scheme.clone(),
            certificate: None,
            valid_until,
            plain: self.plain.clone(),
            element: self.element.clone(),
            last: Mutex::new(None),
        }
    }

    /// Returns the address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Returns the address of the client of a request with these headers: the last one in `X-Forwarded-For` that no
    /// network of `proxies` contains, when the peer is a trusted proxy, else the peer's. An element that cannot be parsed
    /// ends the search, because nothing before it can be trusted.
    pub fn client(&self, headers: &HeaderMap, proxies: &[IpNet]) -> IpAddr {
        let mut client = self.address;
        if !self.trusted {
            return client;
        }
        for value in headers.get_all(FOR).iter().rev() {
            // The value is read as bytes: an element that is not text ends the list there, and hides no element that
            // proxies added after it.
            for hop in value.as_bytes().rsplit(|byte| *byte == b',') {
                let Some(address) = std::str::from_utf8(hop).ok().and_then(|hop| parse_address(hop.trim())) else {
                    return client;
                };
                client = address;
                if !proxies.iter().any(|net| net.contains(&address)) {
                    return client;
                }
            }
        }
        client
    }

    /// Returns a second address that policies check, if there is one: see [`Peer::distrusted`].
    pub fn claimed(&self) -> Option<IpAddr> {
        self.claimed
    }

    /// Whether the peer is a trusted proxy.
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Returns the scheme that the client of a request with these headers used: that of the connection, unless a trusted
    /// proxy says otherwise.
    pub fn scheme(&self, headers: &HeaderMap) -> &Scheme {
        let forwarded = if self.trusted { forwarded_scheme(headers) } else { None };
        forwarded.unwrap_or(&self.scheme)
    }

    /// Returns the request id that a trusted proxy set, if it has at most 128 characters of a safe set.
    pub fn request_id<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let id = headers.get(REQUEST_ID).filter(|_| self.trusted)?.to_str().ok()?;
        let sane = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        (sane && (1..=128).contains(&id.len())).then_some(id)
    }

    /// Returns the canonical form of an authority; `None` if it is not valid.
    pub(super) fn canonical(&self, raw: &[u8], scheme: &Scheme) -> Option<Arc<RequestHost>> {
        let mut last = lock(&self.last);
        if let Some(last) = last.as_ref().filter(|last| *last.raw == *raw && last.scheme == *scheme) {
            return Some(Arc::clone(last));
        }
        let authority = canonical::authority(raw, scheme)?;
        let host = HeaderValue::from_str(authority.as_str()).ok()?;
        let forwarded = HeaderValue::try_from(element(self, &authority, &self.scheme)).ok()?;
        let request_host =
            Arc::new(RequestHost { authority, raw: raw.into(), scheme: scheme.clone(), host, forwarded });
        *last = Some(Arc::clone(&request_host));
        Some(request_host)
    }
}

/// Returns this host's element for `Forwarded`.
pub(super) fn element(peer: &Peer, authority: &Authority, scheme: &Scheme) -> String {
    format!("{};host=\"{authority}\";proto={scheme}", peer.element)
}

/// Parses an address. Some proxies add a port, or brackets around an IPv6 address.
fn parse_address(hop: &str) -> Option<IpAddr> {
    let plain = hop.parse::<IpAddr>().ok();
    let with_port = || hop.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    plain.or_else(with_port).or_else(in_brackets).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client can write anything before the elements that trusted proxies add; only the latter count.
    #[test]
    fn only_trusted_proxies_are_believed() {
        let proxies: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let check = |trusted: bool, lines: &[&str], expected: &str| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", HeaderValue::from_bytes(line.as_bytes()).unwrap());
            }
            let (remote, local) = ("10.0.0.1:4711".parse().unwrap(), "127.0.0.1:8080".parse().unwrap());
            let proxies = if trusted { &*proxies } else { &[] };
            let peer = Peer::new(remote, local, proxies);
            assert_eq!(peer.client(&headers, proxies), expected.parse::<IpAddr>().unwrap(), "{lines:?}");
        };
        check(false, &["192.0.2.1"], "10.0.0.1");
        check(true, &[], "10.0.0.1");
        check(true, &["192.0.2.1, 10.0.0.1"], "192.0.2.1");
        check(true, &["6.6.6.6, 192.0.2.1, 10.0.0.7, 10.0.0.1"], "192.0.2.1");
        check(true, &["6.6.6.6", "192.0.2.1, 10.0.0.1"], "192.0.2.1");
        check(true, &["192.0.2.1:4711, 10.0.0.1"], "192.0.2.1");
        check(true, &["[2001:db8::1]:80, 10.0.0.1"], "2001:db8::1");
        check(true, &["::ffff:192.0.2.1, 10.0.0.1"], "192.0.2.1");
        check(true, &["6.6.6.6, unknown, 10.0.0.2, 10.0.0.1"], "10.0.0.2");
        check(true, &["10.0.0.3, 10.0.0.1"], "10.0.0.3");
        check(true, &["\u{ff}, 192.0.2.1, 10.0.0.1"], "192.0.2.1");
        check(true, &["192.0.2.1, \u{ff}, 10.0.0.2, 10.0.0.1"], "10.0.0.2");
    }
}
