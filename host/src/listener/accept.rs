//! The listener loop, which nothing but a stop ends.
//!
//! A place among `listener.connections` is taken before accept, so that overload waits in the kernel's backlog and
//! not in our memory. An accept error is one client's, or passes: it never ends the server.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::listener::connection;
use crate::listener::connection::Server;
use lodge_base::lasting::forever;
use lodge_traffic::proxy::headers::Peer;

/// Between two tries while the process is out of file descriptors: a busy loop would make it worse.
const BACK_OFF: Duration = Duration::from_millis(100);

/// For handshakes that are under way when the host stops: a round trip, and room for a slow one.
const HANDSHAKES: Duration = Duration::from_millis(250);

/// Accepts until `stop`, then what the kernel has accepted on our behalf by then, and closes the listener.
pub async fn accept(listener: TcpListener, server: Arc<Server>, stop: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(server.bounds.connections));
    let accepting = forever("listener", || async {
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            spawn(&server, accepted(&listener).await, place);
        }
    });
    tokio::select! {
        () = accepting => {}
        () = stop => {}
    }
    if let Err(error) = begin_no_more(&listener) {
        tracing::debug!("a connection made while the listener closes may be lost: {error}");
    }
    // As far as their clients know, these are connected.
    let rest = async {
        loop {
            spawn(&server, accepted(&listener).await, ());
        }
    };
    let _ = tokio::time::timeout(HANDSHAKES, rest).await;
}

/// Ignores requests for new connections; those whose handshake has begun go on.
///
/// Closing a listener resets every connection that was completed since the last accept, with whatever was sent on
/// it. So a packet filter drops what begins a connection, and after [`HANDSHAKES`] there is nothing left to reset:
/// an ignored client asks again within a second, and is refused or served elsewhere.
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

fn spawn(server: &Arc<Server>, stream: TcpStream, place: impl Send + 'static) {
    let (Ok(remote), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return };
    // Answers are written whole; waiting for more would only delay them. Refused, they are just later.
    let _ = stream.set_nodelay(true);
    let peer = Peer::new(remote, local, &server.handler.trusted_proxies);
    let server = Arc::clone(server);
    tokio::spawn(async move {
        let metrics = Arc::clone(&server.handler.metrics);
        let _open = metrics.open();
        connection::connection(server, stream, peer).await;
        drop(place);
    });
}

/// The next connection. Errors are logged, and passed over.
pub async fn accepted(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if is_the_clients(&error) => tracing::debug!("accept: {error}"),
            Err(error) => {
                tracing::error!("accept: {error}; trying again, raise the limit of open files if this goes on");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::ConnectionAborted | K::ConnectionReset | K::ConnectionRefused | K::Interrupted)
}
