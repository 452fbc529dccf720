//! One connection to a server.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::links::ConnectFailure;

/// A connection, with or without TLS.
#[derive(Debug)]
pub enum ServerStream {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS.
    Secure(Box<TlsStream<TcpStream>>),
}

/// Connects to a server, with TLS if there is a configuration for it. The caller bounds the time.
///
/// # Errors
/// What failed, and what would help, without the address.
pub async fn connect(host: &str, port: u16, tls: Option<Arc<ClientConfig>>) -> Result<ServerStream, ConnectFailure> {
    let tcp = TcpStream::connect((host, port)).await.map_err(|error| refused(&error))?;
    // Requests are smaller than packets, and their responses are waited for.
    let _ = tcp.set_nodelay(true);
    // A peer that has vanished while nothing was sent.
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
    let _ = SockRef::from(&tcp).set_tcp_keepalive(&keepalive);
    match tls {
        None => Ok(ServerStream::Plain(tcp)),
        Some(config) => ServerStream::Plain(tcp).secure(host, config).await,
    }
}

impl ServerStream {
    /// Begins TLS on a connection without it.
    ///
    /// # Errors
    /// What failed, and what would help.
    pub async fn secure(self, host: &str, config: Arc<ClientConfig>) -> Result<ServerStream, ConnectFailure> {
        let ServerStream::Plain(tcp) = self else { return Ok(self) };
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            ConnectFailure::new("TLS needs a host that is a name or an address: correct the host of the URL")
        })?;
        let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(|error| untrusted(&error))?;
        Ok(ServerStream::Secure(Box::new(stream)))
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ServerStream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            ServerStream::Secure(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            ServerStream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            ServerStream::Secure(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ServerStream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            ServerStream::Secure(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ServerStream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            ServerStream::Secure(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

fn refused(error: &io::Error) -> ConnectFailure {
    match error.kind() {
        ErrorKind::ConnectionRefused => {
            ConnectFailure::new("connection refused: start the server, or correct the host and port of its URL")
        }
        _ if error.to_string().contains("lookup") => {
            ConnectFailure::new("the host of its URL cannot be resolved: correct it, or check DNS")
        }
        kind => ConnectFailure::new(format!("{kind}: check the network, and the host and port of its URL")),
    }
}

fn untrusted(error: &io::Error) -> ConnectFailure {
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(reason)) => ConnectFailure::new(format!(
            "its certificate is not valid for this connection ({}): trust its authority, or correct the host of the URL",
            certificate(reason)
        )),
        Some(rustls::Error::InvalidMessage(_)) => ConnectFailure::new(
            "the server does not speak TLS on this port: correct the port, or use the scheme without TLS",
        ),
        Some(error) => ConnectFailure::new(format!("TLS failed: {error}")),
        None => {
            ConnectFailure::new("the server closed the connection during the TLS handshake: check its port and its log")
        }
    }
}

/// The problem without the names in the certificate.
fn certificate(error: &rustls::CertificateError) -> String {
    use rustls::CertificateError as E;
    match error {
        E::UnknownIssuer | E::BadSignature => "its issuer is not trusted".into(),
        E::NotValidForName | E::NotValidForNameContext { .. } => "it is for another name".into(),
        E::Expired | E::ExpiredContext { .. } => "it has expired".into(),
        other => format!("{other:?}").split([' ', '(', '{']).next().unwrap_or_default().to_owned(),
    }
}
