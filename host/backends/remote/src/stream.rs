//! One connection to a server.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::connect_failure::ConnectFailure;

/// The most bytes that a server sends before an operation has its response. The largest response has 2 MiB, and those of many
/// operations may come before any of them is read.
const MOST_UNANSWERED: u64 = 128 << 20;

/// The most round trips of one operation, where operations follow each other. A driver looks types up that it does not know, and
/// those that they consist of, each in a call within the last, and a stack has no room for thousands of these.
const MOST_ROUND_TRIPS: u64 = 400;

/// A connection, with or without TLS. A server that sends without end is cut off.
#[derive(Debug)]
pub struct ServerStream {
    transport: Transport,
    unanswered: Unanswered,
    most_unanswered: u64,
    counts_round_trips: bool,
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
}

/// What a connection has received since the last response that was complete. Clones are of the same connection.
#[derive(Clone, Debug, Default)]
pub struct Unanswered(Arc<UnansweredCounts>);

#[derive(Debug, Default)]
struct UnansweredCounts {
    bytes: AtomicU64,
    /// How often something was sent after something was received.
    round_trips: AtomicU64,
    /// Whether something was received since something was sent.
    has_received: AtomicBool,
}

impl Unanswered {
    /// Records that an operation has its response.
    pub fn reset(&self) {
        self.0.bytes.store(0, Ordering::Relaxed);
        self.0.round_trips.store(0, Ordering::Relaxed);
    }

    /// Whether the bounds of a connection for one operation at a time were exceeded since then.
    pub fn is_excessive(&self, most: u64) -> bool {
        self.0.bytes.load(Ordering::Relaxed) > most || self.0.round_trips.load(Ordering::Relaxed) > MOST_ROUND_TRIPS
    }

    /// Counts that something was sent.
    fn count_sent(&self) -> io::Result<()> {
        if !self.0.has_received.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let all = self.0.round_trips.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let endless = || io::Error::new(ErrorKind::InvalidData, "the operation does not end");
        if all > MOST_ROUND_TRIPS { Err(endless()) } else { Ok(()) }
    }

    /// Counts received bytes, of which there are at most `most` for a response.
    fn count(&self, bytes: usize, most: u64) -> io::Result<()> {
        if bytes > 0 {
            self.0.has_received.store(true, Ordering::Relaxed);
        }
        let all = self.0.bytes.fetch_add(bytes as u64, Ordering::Relaxed).saturating_add(bytes as u64);
        let endless = || io::Error::new(ErrorKind::InvalidData, "the server sends without end");
        if all > most { Err(endless()) } else { Ok(()) }
    }
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
    let (transport, unanswered) = (Transport::Plain(tcp), Unanswered::default());
    let stream = ServerStream { transport, unanswered, most_unanswered: MOST_UNANSWERED, counts_round_trips: false };
    match tls {
        None => Ok(stream),
        Some(config) => stream.secure(host, config).await,
    }
}

impl ServerStream {
    /// Begins TLS on a connection without it.
    ///
    /// # Errors
    /// What failed, and what would help.
    pub async fn secure(self, host: &str, config: Arc<ClientConfig>) -> Result<ServerStream, ConnectFailure> {
        let ServerStream { transport: Transport::Plain(tcp), unanswered, most_unanswered, counts_round_trips } = self
        else {
            return Ok(self);
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            ConnectFailure::new("TLS needs a host that is a name or an address: correct the host of the URL")
        })?;
        let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(|error| untrusted(&error))?;
        let transport = Transport::Secure(Box::new(stream));
        Ok(ServerStream { transport, unanswered, most_unanswered, counts_round_trips })
    }

    /// The same connection, for operations that follow each other. A response has at most `bytes`, and an operation takes a bounded
    /// number of round trips.
    #[must_use]
    pub fn limited(self, bytes: u64) -> ServerStream {
        ServerStream { most_unanswered: bytes, counts_round_trips: true, ..self }
    }

    /// The same connection, for a protocol whose reader bounds each response.
    #[must_use]
    pub fn endless(self) -> ServerStream {
        ServerStream { most_unanswered: u64::MAX, counts_round_trips: false, ..self }
    }

    /// What counts the bytes that it receives.
    pub fn unanswered(&self) -> Unanswered {
        self.unanswered.clone()
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let ServerStream { transport, unanswered, most_unanswered, .. } = self.get_mut();
        let read = match transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Secure(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        unanswered.count(buffer.filled().len().saturating_sub(before), *most_unanswered)?;
        read
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let ServerStream { transport, unanswered, counts_round_trips, .. } = self.get_mut();
        if *counts_round_trips {
            unanswered.count_sent()?;
        }
        match transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Secure(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Secure(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Secure(stream) => Pin::new(stream).poll_shutdown(cx),
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A parser that waits for more of a response keeps what has arrived.
    #[tokio::test]
    async fn a_server_that_sends_without_end_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let some = vec![b'x'; 1 << 20];
            while client.write_all(&some).await.is_ok() {}
        });
        let mut stream = connect("127.0.0.1", port, None).await.unwrap();
        let (mut received, mut some) = (0, vec![0; 1 << 20]);
        // Responses come to an end in between.
        while received < 2 * MOST_UNANSWERED {
            received += stream.read(&mut some).await.unwrap() as u64;
            stream.unanswered().reset();
        }
        let mut received = 0;
        let error = loop {
            match stream.read(&mut some).await {
                Ok(bytes) => received += bytes as u64,
                Err(error) => break error,
            }
        };
        assert!(received > MOST_UNANSWERED / 2 && error.to_string().contains("without end"), "{received}: {error}");
    }
}
