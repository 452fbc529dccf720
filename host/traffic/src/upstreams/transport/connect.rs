//! Opens connections: TCP, TLS if the target has it, and the HTTP handshake.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::Body;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::{ErrorKind, SendFailure, chain};
use super::h2_stats::H2Stats;
use super::idle_pool::{Http1Conn, HttpVersion};
use super::interim::{HeadFrames, InterimCount};
use super::slots::ConnectionSlot;
use super::target::Target;
use super::upload::UploadBody;
use super::{BoxError, PoolSettings};
use lodge_manifest::upstream::protocol::Protocol;
use lodge_manifest::upstream::protocol::Scheme;

/// The most bytes of a response head. HTTP/1.1 also accepts at most 100 headers.
const HEAD: u32 = 64 << 10;
/// Bytes that a replica may send ahead of the reader: per stream, and per HTTP/2 connection. Within a data centre a
/// window opens again in a millisecond, so a stream reads 128 MB per second.
const STREAM: u32 = 128 << 10;
const CONNECTION: u32 = 512 << 10;
/// The most buffered bytes of a request body per HTTP/2 stream.
const SEND: usize = 32 << 10;
/// The size of each buffer of an HTTP/1.1 connection. hyper's default bound is 408 KiB.
const BUFFER: usize = 64 << 10;
/// The most streams on an HTTP/2 connection, even if the replica allows more.
const STREAMS: usize = 256;
/// The keep-alive time and interval of TCP: a silent connection to a dead host is detected after three times this. Not
/// HTTP/2 pings, which gRPC servers treat as abuse; not the TCP user timeout, which also ends uploads under
/// back-pressure.
const SILENT: Duration = Duration::from_secs(10);

/// Opens connections to one replica.
pub(super) struct Connector {
    target: Target,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Whether it sends no certificate over TLS.
    is_anonymous: bool,
    protocol: Protocol,
    /// How long the first of two addresses is tried.
    head_start: Duration,
    /// Set when the second address took the last connection.
    turned: AtomicBool,
}

/// A connection after its HTTP handshake.
pub(super) enum Opened<B> {
    Http1(Http1Conn<B>),
    Http2(http2::SendRequest<UploadBody<B>>, Arc<H2Stats>),
}

impl Connector {
    pub(super) fn new(target: Target, settings: &PoolSettings) -> Result<Self, String> {
        let tls = match (target.scheme, &settings.tls) {
            (Scheme::Http, _) => None,
            (Scheme::Https, None) => return Err(format!("{target}: https needs trusted root certificates")),
            (Scheme::Https, Some(config)) => Some(tls(&target, config, settings.protocol)?),
        };
        let is_anonymous =
            tls.is_some() && settings.tls.as_ref().is_some_and(|tls| !tls.client_auth_cert_resolver.has_certs());
        let (protocol, head_start) = (settings.protocol, settings.connect / 2);
        Ok(Self { target, tls, is_anonymous, protocol, head_start, turned: AtomicBool::new(false) })
    }

    /// Returns the HTTP version if it is known without ALPN.
    pub(super) fn known_version(&self) -> Option<HttpVersion> {
        match self.protocol {
            Protocol::Http1 => Some(HttpVersion::Http1),
            Protocol::Http2 => Some(HttpVersion::Http2),
            Protocol::Auto if self.tls.is_none() => Some(HttpVersion::Http1),
            Protocol::Auto => None,
        }
    }

