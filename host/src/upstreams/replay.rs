//! A request body that can be sent a second time, as long as what was read of it is still held.
//!
//! HTTP/2 servers refuse requests that they have not looked at (`REFUSED_STREAM`, or a `GOAWAY` that names an earlier
//! stream). Such a request may be sent again whatever its method (RFC 9113, 8.7), and by then hyper has read the first frame
//! of its body. So what is read is held, up to [`MAX_HELD`] bytes of a request and [`ReplayMemory::MAX`] bytes of all of them, until
//! there is a response. Over either bound the body passes through as any other, and its request is sent once.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use wasmtime_wasi_http::Error;

use crate::base::lock::lock;
use crate::upstreams::transport::AnyBody;

/// Bytes of one request that are held.
pub const MAX_HELD: usize = 64 << 10;

/// Bytes that all requests together hold.
#[derive(Debug, Default)]
pub struct ReplayMemory(AtomicUsize);

/// The body of a request, and what was read of it. Dropping it lets go of what is held; the body goes on.
pub struct Replay(Arc<Mutex<ReplayState>>);

struct ReplayState {
    body: AnyBody,
    /// The number of the copy that may read. Earlier ones wait for ever: their requests were refused.
    reader: usize,
    /// What was read, if that is all of it.
    held: Option<HeldBytes>,
    /// Bytes of what is held that the reader has passed on.
    passed: usize,
    /// There will be no further copy.
    last: bool,
    ended: bool,
}

/// Bytes, and the part of the room that they take.
struct HeldBytes {
    bytes: Vec<u8>,
    memory: Arc<ReplayMemory>,
}

/// The body, for one send.
struct ReplayCopy {
    state: Arc<Mutex<ReplayState>>,
    number: usize,
}

impl ReplayMemory {
    /// The most, in bytes.
    pub const MAX: usize = 8 << 20;

    fn take(&self, bytes: usize) -> bool {
        let more = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= Self::MAX);
        self.0.fetch_update(Relaxed, Relaxed, more).is_ok()
    }
}

impl HeldBytes {
    /// Holds these bytes as well, unless there is no room for them.
    fn add(&mut self, data: &[u8]) -> bool {
        let fits = self.bytes.len().saturating_add(data.len()) <= MAX_HELD && self.memory.take(data.len());
        if fits {
            // A copy: a part of a connection's buffer would hold all of that.
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

impl Replay {
    /// Of a body of which nothing was read; with its first copy.
    pub fn new(body: AnyBody, memory: &Arc<ReplayMemory>) -> (Self, AnyBody) {
        let held = Some(HeldBytes { bytes: Vec::new(), memory: Arc::clone(memory) });
        let state = Arc::new(Mutex::new(ReplayState { body, reader: 0, held, passed: 0, last: false, ended: false }));
        let first = ReplayCopy { state: Arc::clone(&state), number: 0 }.boxed_unsync();
        (Self(state), first)
    }

    /// The body from its beginning, for the next send; `None` when too much of it was read. The copy before it reads nothing
    /// more: its request must have been refused.
    pub fn next(&self) -> Option<AnyBody> {
        let mut state = lock(&self.0);
        state.held.as_ref()?;
        state.reader += 1;
        state.passed = 0;
        Some(ReplayCopy { state: Arc::clone(&self.0), number: state.reader }.boxed_unsync())
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.last = true;
        state.release();
    }
}

impl ReplayState {
    /// The next frame for the reader.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
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

    /// Holds a frame that was read, or lets go of all when that is not possible.
    fn hold(&mut self, frame: Option<&Result<Frame<Bytes>, Error>>) {
        let data = match frame {
            None => return,
            Some(Ok(frame)) => frame.data_ref(),
            Some(Err(_)) => None,
        };
        // A request that ends with trailers is rare, and sent once.
        let held = self.held.as_mut().zip(data).is_some_and(|(held, data)| held.add(data));
        match data {
            Some(data) if held => self.passed += data.len(),
            _ => self.held = None,
        }
    }

    /// What is held and not passed on yet.
    fn rest(&self) -> Option<&[u8]> {
        self.held.as_ref()?.bytes.get(self.passed..).filter(|rest| !rest.is_empty())
    }

    /// Lets go of what is held once nobody needs it.
    fn release(&mut self) {
        if self.last && self.rest().is_none() {
            self.held = None;
        }
    }
}

impl Body for ReplayCopy {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
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
    async fn from_the_beginning() {
        let memory = Arc::new(ReplayMemory::default());
        let (replay, mut once) = Replay::new(body("hello"), &memory);
        assert_eq!(once.size_hint().exact(), Some(5));
        assert_eq!(first(&mut once).await, "hello");
        assert_eq!(memory.0.load(Relaxed), 5);
        let twice = replay.next().unwrap();
        assert_eq!((twice.size_hint().exact(), twice.is_end_stream()), (Some(5), false));
        // The copy of the request that was refused takes nothing away.
        let stopped = tokio::time::timeout(std::time::Duration::from_millis(10), once.frame()).await;
        assert!(stopped.is_err() && !once.is_end_stream());
        // There is a response: what is held stays until the last copy has passed it on.
        drop(replay);
        assert_eq!(all(twice).await, "hello");
        assert_eq!(memory.0.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn no_more_than_so_much() {
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
