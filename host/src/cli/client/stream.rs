//! Connections to a host: plain, or over TLS to a name.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::cli::out::CliError;
use lodge_base::tls;

/// The timeout for connecting to one address.
const CONNECT: Duration = Duration::from_secs(2);

/// The most addresses of a name that are tried.
const ADDRESSES: usize = 4;

/// Where a host's admin listener is.
#[derive(Clone)]
pub(super) enum HostPlace {
    /// At an address.
    Address(SocketAddr),
    /// At a URL, such as that of a proxy before it.
    Url(HostUrl),
}

/// The URL of an admin listener.
#[derive(Clone)]
pub(super) struct HostUrl {
    /// The configuration of TLS, for https.
    secure: Option<Arc<ClientConfig>>,
    /// Host and port as in the URL.
    authority: String,
    host: String,
    port: u16,
    /// The path below which the API is, without a slash at its end.
    prefix: String,
}

/// A connection.
pub(super) enum HostStream {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS.
    Secure(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl HostUrl {
    /// Reads a URL. For https, reads the certificates of the system, too.
    ///
    /// # Errors
    /// If it is not the http or https URL of a host.
    pub(super) fn read(text: &str) -> Result<Self, CliError> {
        let wrong = || CliError::Usage(format!("--host: `{text}` is not a URL; write it like https://lodge.example"));
        let url: Uri = text.parse().map_err(|_| wrong())?;
        let authority = url.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
        let secure = match url.scheme_str() {
            Some("https") => Some(Arc::new(tls::system_roots().and_then(tls::client).map_err(CliError::new)?)),
            Some("http") => None,
            _ => return Err(wrong()),
        };
        if url.query().is_some() {
            return Err(wrong());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if secure.is_some() { 443 } else { 80 });
        let prefix = url.path().trim_end_matches('/').to_owned();
        Ok(Self { secure, authority: authority.to_string(), host, port, prefix })
    }

    /// Whether others on the way can read what is sent.
    pub(super) fn is_readable(&self) -> bool {
        let local = self.host == "localhost" || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        self.secure.is_none() && !local
    }

    fn connect(&self) -> io::Result<HostStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in (self.host.as_str(), self.port).to_socket_addrs()?.take(ADDRESSES) {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => return self.secured(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn secured(&self, stream: TcpStream) -> io::Result<HostStream> {
        let Some(config) = &self.secure else { return Ok(HostStream::Plain(stream)) };
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        let tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        Ok(HostStream::Secure(Box::new(StreamOwned::new(tls, stream))))
    }
}

impl HostPlace {
    /// Returns the URL, for messages.
    pub(super) fn url(&self) -> String {
        match self {
            Self::Address(address) => format!("http://{address}"),
            Self::Url(url) => {
                let scheme = if url.secure.is_some() { "https" } else { "http" };
                format!("{scheme}://{}{}", url.authority, url.prefix)
            }
        }
    }

    /// Returns the value of `Host`.
    pub(super) fn authority(&self) -> String {
        match self {
            Self::Address(address) => address.to_string(),
            Self::Url(url) => url.authority.clone(),
        }
    }

    /// Returns the path before that of the API.
    pub(super) fn prefix(&self) -> &str {
        match self {
            Self::Address(_) => "",
            Self::Url(url) => &url.prefix,
        }
    }

    /// Connects.
    pub(super) fn connect(&self) -> io::Result<HostStream> {
        match self {
            Self::Address(address) => TcpStream::connect_timeout(address, CONNECT).map(HostStream::Plain),
            Self::Url(url) => url.connect(),
        }
    }
}

impl HostStream {
    /// Returns the socket, for its timeouts.
    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Secure(stream) => stream.get_ref(),
        }
    }
}

impl Read for HostStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(into),
            Self::Secure(stream) => stream.read(into),
        }
    }
}

impl Write for HostStream {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(from),
            Self::Secure(stream) => stream.write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Secure(stream) => stream.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_hosts() {
        for (text, url, authority, prefix) in [
            ("http://localhost:9090", "http://localhost:9090", "localhost:9090", ""),
            ("http://[::1]:9090/", "http://[::1]:9090", "[::1]:9090", ""),
            ("http://ops.example/lodge/", "http://ops.example/lodge", "ops.example", "/lodge"),
        ] {
            let place = HostPlace::Url(HostUrl::read(text).unwrap());
            assert_eq!((place.url().as_str(), place.authority().as_str(), place.prefix()), (url, authority, prefix));
        }
        for text in ["ops.example", "ftp://ops.example", "https://user@ops.example", "http://x/?q", "", "http://"] {
            assert!(matches!(HostUrl::read(text), Err(CliError::Usage(_))), "{text}");
        }
        let readable = |text: &str| HostUrl::read(text).unwrap().is_readable();
        assert!(readable("http://ops.example") && !readable("http://127.0.0.1:1") && !readable("http://localhost"));
    }
}
