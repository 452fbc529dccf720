//! Who a replica is: an address, and the name that it is called by.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::manifest::upstream::protocol::Scheme;

/// One replica: connections go to `address`, whatever host a request names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// With TLS or without.
    pub scheme: Scheme,
    /// Its name, or its address in words without brackets. TLS checks the certificate against it; a request that
    /// names no host gets it as `Host`.
    pub host: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it listens as well, of the other family: for a replica with a name that has addresses of both. Connections go
    /// there when `address` takes none.
    pub other: Option<SocketAddr>,
}

impl Target {
    /// Name and port, as `Host` has them.
    pub fn authority(&self) -> String {
        let port = self.address.port();
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_string() };
        if port == self.scheme.port() { host } else { format!("{host}:{port}") }
    }
}

/// As operators write it, with the addresses if those are not the name: `http://users:8080 (10.0.0.7)`.
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
