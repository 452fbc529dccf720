//! A response body and a record of a request, as users of the cache provide them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::Frame;

use crate::cache::recorder::Recorder;
use crate::cache::{CacheBody, FetchError, UnexpectedNotModified, WaitObserver};

/// A body of one frame. Its recorder sees the frame when it is read, or nothing if the body is dropped before.
pub(super) struct Body {
    bytes: Option<Bytes>,
    recorder: Option<Recorder>,
}

/// The failure of an origin server.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) status: StatusCode,
    pub(super) may_have_taken_effect: bool,
}

/// The failure of an origin server that cannot be reached.
pub(super) const GONE: Failed = Failed { status: StatusCode::SERVICE_UNAVAILABLE, may_have_taken_effect: false };

/// A policy refused the request, before the origin server had it.
pub(super) const REFUSED: Failed = GONE;

/// The failure of an origin server that worked on the request.
pub(super) const FAILED: Failed = Failed { status: StatusCode::BAD_GATEWAY, may_have_taken_effect: true };

impl From<UnexpectedNotModified> for Failed {
    fn from(_: UnexpectedNotModified) -> Self {
        FAILED
    }
}

impl FetchError for Failed {
    fn status(&self) -> StatusCode {
        self.status
    }

    fn may_have_taken_effect(&self) -> bool {
        self.may_have_taken_effect
    }
}

/// A record that ignores everything.
pub(super) struct NoRecord;

impl Body {
    /// A body of these bytes; `None` for a response without a body.
    pub(super) fn text(bytes: Option<Bytes>) -> Self {
        Self { bytes, recorder: None }
    }
}

impl CacheBody for Body {
    fn stored(bytes: Option<Bytes>) -> Self {
        Self::text(bytes)
    }

    fn recorded(mut self, mut recorder: Recorder) -> Self {
        if self.bytes.is_some() {
            self.recorder = Some(recorder);
        } else {
            recorder.end();
        }
        self
    }

    async fn drain(mut self) {
        drop(self.take());
    }
}

impl Body {
    fn take(&mut self) -> Option<Frame<Bytes>> {
        let frame = Frame::data(self.bytes.take()?);
        if let Some(mut recorder) = self.recorder.take() {
            recorder.frame(&frame);
            recorder.end();
        }
        Some(frame)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.take().map(Ok))
    }
}

impl WaitObserver for NoRecord {
    fn begin_waiting(&mut self) {}

    fn waited(&mut self, _: Duration) {}
}
