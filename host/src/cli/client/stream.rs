//! Connections to a host: plain, or over TLS to a name. All that is done on one until the response is there has one deadline.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use http::Uri;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::cli::out::CliError;
use lodge_base::{canonical, tls};

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
    Plain(TimedSocket),
    /// With TLS.
    Secure(Box<StreamOwned<ClientConnection, TimedSocket>>),
}

/// A socket whose reads fail after a deadline. Below TLS, since a handshake consists of many.
pub(super) struct TimedSocket {
    socket: TcpStream,
    until: Option<Instant>,
}

impl TimedSocket {
    pub(super) fn new(socket: TcpStream, until: Instant) -> Self {
        Self { socket, until: Some(until) }
    }
}

impl Read for TimedSocket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.until.map(left).transpose()?)?;
        self.socket.read(into).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => too_late(),
            _ => error,
        })
    }
}

impl Write for TimedSocket {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.socket.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "timed out")
}

/// Returns the time until a deadline.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(too_late()) } else { Ok(left) }
}

/// Returns the addresses of a name. The resolver of the system has no bound of its own.
fn resolve(host: &str, port: u16, until: Instant) -> io::Result<Vec<SocketAddr>> {
    let (done, found) = mpsc::sync_channel(1);
    let host = host.to_owned();
    std::thread::spawn(move || {
        let addresses = (host.as_str(), port).to_socket_addrs().map(|all| all.take(ADDRESSES).collect());
        let _ = done.send(addresses);
    });
    found.recv_timeout(left(until)?).map_err(|_| too_late())?
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
        // Another port than the one that is written must not get the token.
        let scheme = url.scheme().ok_or_else(wrong)?;
        if url.query().is_some() || canonical::authority(authority.as_str().as_bytes(), scheme).is_none() {
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

    fn connect(&self, until: Instant) -> io::Result<HostStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in resolve(&self.host, self.port, until)? {
            match TcpStream::connect_timeout(&address, left(until)?.min(CONNECT)) {
                Ok(socket) => return self.secured(TimedSocket::new(socket, until)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn secured(&self, stream: TimedSocket) -> io::Result<HostStream> {
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

    /// Connects, to a stream whose reads fail after `until`.
    pub(super) fn connect(&self, until: Instant) -> io::Result<HostStream> {
        match self {
            Self::Address(address) => {
                let socket = TcpStream::connect_timeout(address, left(until)?.min(CONNECT))?;
                Ok(HostStream::Plain(TimedSocket::new(socket, until)))
            }
            Self::Url(url) => url.connect(until),
        }
    }
}

impl HostStream {
    /// Returns the socket, for its options.
    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => &stream.socket,
            Self::Secure(stream) => &stream.get_ref().socket,
        }
    }

    /// Changes the deadline of reads; `None` for a stream without an end.
    pub(super) fn set_deadline(&mut self, until: Option<Instant>) {
        match self {
            Self::Plain(stream) => stream.until = until,
            Self::Secure(stream) => stream.get_mut().until = until,
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
        for text in [
            "ops.example",
            "ftp://ops.example",
            "https://user@ops.example",
            "http://x/?q",
            "",
            "http://",
            "http://127.0.0.1:99090",
            "https://x:a",
            "http://[::1]:65536",
        ] {
            assert!(matches!(HostUrl::read(text), Err(CliError::Usage(_))), "{text}");
        }
        let readable = |text: &str| HostUrl::read(text).unwrap().is_readable();
        assert!(readable("http://ops.example") && !readable("http://127.0.0.1:1") && !readable("http://localhost"));
    }

    /// A server that sends one byte after another does not hold a command.
    #[test]
    fn a_handshake_without_an_end_is_given_up() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let dripping = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            // The head of a record of 16 KiB, and then its content.
            let mut sent = peer.write_all(&[22, 3, 3, 64, 0]);
            while sent.is_ok() {
                std::thread::park_timeout(Duration::from_millis(50));
                sent = peer.write_all(&[0]);
            }
        });
        let start = Instant::now();
        let place = HostPlace::Url(HostUrl::read(&url).unwrap());
        let mut stream = place.connect(start + Duration::from_millis(500)).unwrap();
        let error = stream.write_all(b"GET / HTTP/1.1\r\n").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        drop(stream);
        dripping.join().unwrap();
    }
}
