//! The memory of frames on their way through the host: what one keeps in memory, and how many wait to be written.
//!
//! hyper returns slices of the buffers that it reads into, and reads into another buffer while a slice of the last one is alive. So
//! a frame of two bytes keeps 8 KiB or more, and the bounds of what waits to be sent count bytes. Frames are
//! [detached] where they enter the host, and of frames of a few bytes only a few are [handed out](FrameWindow).

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use lodge_base::lock::lock;

/// Pieces of fewer bytes are copied, in less time than a system call takes.
const SMALL: usize = 4 << 10;

/// The most frames of a body that are handed to a connection and not written. Each takes about 400 bytes in h2 and here, whatever its
/// length; frames of 512 bytes and more reach the bound of bytes first.
pub const WAITING: usize = 32;

/// Returns a frame that keeps about as much memory as it has bytes: a small one is copied out of the buffer that it is a part of. Not
/// the last one of a body, which alone keeps one buffer, so that a short body costs no allocation.
pub fn detached(frame: Frame<Bytes>, is_last: bool) -> Frame<Bytes> {
    if is_last { frame } else { frame.map_data(copied) }
}

/// Returns bytes that are no small part of a large buffer.
pub fn copied(bytes: Bytes) -> Bytes {
    if bytes.len() < SMALL { Bytes::copy_from_slice(&bytes) } else { bytes }
}

/// Counts the frames of one body that a connection has and has not written.
#[derive(Debug, Default)]
pub struct FrameWindow {
    frames: AtomicUsize,
    /// Waits until a frame is written.
    body: Mutex<Option<Waker>>,
}

impl FrameWindow {
    /// Ready while fewer than [`WAITING`] frames are handed out. To be polled by one task.
    pub fn poll_open(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.frames.load(Relaxed) < WAITING {
            return Poll::Ready(());
        }
        let mut body = lock(&self.body);
        // Again, since a frame may have been written before the lock was taken.
        if self.frames.load(Relaxed) < WAITING {
            return Poll::Ready(());
        }
        body.get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker());
        Poll::Pending
    }

    /// Counts a frame that is handed out.
    pub fn enter(&self) {
        self.frames.fetch_add(1, Relaxed);
    }

    /// Counts a frame that was written or dropped.
    pub fn leave(&self) {
        if self.frames.fetch_sub(1, Relaxed) == WAITING {
            let body = lock(&self.body).take();
            body.into_iter().for_each(Waker::wake);
        }
    }
}

/// A body whose frames go through a [`FrameWindow`].
pub struct WindowedBody<B> {
    body: B,
    /// `None` for an empty body.
    window: Option<Arc<FrameWindow>>,
}

/// The data of a frame, counted until it is written or dropped.
#[derive(Debug)]
pub struct WindowedData<D> {
    data: D,
    window: Option<Arc<FrameWindow>>,
}

impl<B: Body> WindowedBody<B> {
    /// Wraps a body.
    pub fn new(body: B) -> Self {
        let window = (!body.is_end_stream()).then(Arc::default);
        Self { body, window }
    }

    /// Returns the body, without the frames that were handed out.
    pub fn into_inner(self) -> B {
        self.body
    }
}

impl<B: Body + Unpin> Body for WindowedBody<B> {
    type Data = WindowedData<B::Data>;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, B::Error>>> {
        let this = &mut *self;
        if let Some(window) = &this.window {
            ready!(window.poll_open(cx));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        let data = |data| WindowedData::new(data, this.window.clone());
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<D> WindowedData<D> {
    fn new(data: D, window: Option<Arc<FrameWindow>>) -> Self {
        window.iter().for_each(|window| window.enter());
        Self { data, window }
    }
}

impl<D: Buf> Buf for WindowedData<D> {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn advance(&mut self, bytes: usize) {
        self.data.advance(bytes);
    }
}

impl<D> Drop for WindowedData<D> {
    fn drop(&mut self) {
        self.window.iter().for_each(|window| window.leave());
    }
}

#[cfg(test)]
mod tests;
