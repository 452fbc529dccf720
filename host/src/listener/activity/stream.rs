//! The stream of a connection, which reports to [`Activity`] what is read and written.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::{Activity, Phase};
use crate::listener::transfer::PROGRESS;
use lodge_base::lock::lock;

/// How long a request goes on after its client has closed its sending side. Such a client may still read the response, or it may
/// have disconnected; both look the same on the wire.
const HALF_CLOSED: Duration = Duration::from_secs(1);

/// How long data of the client is read and discarded after the end of the connection. Closing a socket with unread data resets
/// the connection, and a client that has not read the response yet, such as the 413 to an upload, would lose it.
const DISCARD: Duration = Duration::from_secs(1);

/// The first bytes of an HTTP/2 connection (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream that reports what is read and written.
pub struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
    /// The number of matching bytes of the HTTP/2 preface so far; `None` once it is complete or did not match.
    preface: Option<usize>,
    /// The socket's buffer was full, and has not taken enough since.
    is_stalled: bool,
    /// The delay before hyper sees that the client has closed its sending side.
    half_closed: Option<Pin<Box<Sleep>>>,
    /// The time limit for discarding data after the end.
    discarding: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    /// Returns the stream, reporting to `activity`.
    pub fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity, preface: Some(0), is_stalled: false, half_closed: None, discarding: None }
    }

    /// Handles the end of what the client sends. Delays it while an HTTP/1.1 request is in progress.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = lock(&self.activity.state);
        let responding = matches!(state.phase, Phase::Busy(_)) && !state.h2;
        drop(state);
        if responding {
            let timer = self.half_closed.get_or_insert_with(|| Box::pin(tokio::time::sleep(HALF_CLOSED)));
            ready!(timer.as_mut().poll(cx));
        }
        Poll::Ready(Ok(()))
    }

    /// Records the result of a write. A stall begins when the socket's buffer is full, and ends after [`PROGRESS`] bytes or a
    /// flush of everything; a byte now and then does not end it.
    fn record_write(&mut self, polled: &Poll<io::Result<usize>>) {
        if !self.is_stalled && polled.is_ready() {
            return;
        }
        let mut state = lock(&self.activity.state);
        let (since, taken) = state.stalled.unwrap_or_else(|| (Instant::now(), 0));
        state.stalled = match polled {
            Poll::Pending => Some((since, taken)),
            Poll::Ready(Ok(bytes)) => {
                Some((since, taken.saturating_add(*bytes))).filter(|(_, taken)| *taken < PROGRESS)
            }
            Poll::Ready(Err(_)) => None,
        };
        self.is_stalled = state.stalled.is_some();
    }

    /// Compares the first bytes with the preface of HTTP/2, which may arrive in pieces.
    fn detect_http2(&mut self, bytes: &[u8]) {
        let Some(seen) = self.preface else { return };
        let wanted = PREFACE.get(seen..).unwrap_or_default();
        let compared = wanted.len().min(bytes.len());
        let same = wanted.get(..compared) == bytes.get(..compared);
        self.preface = Some(seen + compared).filter(|seen| same && *seen < PREFACE.len());
        if same && self.preface.is_none() {
            lock(&self.activity.state).h2 = true;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let Some(bytes) = buf.filled().get(before..).filter(|bytes| !bytes.is_empty()) else {
            return self.poll_end(cx);
        };
        self.detect_http2(bytes);
        let mut state = lock(&self.activity.state);
        match state.phase {
            Phase::Silent(_) => state.phase = Phase::Head(None),
            Phase::Idle(_) if !state.h2 => state.phase = Phase::Head(None),
            _ => {}
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> Watched<S> {
    /// Reads and discards data until the client closes its sending side or the time is over.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scrap = [const { MaybeUninit::uninit() }; 8 << 10];
        let timer = self.discarding.get_or_insert_with(|| Box::pin(tokio::time::sleep(DISCARD)));
        while timer.as_mut().poll(cx).is_pending() {
            let mut scrap = ReadBuf::uninit(&mut scrap);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut scrap)) {
                Ok(()) if !scrap.filled().is_empty() => {}
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.record_write(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.record_write(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes after it has written everything that it has.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        // TLS keeps bytes that the socket has not taken.
        if self.is_stalled && flushed.is_ready() {
            self.is_stalled = false;
            lock(&self.activity.state).stalled = None;
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        let state = lock(&self.activity.state);
        let discards = state.upload && !state.switched;
        drop(state);
        if discards {
            ready!(self.poll_discard(cx));
        }
        Poll::Ready(Ok(()))
    }
}
