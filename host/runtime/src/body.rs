//! The request body on its way to the guest, with a limit of its size.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::Error;

use crate::capabilities::http::non_empty::poll_non_empty;
use crate::capabilities::sandbox::Sandbox;
use lodge_traffic::proxy::headers::filter_trailers;

/// The body of a request from the listener, or from another guest.
pub trait RequestBody: Body<Data = Bytes, Error: Into<Error>> + Send + Unpin + 'static {}

impl<B: Body<Data = Bytes, Error: Into<Error>> + Send + Unpin + 'static> RequestBody for B {}

/// A body that ends in an error when it is larger than its limit. It buffers nothing, so the client sends as fast as
/// the guest reads.
pub struct LimitedBody<B> {
    inner: B,
    left: usize,
    sandbox: Arc<Sandbox>,
}

impl<B> LimitedBody<B> {
    /// Limits `inner` to `limit` bytes. Records in the sandbox when the body is larger, and when it is dropped.
    pub fn new(inner: B, limit: usize, sandbox: Arc<Sandbox>) -> Self {
        Self { inner, left: limit, sandbox }
    }
}

impl<B: RequestBody> Body for LimitedBody<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = poll_non_empty(Pin::new(&mut self.inner), cx);
        self.sandbox.set_body_waiting(polled.is_pending());
        let frame = match ready!(polled) {
            Some(Ok(frame)) => filter_trailers(frame),
            Some(Err(error)) => {
                self.sandbox.body_broken.store(true, Relaxed);
                return Poll::Ready(Some(Err(error.into())));
            }
            None => return Poll::Ready(None),
        };
        let size = frame.data_ref().map_or(0, Buf::remaining);
        match self.left.checked_sub(size) {
            Some(left) => {
                self.left = left;
                self.sandbox.service.metrics.received.fetch_add(size as u64, Relaxed);
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                self.sandbox.body_too_large.store(true, Relaxed);
                Poll::Ready(Some(Err(Error::HttpRequestBodySize(None))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> Drop for LimitedBody<B> {
    fn drop(&mut self) {
        self.sandbox.body_held.store(false, Relaxed);
    }
}
