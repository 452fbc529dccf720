//! A connection of a guest's client. Over HTTP/2, it ends after too many interim responses to one request: hyper's client counts those of
//! HTTP/1.1 only.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper_rustls::MaybeHttpsStream;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::dial::DialedStream;
use super::failure::OutgoingFailure;
use lodge_traffic::upstreams::transport::interim::HeadFrames;

/// The connection.
pub(super) struct CountedStream {
    stream: TokioIo<MaybeHttpsStream<DialedStream>>,
    /// The heads of responses, over HTTP/2.
    heads: Option<Box<HeadFrames>>,
}

impl CountedStream {
    pub(super) fn new(stream: MaybeHttpsStream<DialedStream>) -> Self {
        let heads = stream.connected().is_negotiated_h2().then(Box::default);
        Self { stream: TokioIo::new(stream), heads }
    }
}

impl Connection for CountedStream {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

impl AsyncRead for CountedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if let Some(heads) = &mut self.heads {
            let read = heads.read(buffer.filled().get(before..).unwrap_or_default());
            read.map_err(|error| io::Error::other(OutgoingFailure::Protocol(error.to_string())))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CountedStream {
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
