//! A response body that its connection watches until the last byte is written.

use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::activity::Working;
use super::transfer::Chunk;
use lodge_base::lock::lock;
use lodge_traffic::proxy::outbound::{MAX_CHUNK, Outbound};

/// A response body that keeps its connection busy, and whose bytes are watched.
pub struct Held<B: Outbound> {
    body: B,
    /// Of the last frame, for the next poll.
    rest: Bytes,
    working: Working,
}

impl<B: Outbound> Held<B> {
    pub(super) fn new(body: B, working: Working) -> Self {
        let mut held = Self { body, rest: Bytes::new(), working };
        held.hold_room();
        held
    }

    /// The room of a response goes where its bytes report to.
    fn hold_room(&mut self) {
        if let Some(room) = self.body.room() {
            // A body gives it once.
            let _ = self.working.transfer().room.set(room);
        }
    }

    /// A frame's bytes, or the first of them.
    fn chunk(&mut self, mut bytes: Bytes) -> Chunk {
        if self.working.is_stream() && bytes.len() > MAX_CHUNK {
            self.rest = bytes.split_off(MAX_CHUNK);
        }
        Chunk::new(bytes, self.working.watched())
    }
}

impl<B: Outbound> Drop for Held<B> {
    /// The last bytes of a stream may be with h2 for as long as its window is closed.
    fn drop(&mut self) {
        let lost = self.working.watched().is_some_and(|transfer| transfer.loses());
        if (lost || !self.is_end_stream()) && self.working.is_stalled() {
            self.body.stalled();
        }
        let Some(transfer) = self.working.watched() else { return };
        let unsent = transfer.unsent.load(Relaxed);
        if unsent > 0 && transfer.room.get().is_none() {
            *lock(&transfer.hold) = self.body.hold(unsent);
        }
    }
}

impl<B: Outbound> Body for Held<B> {
    type Data = Chunk;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Chunk>, B::Error>>> {
        let this = &mut *self;
        if !this.rest.is_empty() {
            let rest = std::mem::take(&mut this.rest);
            return Poll::Ready(Some(Ok(Frame::data(this.chunk(rest)))));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        this.hold_room();
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|bytes| this.chunk(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        hint.exact().map_or(hint, |exact| SizeHint::with_exact(exact.saturating_add(rest)))
    }
}

impl Working {
    /// Keeps the connection busy until the body of `response` is done with.
    pub fn until<B: Outbound>(self, response: http::Response<B>) -> http::Response<Held<B>> {
        response.map(|body| Held::new(body, self))
    }
}
