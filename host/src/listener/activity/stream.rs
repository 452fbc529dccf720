//! The bytes of a connection, watched on their way in and out.

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

/// How long a client that has closed its sending side in the middle of a request may still be there for the answer.
/// On the wire it looks the same as one that has left, whose guest must not go on for nobody.
const HALF_CLOSED: Duration = Duration::from_secs(1);

/// How long what a client still sends is thrown away after the connection's end. Closing with some of it unread would
/// reset the connection, and take the answer from a client that has not read it yet: the 413 to an upload, say.
const DISCARD: Duration = Duration::from_secs(1);

/// The first bytes of an HTTP/2 connection (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream whose bytes are watched.
pub struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
    /// Bytes of the preface of HTTP/2 read so far; `None` once it is known to be there or not to be.
    preface: Option<usize>,
    /// The socket takes no more, or has since taken only a part of what there is.
    is_stalled: bool,
    /// The end of the client's bytes, which hyper is told of later.
    half_closed: Option<Pin<Box<Sleep>>>,
    /// Since the end, while the client may send on.
    discarding: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    /// Watches `stream` for `activity`.
    pub fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity, preface: Some(0), is_stalled: false, half_closed: None, discarding: None }
    }

    /// The client sends no more.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = lock(&self.activity.state);
        let answering = matches!(state.phase, Phase::Busy(_)) && !state.h2;
        drop(state);
        if answering {
            let timer = self.half_closed.get_or_insert_with(|| Box::pin(tokio::time::sleep(HALF_CLOSED)));
            ready!(timer.as_mut().poll(cx));
        }
        Poll::Ready(Ok(()))
    }

    /// Notes what the socket took. One that takes a byte now and then is stalled as well: only [`PROGRESS`] or a flush of all
    /// there is ends a stall.
    fn wrote(&mut self, polled: &Poll<io::Result<usize>>) {
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

    /// Compares what the client sends with the preface of HTTP/2, which may come in pieces.
    fn sniff(&mut self, bytes: &[u8]) {
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
        self.sniff(bytes);
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
    /// Throws away what the client sends, until it has heard of the end.
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
        self.wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when it has written all there is.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_stalled {
            self.is_stalled = false;
            lock(&self.activity.state).stalled = None;
        }
        Pin::new(&mut self.stream).poll_flush(cx)
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
