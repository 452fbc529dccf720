//! The response of a guest while the guest writes it.
//!
//! A response body is only complete if the guest has finished it *while its Store was alive*: dropping a Store closes
//! the guest's ends of the body, which looks like a proper end to a reader. So when the guest has ended, the rest of
//! the body is read first and the Store is dropped after that. A body without an end by then is an error.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{StatusCode, header};
use http_body::Frame;
use wasmtime_wasi_http::{Error, WasiBody};

use super::instance::{EndedGuest, RunningGuest};
use super::pool::WarmPool;
use crate::capabilities::http::error_code;
use crate::capabilities::http::non_empty::poll_non_empty;
use crate::capabilities::sandbox::Sandbox;
use crate::error::RunError;
use lodge_base::lock::lock;
use lodge_traffic::admission::Upload;
use lodge_traffic::proxy::body::BodyError;

/// The number of times that a guest is polled after the head of its response, before the head is sent. A short response
/// of a 0.3 guest needs four: the data, the end of the stream, the trailers, and the guest's return.
const PRIMING: usize = 8;

/// The response of a guest: its head, and the body that it is writing.
pub struct GuestResponse {
    /// Status and headers, unchanged.
    pub head: http::response::Parts,
    /// The body.
    pub body: GuestBody,
}

/// The body of a response, with the guest that is writing it.
pub struct GuestBody {
    pool: Arc<WarmPool>,
    sandbox: Arc<Sandbox>,
    work: Work,
    inner: WasiBody,
    /// Frames read from `inner` before the connection polled for them.
    early: VecDeque<Frame<Bytes>>,
    ended: bool,
    length: Length,
}

/// The length of a body: as declared by `Content-Length`, and as written so far.
struct Length {
    /// `None` without a `Content-Length`, or if the body is not sent.
    declared: Option<u64>,
    written: u64,
    /// No content follows this head: a response to HEAD, or with the status 204, 205 or 304.
    headless: bool,
}

/// The state of the guest.
enum Work {
    /// It runs, in a future that owns its Store.
    Active(RunningGuest),
    /// It has ended, and its Store is still alive.
    Done(EndedGuest),
    /// Its Store was dropped.
    Gone,
}

impl GuestResponse {
    /// Runs a guest until it has written the head of a response, and a little further: see [`GuestBody::prime`].
    ///
    /// # Errors
    /// When there is no response that can be sent.
    pub(super) async fn begin(
        pool: Arc<WarmPool>,
        running: RunningGuest,
        sandbox: &Arc<Sandbox>,
        is_head: bool,
    ) -> Result<Self, RunError> {
        let mut work = Work::Active(running);
        let (head, inner) = work.head(sandbox).await?.into_parts();
        let (sandbox, early, length) = (Arc::clone(sandbox), VecDeque::new(), Length::of(&head, is_head));
        let mut body = GuestBody { pool, sandbox, work, inner, early, ended: false, length };
        let waker = Arc::clone(&body.sandbox.waker);
        poll_fn(|cx| waker.poll(cx, |cx| Poll::Ready(body.prime(cx)))).await?;
        Ok(Self { head, body })
    }
}

impl GuestResponse {
    /// Returns the response if its head can be sent.
    ///
    /// # Errors
    /// When its status is not a final one.
    pub fn sendable(self) -> Result<Self, RunError> {
        let status = self.head.status.as_u16();
        if (200..=599).contains(&status) {
            return Ok(self);
        }
        Err(RunError::InvalidResponse(format!("status {status} is not valid for a response")))
    }
}

