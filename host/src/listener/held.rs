//! A response body that reports to its connection how many of its bytes are written.

use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::activity::ActiveRequest;
use super::transfer::Chunk;
use lodge_base::lock::lock;
use lodge_traffic::proxy::outbound::{MAX_CHUNK, Outbound};

/// A response body that marks its connection as busy, and whose bytes are counted until they are written.
pub struct TrackedBody<B: Outbound> {
    body: B,
    /// The rest of the last frame, for the next poll.
    rest: Bytes,
    active: ActiveRequest,
}

impl<B: Outbound> TrackedBody<B> {
    pub(super) fn new(body: B, active: ActiveRequest) -> Self {
        let mut body = Self { body, rest: Bytes::new(), active };
        body.hold_room();
        body
    }

    /// Moves the room of the response to the transfer, which gives it back when the last byte is written.
    fn hold_room(&mut self) {
        if let Some(room) = self.body.room() {
            // A body returns its room once.
            let _ = self.active.transfer().room.set(room);
        }
    }

    /// Returns the bytes of a frame. Of a large frame on HTTP/2, returns the first bytes and keeps the rest.
    fn chunk(&mut self, mut bytes: Bytes) -> Chunk {
        if self.active.is_stream() && bytes.len() > MAX_CHUNK {
            self.rest = bytes.split_off(MAX_CHUNK);
        }
        Chunk::new(bytes, self.active.existing_transfer())
    }
}

impl<B: Outbound> Drop for TrackedBody<B> {
    /// h2 may hold the last bytes of a stream for as long as the client keeps its window closed.
    fn drop(&mut self) {
        let lost = self.active.existing_transfer().is_some_and(|transfer| transfer.has_unwritten());
        if (lost || !self.is_end_stream()) && self.active.is_stalled() {
            self.body.stalled();
        }
        let Some(transfer) = self.active.existing_transfer() else { return };
        let unsent = transfer.unsent.load(Relaxed);
        if unsent > 0 {
            *lock(&transfer.hold) = self.body.hold(unsent, transfer.room.get().is_some());
        }
    }
}

impl<B: Outbound> Body for TrackedBody<B> {
    type Data = Chunk;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Chunk>, B::Error>>> {
        let this = &mut *self;
        if let Some(transfer) = this.active.existing_transfer() {
            ready!(transfer.frames.poll_open(cx));
        }
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

impl ActiveRequest {
    /// Marks the connection as busy until the body of `response` is dropped.
    pub fn track<B: Outbound>(self, response: http::Response<B>) -> http::Response<TrackedBody<B>> {
        response.map(|body| TrackedBody::new(body, self))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::Waker;

    use super::*;
    use crate::listener::activity::Activity;
    use lodge_base::budget::Budget;
    use lodge_base::config;
    use lodge_traffic::proxy::frames::WAITING;

    /// An endless body of frames with one byte.
    struct Tiny;

    impl Body for Tiny {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    impl Outbound for Tiny {}

    /// A client that reads nothing has few frames in memory, however small they are.
    #[test]
    fn few_frames_wait_for_the_client() {
        let bounds = config::resolve(&[]).unwrap().config.listener;
        let activity = std::sync::Arc::new(Activity::new(&bounds, &Budget::new(1 << 20), &std::sync::Arc::default()));
        let mut active = activity.begin(false);
        active.transfer();
        let mut body = TrackedBody::new(Tiny, active);
        let mut poll = || Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
        let mut held = Vec::new();
        while let Poll::Ready(Some(Ok(frame))) = poll() {
            held.push(frame.into_data());
            assert!(held.len() <= WAITING, "any number of frames");
        }
        held.pop();
        assert!(poll().is_ready() && held.len() == WAITING - 1);
    }
}