    /// Opens a connection, without a timeout. `slot` stays with the socket.
    pub(super) async fn connect<B>(&self, slot: ConnectionSlot) -> Result<Opened<B>, SendFailure>
    where
        B: Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let (wire, version) = self.wire().await?;
        let io = Io { wire, stats: None, interim: Interim::Unknown, slot: Arc::new(slot) };
        match version {
            HttpVersion::Http1 => open_http1(io).await,
            HttpVersion::Http2 => open_http2(io).await,
        }
        .map_err(|error| (ErrorKind::Connect, self.closed(&error)))
    }

    async fn wire(&self) -> Result<(Wire, HttpVersion), SendFailure> {
        let failed = |error: io::Error| (ErrorKind::Connect, self.message(&error.to_string()));
        let tcp = self.tcp().await.map_err(failed)?;
        tune(&tcp).map_err(failed)?;
        let Some((connector, name)) = &self.tls else {
            return Ok((Wire::Plain(tcp), self.known_version().unwrap_or(HttpVersion::Http1)));
        };
        let tls = connector.connect(name.clone(), tcp).await;
        let tls = tls.map_err(|error| (ErrorKind::Tls, self.message(&format!("TLS: {}", explained(&error)))))?;
        let agreed = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let version = self.known_version().unwrap_or(if agreed { HttpVersion::Http2 } else { HttpVersion::Http1 });
        Ok((Wire::Tls(Box::new(tls)), version))
    }

    /// Connects to the replica's address. Of two addresses, tries the one that worked last first, for half of the time.
    /// They are tried in sequence and not in parallel (RFC 8305), because the slot is for one socket.
    async fn tcp(&self) -> io::Result<TcpStream> {
        let Target { address, other, .. } = self.target;
        let Some(other) = other else { return TcpStream::connect(address).await };
        let turned = self.turned.load(Ordering::Relaxed);
        let (first, second) = if turned { (other, address) } else { (address, other) };
        if let Ok(Ok(stream)) = tokio::time::timeout(self.head_start, TcpStream::connect(first)).await {
            return Ok(stream);
        }
        let stream = TcpStream::connect(second).await?;
        self.turned.store(!turned, Ordering::Relaxed);
        Ok(stream)
    }

    /// Formats a message about this replica.
    pub(super) fn message(&self, what: &str) -> String {
        format!("{}: {what}", self.target)
    }

    /// Formats the error of a new connection that the replica has closed. With TLS 1.3, one that requires a certificate of its
    /// client does so after the handshake, and what says why may be lost.
    pub(super) fn closed(&self, error: &hyper::Error) -> String {
        let error = chain(error);
        let what = if self.is_anonymous { format!("{error}; {ANONYMOUS}") } else { error };
        self.message(&what)
    }
}

/// The most names of a certificate in a message, and the most characters of one.
const NAMES: usize = 5;
const NAME: usize = 256;

/// What to do if a replica may want to know who connects.
const ANONYMOUS: &str = "it may require a client certificate: set `upstream.tls.certificate` and `upstream.tls.key`";

/// Returns why a handshake has failed, with what to do where the manifest decides it.
fn explained(error: &io::Error) -> String {
    use rustls::{CertificateError as C, Error as E};
    match error.get_ref().and_then(|error| error.downcast_ref::<E>()) {
        Some(E::General(why)) => why.clone(),
        // The latter if an authority has the name of the one that has signed it, and another key.
        Some(E::InvalidCertificate(C::UnknownIssuer | C::BadSignature)) => {
            "no trusted authority has signed its certificate; name the file of its authority in `upstream.tls.ca` or, \
             for `cluster.calls` and every upstream without that key, in the variable SSL_CERT_FILE"
                .into()
        }
        Some(E::InvalidCertificate(C::NotValidForNameContext { presented, .. })) => {
            let names: Vec<_> = presented.iter().take(NAMES).map(|name| plain_name(name)).collect();
            let names = if names.is_empty() { "no host".to_owned() } else { names.join(", ") };
            format!(
                "its certificate is for {names}, and not for the host of its URL; write one of its names there, or set \
                 `upstream.tls.names`"
            )
        }
        _ => error.to_string(),
    }
}

/// Returns a name as certificates have it: rustls shows `DnsName("a.test")`.
fn plain_name(shown: &str) -> String {
    let quoted = shown.split_once("(\"").and_then(|(_, name)| name.strip_suffix("\")"));
    quoted.unwrap_or(shown).chars().filter(char::is_ascii_graphic).take(NAME).collect()
}