impl Work {
    /// Runs the guest. Ready when it has ended, or a limit has stopped it.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RunError>> {
        let Self::Active(running) = self else { return Poll::Ready(Ok(())) };
        match ready!(Pin::new(running).poll(cx)) {
            Ok(finished) => {
                *self = Self::Done(finished);
                Poll::Ready(Ok(()))
            }
            Err(stop) => {
                *self = Self::Gone;
                Poll::Ready(Err(stop))
            }
        }
    }

    /// Runs the guest until it has written the head of a response.
    ///
    /// # Errors
    /// When it has ended without one, was stopped, or reports an error.
    async fn head(&mut self, sandbox: &Sandbox) -> Result<http::Response<WasiBody>, RunError> {
        let mut poll_head = |cx: &mut Context<'_>| {
            let polled = self.poll(cx);
            let head = lock(&sandbox.head).take();
            match polled {
                // A head that comes too late is dropped. Its body refers to the sandbox and the sandbox to the head,
                // which would leak both.
                Poll::Ready(Err(stop)) => Poll::Ready(Err(stop)),
                polled => match head {
                    Some(response) => Poll::Ready(Ok(Some(response))),
                    None => polled.map_ok(|()| None),
                },
            }
        };
        let response = poll_fn(|cx| sandbox.waker.poll(cx, &mut poll_head)).await?;
        if let Self::Active(running) = self {
            running.set_head_sent();
        }
        match response {
            Some(Ok(response)) => Ok(response),
            Some(Err(code)) => Err(error_code::run_error(&code)),
            None => Err(self.failure().unwrap_or(RunError::NoResponse)),
        }
    }

    /// Returns the instance of a guest that has sent a complete response to the pool.
    fn retire(self, pool: &WarmPool, service: &str) {
        if let Self::Done(finished) = self {
            pool.take_back(finished, service);
        }
    }

    fn failure(&self) -> Option<RunError> {
        if let Self::Done(finished) = self { finished.failure() } else { None }
    }
}

