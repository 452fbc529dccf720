//! Opens connections to the world. A name is resolved once, its addresses are checked, and one of those that passed is
//! connected to. Nothing resolves the name again in between, so DNS rebinding has no effect.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::failure::OutgoingFailure;
use super::retry::ConnectionUses;
use lodge_base::address::is_public;
use lodge_manifest::grants::{Grants, bare};

/// The most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 6;

/// How long an address is tried before the next one is tried as well (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);

/// The most concurrent lookups of a service. The system's resolver blocks a thread, and continues when the caller has
/// gone.
const LOOKUPS: usize = 8;

/// Resolves a name. Holds one of the [`LOOKUPS`] permits until the lookup ends.
pub(super) type NameResolver = Arc<dyn Fn(String, OwnedSemaphorePermit) -> Resolving + Send + Sync>;

type Resolving = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Opens connections for one service.
#[derive(Clone)]
pub(super) struct Dialer {
    resolver: NameResolver,
    grants: Arc<Grants>,
    /// One permit per connection, in use or idle.
    slots: Arc<Semaphore>,
    limit: usize,
    lookups: Arc<Semaphore>,
}

/// A TCP connection with its permit.
pub(super) struct DialedStream {
    stream: TokioIo<TcpStream>,
    _slot: OwnedSemaphorePermit,
}

/// Returns the system's resolver (`getaddrinfo`).
pub(super) fn system() -> NameResolver {
    Arc::new(|host, slot| {
        Box::pin(async move {
            let looking = tokio::task::spawn_blocking(move || {
                let found = (host.as_str(), 0).to_socket_addrs().map(|found| found.map(|it| it.ip()).collect());
                drop(slot);
                found
            });
            looking.await.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
        })
    })
}

/// How long a new connection waits for a permit: idle connections are closed when there is none.
const SLOT_TIMEOUT: Duration = Duration::from_secs(1);

impl Dialer {
    /// Creates a dialer for at most `connections` connections to what `grants` allows.
    pub(super) fn new(resolver: NameResolver, grants: &Grants, connections: usize) -> Self {
        let (slots, lookups) = (Semaphore::new(connections), Semaphore::new(LOOKUPS));
        Self {
            resolver,
            grants: Arc::new(grants.clone()),
            slots: Arc::new(slots),
            limit: connections,
            lookups: Arc::new(lookups),
        }
    }

    /// Returns the number of connections that are open or being opened.
    pub(super) fn open(&self) -> usize {
        self.limit.saturating_sub(self.slots.available_permits())
    }

    async fn connect(self, target: Uri) -> Result<DialedStream, OutgoingFailure> {
        let https = target.scheme() == Some(&Scheme::HTTPS);
        let (scheme, usual) = if https { (Scheme::HTTPS, 443) } else { (Scheme::HTTP, 80) };
        let host = bare(target.host().unwrap_or_default()).to_owned();
        let port = target.port_u16().unwrap_or(usual);
        let slot = tokio::time::timeout(SLOT_TIMEOUT, Arc::clone(&self.slots).acquire_owned()).await;
        let Ok(Ok(slot)) = slot else { return Err(OutgoingFailure::Connections) };
        let found = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => {
                let looking =
                    Arc::clone(&self.lookups).acquire_owned().await.map_err(|_| OutgoingFailure::Connections)?;
                (self.resolver)(host, looking).await.map_err(|error| OutgoingFailure::Dns(error.to_string()))?
            }
        };
        let may = |address: &IpAddr| is_public(*address) || self.grants.reaches(&scheme, *address, port);
        let passed: Vec<_> = found.iter().copied().filter(may).collect();
        if passed.is_empty() {
            return Err(found.first().map_or(OutgoingFailure::Dns("the name has no address".into()), |first| {
                OutgoingFailure::Prohibited(*first)
            }));
        }
        let stream = connect_first(passed.into_iter().map(|address| SocketAddr::new(address, port))).await?;
        // Requests are written whole, so Nagle's algorithm would only delay them.
        let _ = stream.set_nodelay(true);
        Ok(DialedStream { stream: TokioIo::new(stream), _slot: slot })
    }
}

/// Connects to the first address that accepts. Each address has a head start on the next one.
async fn connect_first(addresses: impl Iterator<Item = SocketAddr>) -> Result<TcpStream, OutgoingFailure> {
    let (mut rest, mut trying, mut failed) = (addresses.take(MAX_ADDRESSES), JoinSet::new(), None);
    loop {
        match rest.next() {
            Some(address) => drop(trying.spawn(TcpStream::connect(address))),
            None if trying.is_empty() => return Err(failed.unwrap_or(OutgoingFailure::Unreachable)),
            None => {}
        }
        match tokio::time::timeout(STAGGER, trying.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(error)))) => failed = Some(OutgoingFailure::of_connect(&error)),
            _ => {}
        }
    }
}

impl tower_service::Service<Uri> for Dialer {
    type Response = DialedStream;
    type Error = OutgoingFailure;
    type Future = Pin<Box<dyn Future<Output = Result<DialedStream, OutgoingFailure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), OutgoingFailure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        Box::pin(self.clone().connect(target))
    }
}

impl Connection for DialedStream {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(ConnectionUses::default())
    }
}

impl Read for DialedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl Write for DialedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }
}

#[cfg(test)]
mod tests;