fn tls(
    target: &Target,
    config: &ClientConfig,
    protocol: Protocol,
) -> Result<(TlsConnector, ServerName<'static>), String> {
    let name = ServerName::try_from(target.host.to_string())
        .map_err(|error| format!("{target}: a certificate cannot name the host {:?}: {error}", target.host))?;
    let mut config = config.clone();
    let (h2, http1) = (b"h2".to_vec(), b"http/1.1".to_vec());
    config.alpn_protocols = match protocol {
        Protocol::Http1 => vec![http1],
        Protocol::Http2 => vec![h2],
        Protocol::Auto => vec![h2, http1],
    };
    Ok((TlsConnector::from(Arc::new(config)), name))
}

fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(SILENT).with_interval(SILENT).with_retries(2))
}

async fn open_http1<B>(mut io: Io) -> hyper::Result<Opened<B>>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let slot = Arc::clone(&io.slot);
    slot.release_http2_units();
    let interim = Arc::<InterimCount>::default();
    io.interim = Interim::Http1(Arc::clone(&interim));
    let (sender, connection) =
        http1::Builder::new().max_header_size(HEAD as usize).max_buf_size(BUFFER).handshake(TokioIo::new(io)).await?;
    // The request in flight receives the connection's error.
    let task = tokio::spawn(async move { drop(connection.with_upgrades().await) });
    Ok(Opened::Http1(Http1Conn::new(sender, task.abort_handle(), slot, interim)))
}

async fn open_http2<B>(mut io: Io) -> hyper::Result<Opened<B>>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let stats = Arc::new(H2Stats::default());
    io.stats = Some(Arc::clone(&stats));
    io.interim = Interim::Http2(Box::default());
    let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(HEAD)
        .initial_stream_window_size(STREAM)
        .initial_connection_window_size(CONNECTION)
        .max_send_buf_size(SEND)
        .handshake(TokioIo::new(io))
        .await?;
    stats.set_limit(STREAMS.min(connection.current_max_send_streams()));
    let for_task = Arc::clone(&stats);
    tokio::spawn(async move {
        loop {
            // hyper polls the connection for every request; `settled` wakes it when the first SETTINGS frame was read.
            let polled = std::future::poll_fn(|cx| {
                let ended = Pin::new(&mut connection).poll(cx);
                for_task.set_limit(STREAMS.min(connection.current_max_send_streams()));
                ended
            });
            tokio::select! {
                _ = polled => return,
                () = for_task.settled.notified() => {}
            }
        }
    });
    Ok(Opened::Http2(sender, stats))
}

/// A socket with its slot.
struct Io {
    wire: Wire,
    stats: Option<Arc<H2Stats>>,
    interim: Interim,
    slot: Arc<ConnectionSlot>,
}

/// How the interim responses on a connection are counted.
enum Interim {
    Unknown,
    Http1(Arc<InterimCount>),
    Http2(Box<HeadFrames>),
}

enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Another read means that the first one was processed.
        if let Some(stats) = self.stats.as_ref().filter(|stats| stats.reads() == 1) {
            stats.settled.notify_one();
        }
        if let Interim::Http1(count) = &self.interim {
            count.check()?;
        }
        let before = buffer.filled().len();
        let read = match &mut self.wire {
            Wire::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Wire::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        };
        if let Interim::Http2(frames) = &mut self.interim {
            frames.read(buffer.filled().get(before..).unwrap_or_default())?;
        }
        if let (Poll::Ready(_), Some(stats)) = (&read, &self.stats) {
            stats.record_read();
        }
        read
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.wire {
            Wire::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Wire::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.wire {
            Wire::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Wire::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.wire {
            Wire::Plain(tcp) => tcp.is_write_vectored(),
            Wire::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Wire::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Wire::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