impl GuestBody {
    /// Polls for the next frame. `None` means that the guest has finished the body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RunError>>> {
        let waker = Arc::clone(&self.sandbox.waker);
        waker.poll(cx, |cx| self.poll_next(cx)).map_err(|error| self.sandbox.attribute(error))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RunError>>> {
        loop {
            if let Some(frame) = self.early.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            if let Poll::Ready(frame) = self.poll_inner(cx) {
                return Poll::Ready(frame.transpose());
            }
            if matches!(self.work, Work::Gone) {
                return Poll::Pending;
            }
            match self.work.poll(cx) {
                Poll::Ready(Err(stop)) => return Poll::Ready(Some(Err(stop))),
                Poll::Ready(Ok(())) => {
                    if let Err(error) = self.settle(cx) {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                // The guest may have written something in this poll.
                Poll::Pending => return self.poll_inner(cx).map(Result::transpose),
            }
        }
    }

    /// Returns the error of a response that is not complete when its time is up.
    pub fn late(&self) -> RunError {
        self.sandbox.attribute(RunError::WallTime)
    }

    /// Returns how the upload of the client's body has gone so far.
    pub fn upload(&self) -> Upload {
        let Sandbox { body_broken, body_too_large, .. } = &*self.sandbox;
        Upload { waited: self.sandbox.body_wait(), broken: body_broken.load(Relaxed) || body_too_large.load(Relaxed) }
    }

    /// The remaining bytes, if all frames were read and there are no trailers.
    pub fn exact_size(&self) -> Option<u64> {
        let mut size = 0;
        for frame in &self.early {
            size += frame.data_ref()?.len() as u64;
        }
        self.ended.then_some(size)
    }

    /// The bytes of a body whose frames were all read.
    pub fn size(&self) -> Option<usize> {
        self.ended.then(|| self.early.iter().filter_map(Frame::data_ref).map(Bytes::len).sum())
    }

    /// The frames that were read. A guest that still writes others is dropped.
    pub fn into_frames(self) -> VecDeque<Frame<Bytes>> {
        self.early
    }

    /// Returns what the guest still does after its response is complete, if anything. Its wall time limits it.
    pub fn afterwork(&mut self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let mut work = std::mem::replace(&mut self.work, Work::Gone);
        let (pool, service) = (Arc::clone(&self.pool), Arc::clone(&self.sandbox.service));
        matches!(work, Work::Active(_)).then(|| async move {
            match poll_fn(|cx| work.poll(cx)).await {
                Ok(()) => work.retire(&pool, &service.name),
                Err(stop) => tracing::warn!(service = &*service.name, "stopped after its response: {stop}"),
            }
        })
    }

    /// Runs the guest a little further before the head is sent. An error by then still becomes an error response, a
    /// short response is complete, and a guest that reads its request after it has responded still causes a `100
    /// Continue`.
    fn prime(&mut self, cx: &mut Context<'_>) -> Result<(), RunError> {
        for _ in 0..PRIMING {
            let polled = self.poll_inner(cx)?;
            if let Poll::Ready(Some(frame)) = polled {
                self.early.push_back(frame);
            } else if self.work.poll(cx)?.is_ready() {
                return self.settle(cx);
            } else if polled.is_ready() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads what is left in the body of a guest that has ended, then drops its Store.
    fn settle(&mut self, cx: &mut Context<'_>) -> Result<(), RunError> {
        loop {
            // Pending must mean that the body is empty. What tokio's budget for a task holds back until its next poll
            // would be lost with the Store.
            let next = std::pin::pin!(tokio::task::unconstrained(poll_fn(|cx| self.poll_inner(cx))));
            let Poll::Ready(Some(frame)) = next.poll(cx)? else { break };
            self.early.push_back(frame);
        }
        let work = std::mem::replace(&mut self.work, Work::Gone);
        if self.ended {
            work.retire(&self.pool, &self.sandbox.service.name);
            return Ok(());
        }
        if let Some(failure) = work.failure() {
            return Err(failure);
        }
        drop(work);
        // A 0.3 guest can respond with the body of its request, or of a response that it received, and end. That body
        // is still coming.
        if self.sandbox.holds_bodies() {
            return Ok(());
        }
        Err(RunError::InvalidResponse("the guest ended without finishing the body".into()))
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, RunError>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let polled = ready!(poll_non_empty(Pin::new(&mut self.inner), cx));
        // A guest may take a truncated body for a complete one, and finish its response.
        if self.sandbox.body_too_large.load(Relaxed) {
            return Poll::Ready(Err(BodyError::TooLarge.into()));
        }
        match polled {
            Some(Ok(frame)) => Poll::Ready(self.length.add(&frame).map(|()| Some(frame))),
            // This body is not sent, so its length may be wrong: it is that of a response to GET.
            Some(Err(_)) if self.length.headless => {
                self.ended = true;
                Poll::Ready(Ok(None))
            }
            Some(Err(error)) => Poll::Ready(Err(self.length.attribute(&error))),
            None => {
                self.length.end()?;
                self.ended = true;
                Poll::Ready(Ok(None))
            }
        }
    }
}

impl Length {
    fn of(head: &http::response::Parts, is_head: bool) -> Self {
        let headless = is_head || is_headless(head.status);
        Self { declared: content_length(head).filter(|_| !headless), written: 0, headless }
    }

    fn add(&mut self, frame: &Frame<Bytes>) -> Result<(), RunError> {
        self.written = self.written.saturating_add(frame.data_ref().map_or(0, |data| data.len() as u64));
        match self.declared {
            Some(declared) if self.written > declared => Err(mismatch(declared, "at least ", self.written)),
            _ => Ok(()),
        }
    }

    fn end(&self) -> Result<(), RunError> {
        match self.declared {
            Some(declared) if self.written < declared => Err(mismatch(declared, "", self.written)),
            _ => Ok(()),
        }
    }

    /// Converts an error of the body. wasmtime counts the bytes as well, and reports a wrong length in one of two ways.
    fn attribute(&self, error: &Error) -> RunError {
        match (error, self.declared) {
            (Error::HttpResponseBodySize(Some(size)), Some(declared)) if *size > declared => {
                mismatch(declared, "at least ", *size)
            }
            (Error::HttpResponseBodySize(_) | Error::HttpProtocolError, Some(declared)) if self.written < declared => {
                mismatch(declared, "", self.written)
            }
            _ => RunError::InvalidResponse(error.to_string()),
        }
    }
}

fn mismatch(declared: u64, about: &str, written: u64) -> RunError {
    RunError::InvalidResponse(format!("content-length is {declared} bytes, but the body has {about}{written}"))
}

/// The `Content-Length` of a head, if it is valid.
pub fn content_length(head: &http::response::Parts) -> Option<u64> {
    head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}

/// Whether a response with this status has no content, whatever its fields say (RFC 9110, 15.3.5, 15.3.6 and 15.4.5).
pub fn is_headless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}
