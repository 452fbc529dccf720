//! The address and the name of a replica.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use lodge_manifest::upstream::protocol::Scheme;

/// One replica. Connections go to `address`, whatever host a request names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The scheme: with TLS or without.
    pub scheme: Scheme,
    /// The host name, or the IP address without brackets. TLS verifies the certificate against it; a request that names
    /// no host gets it as `Host`.
    pub host: Arc<str>,
    /// The socket address.
    pub address: SocketAddr,
    /// An address of the other family, for a host name that has both. Used when `address` accepts no connection.
    pub other: Option<SocketAddr>,
}

impl Target {
    /// Returns host and port as in the `Host` header.
    pub fn authority(&self) -> String {
        let port = self.address.port();
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_string() };
        if port == self.scheme.port() { host } else { format!("{host}:{port}") }
    }
}

/// Formats the target as operators write it, with the addresses if they differ from the host: `http://users:8080
/// (10.0.0.7)`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme.uri();
        if self.address.ip().to_string() == *self.host {
            return write!(f, "{scheme}://{}", self.address);
        }
        write!(f, "{scheme}://{}:{} ({}", self.host, self.address.port(), self.address.ip())?;
        match self.other {
            Some(other) => write!(f, ", {})", other.ip()),
            None => f.write_str(")"),
        }
    }
}
