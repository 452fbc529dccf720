//! What the host makes of the headers of a request before its service gets it, by their names in lower case. All layers go by these
//! lists: what one takes for a header of the host, another one must not pass on as a client has sent it.

use http::header::{HeaderMap, HeaderName};

/// The start of the names of the headers that say whose request it is, by verified credentials. Only the host writes them: it
/// removes them from every request that it receives, of any sender.
pub const IDENTITY: &str = "x-lodge-auth-";

/// The header by which hosts of a cluster forward requests. No service gets it.
pub const CLUSTER_HOP: &str = "lodge-call";

/// Headers that a service gets from the host, or from a proxy that the host trusts, besides those that begin with [`IDENTITY`].
const WRITTEN: [&str; 8] = [
    CLUSTER_HOP,
    "forwarded",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-request-id",
];

/// What a service gets of a header that a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFate {
    /// What the client has sent.
    Kept,
    /// What the client has sent, or nothing: the host may remove it.
    Removed,
    /// What the host says, or a proxy that it trusts, or nothing. Never what any other client has sent.
    Written,
}

impl HeaderFate {
    /// Returns the fate of a header.
    pub fn of(name: &str) -> Self {
        match name {
            _ if plain_name(name).is_some_and(|plain| is_controlled(&plain)) => Self::Removed,
            _ if WRITTEN.contains(&name) || name.starts_with(IDENTITY) => Self::Written,
            // `trailers` stays in `te`. HTTP/2 has no `host`.
            "te" => Self::Kept,
            "host" => Self::Removed,
            _ if is_hop_by_hop(name) || is_identity(name) => Self::Removed,
            _ => Self::Kept,
        }
    }
}

/// Whether a header is for the next hop only (RFC 9110 7.6.1), or otherwise about the connection. `proxy` is no header of HTTP: in a CGI
/// it is `HTTP_PROXY`, by which libraries choose the proxy for requests of their own (httpoxy, CVE-2016-5385).
pub fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Whether a header says who the client is or what URL it requested. Clients have reason to forge these.
pub fn is_identity(name: &str) -> bool {
    matches!(name, "forwarded" | "x-real-ip") || name.starts_with("x-forwarded-")
}

/// Whether a header is written by this host or by a trusted proxy. A client's `Connection` header must not remove it:
/// RFC 9110 7.6.1 allows connection options only for fields of one hop.
pub fn is_hosts_own(name: &str) -> bool {
    matches!(name, "host" | "via" | "x-request-id" | "traceparent" | "tracestate" | "b3")
        || is_identity(name)
        || name.starts_with(IDENTITY)
        || name.starts_with("x-b3-")
}

/// Whether two headers are one to programs that make variables of their names: a CGI has `_` for `-`, PHP for `.` as well, and some
/// servers for all that is no letter and no digit.
pub fn is_same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().map(plain).eq(other.bytes().map(plain))
}

/// Returns a name with `-` in place of all that is no letter and no digit; `None` if it has no other such characters.
pub fn plain_name(name: &str) -> Option<String> {
    let is_other = name.bytes().any(|byte| plain(byte) != byte);
    is_other.then(|| name.bytes().map(|byte| char::from(plain(byte))).collect())
}

fn plain(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte } else { b'-' }
}

/// Removes the headers whose names are `meant`.
pub fn remove_where(headers: &mut HeaderMap, meant: impl Fn(&HeaderName) -> bool) {
    let dropped: Vec<_> = headers.keys().filter(|name| meant(name)).cloned().collect();
    dropped.iter().for_each(|name| drop(headers.remove(name)));
}

/// Whether the host reads, writes or removes a header. It removes those that [`is_same`] finds the same.
pub fn is_controlled(name: &str) -> bool {
    is_hosts_own(name) || is_hop_by_hop(name) || name == "content-length"
}
