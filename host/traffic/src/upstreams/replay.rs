//! A request body that can be sent a second time, as long as everything read from it is still held.
//!
//! An HTTP/2 server may refuse a request unprocessed (`REFUSED_STREAM`, or a `GOAWAY` that names an earlier stream).
//! Such a request may be sent again whatever its method (RFC 9113, 8.7), but hyper has by then read the first frame of
//! its body. So everything read is held until there is a response, at most [`MAX_HELD`] bytes per request and
//! [`ReplayMemory::MAX`] bytes for all requests. Beyond either bound the body is passed through without a copy, and the
//! request cannot be sent again.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;

use lodge_base::lock::lock;

/// The most bytes of one request that are held.
pub const MAX_HELD: usize = 64 << 10;

/// The bytes that are held for all requests.
#[derive(Debug, Default)]
pub struct ReplayMemory(AtomicUsize);

/// A request body and the bytes already read from it. Dropping it frees those bytes; the current copy stays readable.
pub struct Replay<E>(Arc<Mutex<ReplayState<E>>>);

struct ReplayState<E> {
    body: UnsyncBoxBody<Bytes, E>,
    /// The number of the copy that may read. Earlier copies stay pending for ever, since their requests were refused.
    reader: usize,
    /// Everything read so far; `None` once it is incomplete.
    held: Option<HeldBytes>,
    /// The number of held bytes that the current copy has returned.
    passed: usize,
    /// Set when there will be no further copy.
    last: bool,
    ended: bool,
}

/// Held bytes, counted in `memory`.
struct HeldBytes {
    bytes: Vec<u8>,
    memory: Arc<ReplayMemory>,
}

/// One readable copy of the body.
struct ReplayCopy<E> {
    state: Arc<Mutex<ReplayState<E>>>,
    number: usize,
}

impl ReplayMemory {
    /// The maximum, in bytes.
    pub const MAX: usize = 8 << 20;

    fn take(&self, bytes: usize) -> bool {
        let more = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= Self::MAX);
        self.0.fetch_update(Relaxed, Relaxed, more).is_ok()
    }
}

impl HeldBytes {
    /// Adds bytes. Returns `false` if one of the bounds would be exceeded.
    fn add(&mut self, data: &[u8]) -> bool {
        let fits = self.bytes.len().saturating_add(data.len()) <= MAX_HELD && self.memory.take(data.len());
        if fits {
            // Copied, since a slice of a connection's buffer would keep the whole buffer alive.
            self.bytes.extend_from_slice(data);
        }
        fits
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.memory.0.fetch_sub(self.bytes.len(), Relaxed);
    }
}

impl<E: Send + 'static> Replay<E> {
    /// Wraps an unread body, and returns its first copy with it.
    pub fn new(body: UnsyncBoxBody<Bytes, E>, memory: &Arc<ReplayMemory>) -> (Self, UnsyncBoxBody<Bytes, E>) {
        let held = Some(HeldBytes { bytes: Vec::new(), memory: Arc::clone(memory) });
        let state = Arc::new(Mutex::new(ReplayState { body, reader: 0, held, passed: 0, last: false, ended: false }));
        let first = ReplayCopy { state: Arc::clone(&state), number: 0 }.boxed_unsync();
        (Self(state), first)
    }

    /// Returns the body from its beginning for the next attempt; `None` if not everything read is held. The previous
    /// copy must belong to a refused request: reads from it never complete.
    pub fn next(&self) -> Option<UnsyncBoxBody<Bytes, E>> {
        let mut state = lock(&self.0);
        state.held.as_ref()?;
        state.reader += 1;
        state.passed = 0;
        Some(ReplayCopy { state: Arc::clone(&self.0), number: state.reader }.boxed_unsync())
    }
}

impl<E> Drop for Replay<E> {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.last = true;
        state.release();
    }
}

