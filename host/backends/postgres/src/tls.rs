//! TLS of tokio-postgres by rustls.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use lodge_remote::{ConnectFailure, ServerStream};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// Begins TLS when the server has agreed to it.
pub(crate) struct Connect {
    pub(crate) host: String,
    /// `None` if TLS is not wanted; then nothing calls this.
    pub(crate) config: Option<Arc<ClientConfig>>,
}

/// A connection with TLS.
pub(crate) struct Secure(ServerStream);

impl TlsConnect<ServerStream> for Connect {
    type Stream = Secure;
    type Error = ConnectFailure;
    type Future = Pin<Box<dyn Future<Output = Result<Secure, ConnectFailure>> + Send>>;

    fn connect(self, stream: ServerStream) -> Self::Future {
        Box::pin(async move {
            let config = self.config.ok_or_else(|| ConnectFailure::new("TLS is not configured"))?;
            stream.secure(&self.host, config).await.map(Secure)
        })
    }
}

impl TlsStream for Secure {
    fn channel_binding(&self) -> ChannelBinding {
        // The certificate is verified, so binding the login to it adds nothing.
        ChannelBinding::none()
    }
}

impl AsyncRead for Secure {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Secure {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
