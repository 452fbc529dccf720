//! HTTP clients that read only as much of their responses as a test wants.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::{Request, Response};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::within;

/// A connection whose HTTP/2 streams have a small initial window.
pub(crate) struct Narrow {
    sender: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Narrow {
    /// Connects with this initial window of every stream, in bytes.
    pub(crate) async fn connect(address: SocketAddr, window: u32) -> Self {
        let stream = within(TcpStream::connect(address)).await.expect("the host accepts");
        let (sender, connection) =
            within(Builder::new().initial_window_size(window).handshake(stream)).await.expect("a handshake");
        Self { sender, connection: tokio::spawn(connection) }
    }

    /// Sends a GET and waits for the head of its response. Reads nothing of the body.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Response<h2::RecvStream>, h2::Error> {
        self.send(Request::get(format!("http://localhost{path}")).body(()).expect("a request")).await
    }

    /// The same for any request without a body.
    pub(crate) async fn send(&mut self, request: Request<()>) -> Result<Response<h2::RecvStream>, h2::Error> {
        let mut sender = within(self.sender.clone().ready()).await?;
        let (response, _) = sender.send_request(request, true)?;
        within(response).await
    }

    /// Whether the host has ended the connection.
    pub(crate) fn is_over(&self) -> bool {
        self.connection.is_finished()
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Sends GETs over HTTP/1.1 and reads nothing, until the host accepts no more of them, since its responses wait.
pub(crate) async fn unread(address: SocketAddr, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a size");
    let mut stream = within(socket.connect(address)).await.expect("the host accepts");
    let requests = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").repeat(1000);
    // Longer than `listener.idle` in the tests: if a client reads before the host has given up, the host continues for
    // a thousand responses.
    let quiet = std::time::Duration::from_secs(2);
    while tokio::time::timeout(quiet, stream.write_all(requests.as_bytes())).await.is_ok_and(|sent| sent.is_ok()) {}
    stream
}
