//! Who is at the other end of a connection, and the host that its last request was for.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use http::header::{HeaderMap, HeaderValue};
use http::uri::{Authority, Scheme};
use ipnet::IpNet;

use super::REQUEST_ID;
use crate::base::canonical;
use crate::base::ids::hash_of;
use crate::base::lock::lock;

/// Who is at the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    pub(super) address: IpAddr,
    pub(super) local: SocketAddr,
    pub(super) trusted: bool,
    /// The client that the forwarding headers name, where they are not believed although a trusted proxy passed them on.
    claimed: Option<IpAddr>,
    /// It is a service of this host, whose requests come over no connection.
    pub(super) inside: bool,
    /// The address as header values, made once per connection.
    pub(super) plain: HeaderValue,
    element: String,
    /// What the last request was for: usually what the next one is for.
    last: Mutex<Option<Arc<RequestHost>>>,
}

/// The host of a request in its canonical form, and what the guest is told of it.
#[derive(Debug)]
pub(super) struct RequestHost {
    pub(super) authority: Authority,
    /// The authority in the client's own words.
    raw: Box<[u8]>,
    scheme: Scheme,
    pub(super) host: HeaderValue,
    /// The whole `Forwarded` of a client that is not trusted.
    pub(super) forwarded: HeaderValue,
}

impl Peer {
    /// The peer at `remote`, reached at `local`; trusted when one of `proxies` holds its address. An IPv4-mapped address is
    /// the IPv4 address.
    pub fn new(remote: SocketAddr, local: SocketAddr, proxies: &[IpNet]) -> Self {
        let address = remote.ip().to_canonical();
        let element = match address {
            IpAddr::V4(v4) => format!("for={v4}"),
            IpAddr::V6(v6) => format!("for=\"[{v6}]\""),
        };
        // An address is always a valid header value; were it not, the guest would be told nothing.
        let plain = HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        let trusted = proxies.iter().any(|net| net.contains(&address));
        Self { address, local, trusted, claimed: None, inside: false, plain, element, last: Mutex::new(None) }
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
            claimed: None,
            inside: true,
            plain: HeaderValue::from_str(&shown).unwrap_or(HeaderValue::from_static("unknown")),
            element: format!("for={shown}"),
            last: Mutex::new(None),
        }
    }

    /// The same peer for a request whose forwarding headers are not to be believed. They name `claimed` as its client, which
    /// policies have to admit as well: the mark that a guest sent the request can be forged.
    pub fn distrusted(&self, claimed: IpAddr) -> Self {
        let (plain, element) = (self.plain.clone(), self.element.clone());
        let Self { address, local, inside, .. } = *self;
        let claimed = Some(claimed);
        Self { address, local, trusted: false, claimed, inside, plain, element, last: Mutex::new(None) }
    }

    /// Its address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// A second address that policies go by, if there is one: see [`Peer::distrusted`].
    pub fn claimed(&self) -> Option<IpAddr> {
        self.claimed
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

    /// The canonical form of an authority in this peer's words; `None` when it is none.
    pub(super) fn canonical(&self, raw: &[u8], scheme: &Scheme) -> Option<Arc<RequestHost>> {
        let mut last = lock(&self.last);
        if let Some(last) = last.as_ref().filter(|last| *last.raw == *raw && last.scheme == *scheme) {
            return Some(Arc::clone(last));
        }
        let authority = canonical::authority(raw, scheme)?;
        let host = HeaderValue::from_str(authority.as_str()).ok()?;
        let forwarded = HeaderValue::try_from(element(self, &authority, &Scheme::HTTP)).ok()?;
        let request_host =
            Arc::new(RequestHost { authority, raw: raw.into(), scheme: scheme.clone(), host, forwarded });
        *last = Some(Arc::clone(&request_host));
        Some(request_host)
    }
}

/// What this host says of the client in `Forwarded`.
pub(super) fn element(peer: &Peer, authority: &Authority, scheme: &Scheme) -> String {
    format!("{};host=\"{authority}\";proto={scheme}", peer.element)
}
