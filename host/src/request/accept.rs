//! The listener loop, which nothing but a stop ends.
//!
//! A place among `listener.connections` is taken before accept, so that overload waits in the kernel's backlog and
//! not in our memory. An accept error is one client's, or passes: it never ends the server.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::headers::Peer;
use super::serve::{self, Server};

/// Between two tries while the process is out of file descriptors: a busy loop would make it worse.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Accepts until `stop`, then what the kernel has accepted on our behalf by then, and closes the listener.
pub async fn accept(listener: TcpListener, server: Arc<Server>, stop: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(server.bounds.connections));
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, accepted(&listener).await)
        };
        tokio::select! {
            (place, stream) = next => spawn(&server, stream, place),
            () = &mut stop => break,
        }
    }
    // Their handshakes are done: as far as the clients know, they are connected.
    while let Poll::Ready(Ok((stream, _))) = poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await {
        spawn(&server, stream, ());
    }
}

fn spawn(server: &Arc<Server>, stream: TcpStream, place: impl Send + 'static) {
    let (Ok(remote), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return };
    // Answers are written whole; waiting for more would only delay them. Refused, they are just later.
    let _ = stream.set_nodelay(true);
    let peer = Peer::new(remote, local, &server.trusted_proxies);
    let server = Arc::clone(server);
    tokio::spawn(async move {
        serve::connection(server, stream, peer).await;
        drop(place);
    });
}

async fn accepted(listener: &TcpListener) -> TcpStream {
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
