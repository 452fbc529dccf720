//! A connection to the world: the name is resolved once, what it resolves to is checked, and one of the addresses that
//! passed is connected to. Nobody resolves it again in between, so a name cannot change its mind.

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

use super::address::is_public;
use super::again::Uses;
use super::failure::Failure;
use crate::manifest::grants::{Grants, bare};

/// Addresses of a name that are tried.
const TRIED: usize = 6;

/// How long an address is tried before the next one is as well (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);

/// Names of a service that are resolved at once. The system's resolver blocks a thread, and goes on when nobody waits.
const LOOKUPS: usize = 8;

/// Finds the addresses of a name, in a place among the [`LOOKUPS`] that it holds until it is done.
pub(super) type Resolver = Arc<dyn Fn(String, OwnedSemaphorePermit) -> Resolving + Send + Sync>;

type Resolving = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Makes connections for one service.
#[derive(Clone)]
pub(super) struct Dial {
    resolver: Resolver,
    grants: Arc<Grants>,
    /// For every connection, used or idle.
    places: Arc<Semaphore>,
    most: usize,
    lookups: Arc<Semaphore>,
}

/// A connection, in its place among those that there may be.
pub(super) struct Line {
    stream: TokioIo<TcpStream>,
    _place: OwnedSemaphorePermit,
}

/// The system's own: files, DNS, whatever it is told to use.
pub(super) fn system() -> Resolver {
    Arc::new(|host, place| {
        Box::pin(async move {
            let looking = tokio::task::spawn_blocking(move || {
                let found = (host.as_str(), 0).to_socket_addrs().map(|found| found.map(|it| it.ip()).collect());
                drop(place);
                found
            });
            looking.await.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
        })
    })
}

/// How long a new connection waits for one that goes: those that idle are let go as soon as there is no room.
const ROOM: Duration = Duration::from_secs(1);

impl Dial {
    /// At most `connections` at once, to what `grants` allows.
    pub(super) fn new(resolver: Resolver, grants: &Grants, connections: usize) -> Self {
        let (places, lookups) = (Semaphore::new(connections), Semaphore::new(LOOKUPS));
        Self {
            resolver,
            grants: Arc::new(grants.clone()),
            places: Arc::new(places),
            most: connections,
            lookups: Arc::new(lookups),
        }
    }

    /// Connections that there are, or are being made.
    pub(super) fn open(&self) -> usize {
        self.most.saturating_sub(self.places.available_permits())
    }

    async fn connect(self, target: Uri) -> Result<Line, Failure> {
        let https = target.scheme() == Some(&Scheme::HTTPS);
        let (scheme, usual) = if https { (Scheme::HTTPS, 443) } else { (Scheme::HTTP, 80) };
        let host = bare(target.host().unwrap_or_default()).to_owned();
        let port = target.port_u16().unwrap_or(usual);
        let place = tokio::time::timeout(ROOM, Arc::clone(&self.places).acquire_owned()).await;
        let Ok(Ok(place)) = place else { return Err(Failure::Connections) };
        let found = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => {
                let looking = Arc::clone(&self.lookups).acquire_owned().await.map_err(|_| Failure::Connections)?;
                (self.resolver)(host, looking).await.map_err(|error| Failure::Dns(error.to_string()))?
            }
        };
        let may = |address: &IpAddr| is_public(*address) || self.grants.reaches(&scheme, *address, port);
        let passed: Vec<_> = found.iter().copied().filter(may).collect();
        if passed.is_empty() {
            return Err(found
                .first()
                .map_or(Failure::Dns("it has no address".into()), |first| Failure::Prohibited(*first)));
        }
        let stream = first(passed.into_iter().map(|address| SocketAddr::new(address, port))).await?;
        // Requests are written whole; waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        Ok(Line { stream: TokioIo::new(stream), _place: place })
    }
}

/// The first address that answers; each is given a head start on the next.
async fn first(addresses: impl Iterator<Item = SocketAddr>) -> Result<TcpStream, Failure> {
    let (mut rest, mut trying, mut failed) = (addresses.take(TRIED), JoinSet::new(), None);
    loop {
        match rest.next() {
            Some(address) => drop(trying.spawn(TcpStream::connect(address))),
            None if trying.is_empty() => return Err(failed.unwrap_or(Failure::Unreachable)),
            None => {}
        }
        match tokio::time::timeout(STAGGER, trying.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(error)))) => failed = Some(Failure::of_connect(&error)),
            _ => {}
        }
    }
}

impl tower_service::Service<Uri> for Dial {
    type Response = Line;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Line, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        Box::pin(self.clone().connect(target))
    }
}

impl Connection for Line {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(Uses::default())
    }
}

impl Read for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl Write for Line {
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
