//! Accepts connections until the host stops.
//!
//! At the bound `listener.connections`, an idle connection is given up for a new one. If none is idle, one waits for a place here, and
//! further ones wait in the kernel's backlog, where they take no memory of the host. An error of accept concerns one client or is
//! temporary, and never ends the loop.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::net::{TcpListener, TcpStream};

use crate::listener::connection;
use crate::listener::connection::Server;
use crate::listener::places::{ClientConnection, ConnectionPlace, ConnectionPlaces};
use crate::listener::proxy_protocol;
use crate::listener::tls::{TlsServer, client_certificate};
use lodge_base::lasting::forever;
use lodge_base::lock::lock;
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

/// A connection, and the TLS that it begins with.
type Accepted = (TcpStream, Option<Arc<TlsServer>>);

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
    async fn next(&self, shared: bool) -> Accepted {
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
    let places = ConnectionPlaces::new(server.bounds.connections, &server.handler.metrics);
    // It is not lost when the host stops.
    let waiting: Mutex<Option<Accepted>> = Mutex::new(None);
    let accepting = forever("listener", || async {
        loop {
            if lock(&waiting).is_none() {
                let next = listeners.next(true).await;
                *lock(&waiting) = Some(next);
            }
            let client = lock(&waiting).as_ref().map(|(stream, _)| stream.peer_addr());
            let place = match client {
                Some(Ok(client)) => Some(places.wait(client.ip()).await),
                _ => None,
            };
            if let Some(next) = lock(&waiting).take() {
                spawn(&server, next, place);
            }
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
    let waiting = lock(&waiting).take();
    waiting.into_iter().for_each(|next| spawn(&server, next, None));
    // The clients of these already see an open connection.
    let rest = async {
        loop {
            spawn(&server, listeners.next(false).await, None);
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

fn spawn(server: &Arc<Server>, (mut stream, tls): Accepted, mut place: Option<ConnectionPlace>) {
    let (Ok(remote), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return };
    // Responses are written whole, so Nagle's algorithm would only delay them. If this fails, they are only slower.
    let _ = stream.set_nodelay(true);
    let server = Arc::clone(server);
    let open = place.as_ref().map(|place| Arc::clone(place.connection()));
    let of_task = open.clone();
    let task = tokio::spawn(async move {
        let open = of_task.as_deref();
        let metrics = Arc::clone(&server.handler.metrics);
        let _counted = metrics.open();
        let peer = match server.bounds.proxy_protocol {
            false => Peer::new(remote, local, &server.handler.trusted_proxies),
            true => {
                let Some(peer) = Box::pin(proxy_protocol::client(&mut stream, (remote, local), &server)).await else {
                    return;
                };
                // Otherwise all clients of a proxy would be one, which loses the connection that is idle for longest, whoever has most.
                place.iter_mut().for_each(|place| place.set_client(peer.address()));
                peer
            }
        };
        match tls {
            None => connection::connection(server, stream, peer, open).await,
            // Boxed, so that a connection without TLS does not carry the state of a handshake.
            Some(tls) => Box::pin(secured(server, stream, peer, tls, open)).await,
        }
        drop(place);
    });
    if let Some(open) = open {
        open.set_task(task.abort_handle());
    }
}

/// Serves a connection over TLS.
async fn secured(
    server: Arc<Server>,
    stream: TcpStream,
    peer: Peer,
    tls: Arc<TlsServer>,
    open: Option<&ClientConnection>,
) {
    let stop = server.drain.stop_signal();
    let Some(secured) = tls.handshake(stream, peer.address(), &server.buffers, stop).await else { return };
    let certificate = secured.stream.get_ref().1.peer_certificates().map(|chain| {
        client_certificate(chain, SystemTime::now()).ok_or("its client has a certificate that cannot be parsed")
    });
    let peer = match certificate.transpose() {
        Ok(certificate) => peer.over_tls(certificate),
        // How long it is valid is not known either.
        Err(why) => return tracing::debug!("closed a connection: {why}"),
    };
    connection::connection(server, secured.stream, peer, open).await;
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
