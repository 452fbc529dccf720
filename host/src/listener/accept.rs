//! Accepts connections until the host stops.
//!
//! One of `listener.connections` is reserved before each accept, so that further connections wait in the kernel's backlog and
//! take no memory of the host. An error of accept concerns one client or is temporary, and never ends the loop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::listener::connection;
use crate::listener::connection::Server;
use crate::listener::proxy_protocol;
use crate::listener::tls::{TlsServer, client_certificate};
use lodge_base::lasting::forever;
use lodge_traffic::proxy::headers::Peer;

/// The delay after an accept that failed for want of file descriptors or memory, since a busy loop would make that worse.
const BACK_OFF: Duration = Duration::from_millis(100);

/// How long handshakes that were under way when the host stops may take: a slow round trip.
const HANDSHAKES: Duration = Duration::from_millis(250);

/// A socket that listens.
pub struct Socket {
    /// The socket.
    pub listener: TcpListener,
    /// Whether systemd has it, too. Then connections that are not accepted wait for the next process.
    pub is_shared: bool,
}

/// The sockets for services.
pub struct Listeners {
    /// Without TLS.
    pub plain: Socket,
    /// With TLS.
    pub secure: Option<(Socket, Arc<TlsServer>)>,
}

impl Listeners {
    /// Whether systemd has one of the sockets, too.
    pub fn are_shared(&self) -> bool {
        self.plain.is_shared || self.secure.as_ref().is_some_and(|(secure, _)| secure.is_shared)
    }

    /// Returns the next connection, and the TLS that it begins with. `shared` is whether it may come from a socket that systemd has, too.
    async fn next(&self, shared: bool) -> (TcpStream, Option<Arc<TlsServer>>) {
        let next = async |socket: &Socket| match socket.is_shared && !shared {
            true => std::future::pending().await,
            false => accepted(&socket.listener).await,
        };
        let Some((secure, tls)) = &self.secure else { return (next(&self.plain).await, None) };
        tokio::select! {
            stream = next(&self.plain) => (stream, None),
            stream = next(secure) => (stream, Some(Arc::clone(tls))),
        }
    }
}

/// Accepts connections from `start` until `stop`, then those that the kernel has completed by then, and closes the listeners.
pub async fn accept(
    listeners: Listeners,
    server: Arc<Server>,
    start: impl Future<Output = ()>,
    stop: impl Future<Output = ()>,
) {
    let connections = Arc::new(Semaphore::new(server.bounds.connections));
    let accepting = forever("listener", || async {
        loop {
            let permit = Arc::clone(&connections).acquire_owned().await;
            spawn(&server, listeners.next(true).await, permit);
        }
    });
    let accepting = async {
        start.await;
        accepting.await;
    };
    tokio::select! {
        () = accepting => {}
        () = stop => {}
    }
    let sockets = [&listeners.plain].into_iter().chain(listeners.secure.as_ref().map(|(secure, _)| secure));
    for socket in sockets.filter(|socket| !socket.is_shared) {
        if let Err(error) = begin_no_more(&socket.listener) {
            tracing::debug!("a connection made while the listener closes may be lost: {error}");
        }
    }
    // The clients of these already see an open connection.
    let rest = async {
        loop {
            spawn(&server, listeners.next(false).await, ());
        }
    };
    let _ = tokio::time::timeout(HANDSHAKES, rest).await;
}

/// Makes the kernel ignore new connections. Handshakes that have begun go on.
///
/// Closing a listener resets every connection that was completed since the last accept, and loses what was sent on it. A packet
/// filter therefore drops SYN packets, and after [`HANDSHAKES`] no completed connection is left. An ignored client sends SYN
/// again within a second, and is refused or reaches another host.
#[cfg(target_os = "linux")]
fn begin_no_more(listener: &TcpListener) -> io::Result<()> {
    use socket2::SockFilter;
    // The filter sees the TCP header: byte 13 has the flags, 2 is SYN. See linux/filter.h for the codes.
    let (load_byte, jump_if_set, end) = (0x30, 0x45, 0x06);
    socket2::SockRef::from(listener).attach_filter(&[
        SockFilter::new(load_byte, 0, 0, 13),
        SockFilter::new(jump_if_set, 0, 1, 2),
        SockFilter::new(end, 0, 0, 0),
        SockFilter::new(end, 0, 0, u32::MAX),
    ])
}

#[cfg(not(target_os = "linux"))]
fn begin_no_more(_listener: &TcpListener) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn spawn(server: &Arc<Server>, (mut stream, tls): (TcpStream, Option<Arc<TlsServer>>), permit: impl Send + 'static) {
    let (Ok(remote), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return };
    // Responses are written whole, so Nagle's algorithm would only delay them. If this fails, they are only slower.
    let _ = stream.set_nodelay(true);
    let server = Arc::clone(server);
    tokio::spawn(async move {
        let metrics = Arc::clone(&server.handler.metrics);
        let (_open, _permit) = (metrics.open(), permit);
        let peer = match server.bounds.proxy_protocol {
            false => Peer::new(remote, local, &server.handler.trusted_proxies),
            true => {
                let Some(peer) = Box::pin(proxy_protocol::client(&mut stream, (remote, local), &server)).await else {
                    return;
                };
                peer
            }
        };
        match tls {
            None => connection::connection(server, stream, peer).await,
            // Boxed, so that a connection without TLS does not carry the state of a handshake.
            Some(tls) => Box::pin(secured(server, stream, peer, tls)).await,
        }
    });
}

/// Serves a connection over TLS.
async fn secured(server: Arc<Server>, stream: TcpStream, peer: Peer, tls: Arc<TlsServer>) {
    let Some(secured) = tls.handshake(stream, &server.buffers, server.drain.stop_signal()).await else { return };
    let certificates = secured.stream.get_ref().1.peer_certificates();
    let peer = peer.over_tls(certificates.and_then(|chain| client_certificate(chain.first()?)));
    connection::connection(server, secured.stream, peer).await;
    drop(secured.memory);
}

/// Returns the next connection. Logs errors and goes on.
pub async fn accepted(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if is_the_clients(&error) => {
                tracing::debug!("a client ended its connection before it was accepted: {error}")
            }
            Err(error) => {
                tracing::error!(
                    "cannot accept a connection: {error}; trying again; if this repeats, raise the limit of open files (`ulimit -n`)"
                );
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::ConnectionAborted | K::ConnectionReset | K::ConnectionRefused | K::Interrupted)
}
