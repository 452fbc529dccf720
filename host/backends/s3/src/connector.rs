//! Connections for the HTTP client.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use lodge_remote::{ConnectFailure, ServerStream, connect};
use rustls::ClientConfig;
use tokio::time::timeout;

/// How long opening a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Opens connections to one server.
#[derive(Clone)]
pub(crate) struct S3Connector {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// A connection.
pub(crate) struct S3Connection(TokioIo<ServerStream>);

impl tower_service::Service<Uri> for S3Connector {
    type Response = S3Connection;
    type Error = ConnectFailure;
    type Future = Pin<Box<dyn Future<Output = Result<S3Connection, ConnectFailure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectFailure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { host, port, tls } = self.clone();
        Box::pin(async move {
            let opened = timeout(CONNECT, connect(&host, port, tls)).await;
            let late = || {
                ConnectFailure::new(format!(
                    "no response within {} s: check the network, and whether its port expects TLS",
                    CONNECT.as_secs()
                ))
            };
            // The readers of responses bound them.
            Ok(S3Connection(TokioIo::new(opened.map_err(|_| late())??.endless())))
        })
    }
}

impl Connection for S3Connection {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for S3Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buffer)
    }
}

impl Write for S3Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}