impl<E> ReplayState<E> {
    /// Returns the next frame for the current copy.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        if let Some(rest) = self.rest() {
            let rest = Bytes::copy_from_slice(rest);
            self.passed += rest.len();
            self.release();
            return Poll::Ready(Some(Ok(Frame::data(rest))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.ended = frame.is_none();
        self.hold(frame.as_ref());
        Poll::Ready(frame)
    }

    /// Holds a frame, or drops everything held if that is not possible.
    fn hold(&mut self, frame: Option<&Result<Frame<Bytes>, E>>) {
        let data = match frame {
            None => return,
            Some(Ok(frame)) => frame.data_ref(),
            Some(Err(_)) => None,
        };
        // Trailers are not held: requests with trailers are rare, so they are sent only once.
        let held = self.held.as_mut().zip(data).is_some_and(|(held, data)| held.add(data));
        match data {
            Some(data) if held => self.passed += data.len(),
            _ => self.held = None,
        }
    }

    /// Returns the held bytes that the current copy has not returned yet.
    fn rest(&self) -> Option<&[u8]> {
        self.held.as_ref()?.bytes.get(self.passed..).filter(|rest| !rest.is_empty())
    }

    /// Frees the held bytes once no copy needs them.
    fn release(&mut self) {
        if self.last && self.rest().is_none() {
            self.held = None;
        }
    }
}

impl<E> Body for ReplayCopy<E> {
    type Data = Bytes;
    type Error = E;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        let mut state = lock(&self.state);
        if state.reader == self.number { state.poll(cx) } else { Poll::Pending }
    }

    fn is_end_stream(&self) -> bool {
        let state = lock(&self.state);
        state.reader == self.number && state.rest().is_none() && (state.ended || state.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let state = lock(&self.state);
        let rest = state.rest().map_or(0, <[u8]>::len) as u64;
        let ended = if state.ended { SizeHint::with_exact(0) } else { state.body.size_hint() };
        let mut hint = SizeHint::new();
        hint.set_lower(ended.lower().saturating_add(rest));
        if let Some(upper) = ended.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;
    use crate::upstreams::transport::AnyBody;

    fn body(text: &str) -> AnyBody {
        Full::new(Bytes::copy_from_slice(text.as_bytes())).map_err(|never| match never {}).boxed_unsync()
    }

    async fn all(body: AnyBody) -> Bytes {
        body.collect().await.unwrap().to_bytes()
    }

    async fn first(body: &mut AnyBody) -> Bytes {
        body.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    #[tokio::test]
    async fn a_replay_starts_at_the_beginning() {
        let memory = Arc::new(ReplayMemory::default());
        let (replay, mut once) = Replay::new(body("hello"), &memory);
        assert_eq!(once.size_hint().exact(), Some(5));
        assert_eq!(first(&mut once).await, "hello");
        assert_eq!(memory.0.load(Relaxed), 5);
        let twice = replay.next().unwrap();
        assert_eq!((twice.size_hint().exact(), twice.is_end_stream()), (Some(5), false));
        // The copy of the refused request consumes nothing.
        let stopped = tokio::time::timeout(std::time::Duration::from_millis(10), once.frame()).await;
        assert!(stopped.is_err() && !once.is_end_stream());
        // After a response, held bytes remain until the last copy has returned them.
        drop(replay);
        assert_eq!(all(twice).await, "hello");
        assert_eq!(memory.0.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn the_replay_buffer_is_bounded() {
        let memory = Arc::new(ReplayMemory::default());
        let long = "x".repeat(MAX_HELD + 1);
        let (replay, once) = Replay::new(body(&long), &memory);
        assert_eq!(all(once).await, long);
        assert!(replay.next().is_none(), "it was not held");
        assert_eq!(memory.0.load(Relaxed), 0);
        let just = "x".repeat(MAX_HELD);
        let mut held = Vec::new();
        for _ in 0..ReplayMemory::MAX / MAX_HELD {
            let (replay, once) = Replay::new(body(&just), &memory);
            all(once).await;
            held.push(replay);
        }
        assert_eq!(memory.0.load(Relaxed), ReplayMemory::MAX);
        let (over, once) = Replay::new(body("x"), &memory);
        assert_eq!(all(once).await, "x");
        assert!(over.next().is_none(), "there was no memory");
        drop(held);
        assert_eq!(memory.0.load(Relaxed), 0);
    }
}
