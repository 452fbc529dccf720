//! A stream that is read only as far as its account has memory.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::account::{Account, Plan};
use lodge_base::cpu::turn::yield_turn;

/// A stream whose bytes are charged to an [`Account`].
pub struct Metered<S> {
    stream: S,
    account: Arc<Account>,
    /// A wait for memory, and whether that is for the base.
    waiting: Option<(bool, PendingBytes)>,
}

/// The future of bytes taken from the buffers.
type PendingBytes = Pin<Box<dyn Future<Output = usize> + Send>>;

impl<S> Metered<S> {
    /// Charges the bytes read from `stream` to `account`.
    pub fn new(stream: S, account: Arc<Account>) -> Self {
        Self { stream, account, waiting: None }
    }

    /// Returns how many of `length` bytes may be read.
    fn poll_plan(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<usize> {
        loop {
            if let Some((base, waiting)) = &mut self.waiting
                && let Poll::Ready(bytes) = waiting.as_mut().poll(cx)
            {
                self.account.add(bytes, *base);
                self.waiting = None;
            }
            let (bytes, base) = match self.account.plan(length, cx.waker()) {
                Plan::Read(most) => {
                    // The bytes waited for are no longer needed, and must not be taken from other connections that wait.
                    self.waiting = None;
                    return Poll::Ready(most);
                }
                Plan::Turn => return yield_turn(cx),
                Plan::Full => {
                    self.waiting = None;
                    return Poll::Pending;
                }
                _ if self.waiting.is_some() => return Poll::Pending,
                Plan::Base(bytes) => (bytes, true),
                Plan::Wait(bytes) => (bytes, false),
            };
            self.waiting = Some((base, Box::pin(Arc::clone(&self.account.buffers).wait(bytes, base))));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let most = ready!(this.poll_plan(cx, buf.remaining()));
        let before = buf.filled().len();
        ready!(Pin::new(&mut (&mut this.stream).take(most as u64)).poll_read(cx, buf))?;
        this.account.read(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Data received from now on is discarded.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.account.leave();
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
