//! The body of a request, and its progress.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::proxy::frames::{WindowedBody, WindowedData};

/// A request body that records its progress, and of which few frames wait for the replica. Costs nothing for an empty one.
pub(super) struct UploadBody<B> {
    body: WindowedBody<B>,
    upload: Option<Arc<UploadProgress>>,
}

/// The progress of an upload.
pub(super) struct UploadProgress {
    began: Instant,
    /// Nanoseconds from `began` to the last part that was taken.
    taken: AtomicU64,
    done: AtomicBool,
    broken: AtomicBool,
}

impl<B: Body> UploadBody<B> {
    pub(super) fn new(body: B) -> Self {
        let upload = (!body.is_end_stream()).then(|| Arc::new(UploadProgress::new()));
        Self { body: WindowedBody::new(body), upload }
    }

    /// Returns the progress of the upload; `None` for an empty body.
    pub(super) fn upload(&self) -> Option<Arc<UploadProgress>> {
        self.upload.clone()
    }

    pub(super) fn into_inner(self) -> B {
        self.body.into_inner()
    }
}

impl UploadProgress {
    fn new() -> Self {
        let (done, broken) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { began: Instant::now(), taken: AtomicU64::new(0), done, broken }
    }

    /// Returns when a part of the body was last taken, or when the upload began if none was.
    pub(super) fn last_part(&self) -> Instant {
        self.began + Duration::from_nanos(self.taken.load(Ordering::Relaxed))
    }

    fn record_part(&self) {
        let nanos = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(0);
        self.taken.store(nanos, Ordering::Relaxed);
    }

    /// Returns whether hyper has taken all of the body.
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Returns whether the client failed to send all of the body.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }
}

impl<B: Body + Unpin> Body for UploadBody<B> {
    type Data = WindowedData<B::Data>;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(upload) = &self.upload {
            upload.record_part();
            match &frame {
                Some(Err(_)) => upload.broken.store(true, Ordering::Release),
                // hyper does not poll again after the last frame.
                Some(Ok(frame)) if frame.is_data() && !self.body.is_end_stream() => {}
                _ => upload.done.store(true, Ordering::Release),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
