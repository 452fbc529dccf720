//! A guest's answer while it is being made.
//!
//! An answer is only whole if the guest said so *while its Store was alive*: dropping a Store closes the guest's
//! ends of the body, and to a reader that looks the same as a proper end. So when the guest is done, what it has
//! written is taken out first and its Store is dropped after that; a body without an end by then never gets one.

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

use super::instance::{Finished, Running};
use super::pool::WarmPool;
use crate::capabilities::http::error_code;
use crate::capabilities::http::non_empty::poll_non_empty;
use crate::capabilities::sandbox::Sandbox;
use lodge_base::lock::lock;
use lodge_traffic::admission::Upload;
use lodge_traffic::error::RequestError;

/// Steps that a guest is driven past the head of its answer before that is sent. A 0.3 guest with a short answer
/// needs four: the chunk, the end of the stream, the trailers, and its own return.
const PRIMING: usize = 8;

/// What a guest answered: the head, and the body as it is being made.
pub struct Answer {
    /// Status and headers, as the guest made them.
    pub head: http::response::Parts,
    /// The rest.
    pub body: AnswerBody,
}

/// The body of an answer, and the guest that is still making it.
pub struct AnswerBody {
    pool: Arc<WarmPool>,
    sandbox: Arc<Sandbox>,
    work: Work,
    inner: WasiBody,
    /// Frames taken from `inner` before the connection polled for them.
    early: VecDeque<Frame<Bytes>>,
    ended: bool,
    length: Length,
}

/// The length of a body: what `Content-Length` says, and the bytes that the guest has written.
struct Length {
    /// None where the head does not say, or describes a body that is not sent.
    promised: Option<u64>,
    made: u64,
    /// No content is sent after this head: the answer to HEAD, or one with the status 204, 205 or 304.
    headless: bool,
}

/// How far the guest is.
enum Work {
    /// It is at work, in a future that owns its Store.
    Running(Running),
    /// It is done, and its Store is still alive.
    Done(Finished),
    /// Its Store is gone.
    Gone,
}

impl Answer {
    /// Drives a guest until it has answered, and a little further: see [`AnswerBody::prime`].
    ///
    /// # Errors
    /// When there is no answer that could be sent.
    pub(super) async fn begin(
        pool: Arc<WarmPool>,
        running: Running,
        sandbox: &Arc<Sandbox>,
        is_head: bool,
    ) -> Result<Self, RequestError> {
        let mut work = Work::Running(running);
        let (head, inner) = work.head(sandbox).await?.into_parts();
        let (sandbox, early, length) = (Arc::clone(sandbox), VecDeque::new(), Length::of(&head, is_head));
        let mut body = AnswerBody { pool, sandbox, work, inner, early, ended: false, length };
        poll_fn(|cx| Poll::Ready(body.prime(cx))).await?;
        Ok(Self { head, body })
    }
}

impl Answer {
    /// The same, if its head can go on the wire.
    ///
    /// # Errors
    /// When its status is none that ends a request.
    pub fn sendable(self) -> Result<Self, RequestError> {
        let status = self.head.status.as_u16();
        if (200..=599).contains(&status) {
            return Ok(self);
        }
        Err(RequestError::BadAnswer(format!("status {status} is not one a service may answer with")))
    }
}

impl Work {
    /// Drives the guest. Ready when it is done, or when a limit has ended it.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RequestError>> {
        let Self::Running(running) = self else { return Poll::Ready(Ok(())) };
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

    /// Drives the guest until it has answered.
    ///
    /// # Errors
    /// When it is done, stopped, or reports an error instead.
    async fn head(&mut self, sandbox: &Sandbox) -> Result<http::Response<WasiBody>, RequestError> {
        let answered = poll_fn(|cx| {
            let polled = self.poll(cx);
            let head = lock(&sandbox.head).take();
            match polled {
                // A head that comes too late is let go: its body would hold the sandbox, and the sandbox the head.
                Poll::Ready(Err(stop)) => Poll::Ready(Err(stop)),
                polled => match head {
                    Some(answered) => Poll::Ready(Ok(Some(answered))),
                    None => polled.map_ok(|()| None),
                },
            }
        });
        let answered = answered.await?;
        if let Self::Running(running) = self {
            running.answered();
        }
        match answered {
            Some(Ok(response)) => Ok(response),
            Some(Err(code)) => Err(error_code::request_error(&code)),
            None => Err(self.failure().unwrap_or(RequestError::NoAnswer)),
        }
    }

    /// Ends the work of a guest that has sent a complete response: its instance goes back to the pool.
    fn retire(self, pool: &WarmPool, service: &str) {
        if let Self::Done(finished) = self {
            pool.take_back(finished, service);
        }
    }

    fn failure(&self) -> Option<RequestError> {
        if let Self::Done(finished) = self { finished.failure() } else { None }
    }
}

impl AnswerBody {
    /// The next frame; `None` only for a body that the guest has ended properly.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestError>>> {
        self.poll_next(cx).map_err(|error| self.sandbox.attribute(error))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestError>>> {
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
                // It may have written something in this very turn.
                Poll::Pending => return self.poll_inner(cx).map(Result::transpose),
            }
        }
    }

    /// What it means that the body is not complete when its time is up.
    pub fn late(&self) -> RequestError {
        self.sandbox.attribute(RequestError::WallTime)
    }

    /// What the guest has had of its client's body so far.
    pub fn upload(&self) -> Upload {
        let Sandbox { body_broken, body_too_large, .. } = &*self.sandbox;
        Upload { waited: self.sandbox.body_wait(), broken: body_broken.load(Relaxed) || body_too_large.load(Relaxed) }
    }

    /// Bytes still to come, when that is known: every frame is here, and none of them is a trailer.
    pub fn exact_size(&self) -> Option<u64> {
        let mut size = 0;
        for frame in &self.early {
            size += frame.data_ref()?.len() as u64;
        }
        self.ended.then_some(size)
    }

    /// Bytes of a body whose frames are all here.
    pub fn size(&self) -> Option<usize> {
        self.ended.then(|| self.early.iter().filter_map(Frame::data_ref).map(Bytes::len).sum())
    }

    /// The frames that are here. Whatever still makes others is dropped.
    pub fn into_frames(self) -> VecDeque<Frame<Bytes>> {
        self.early
    }

    /// What the guest still does after its answer is complete, if anything. Bounded by its wall time.
    pub fn afterwork(&mut self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let mut work = std::mem::replace(&mut self.work, Work::Gone);
        let (pool, service) = (Arc::clone(&self.pool), Arc::clone(&self.sandbox.service));
        matches!(work, Work::Running(_)).then(|| async move {
            match poll_fn(|cx| work.poll(cx)).await {
                Ok(()) => work.retire(&pool, &service.name),
                Err(stop) => tracing::warn!(service = &*service.name, "stopped after its answer: {stop}"),
            }
        })
    }

    /// Goes a little further before the head leaves: what fails here is still a failed request, a short answer
    /// becomes a whole one, and a guest that reads its request after it has answered still gets its `100 Continue`.
    fn prime(&mut self, cx: &mut Context<'_>) -> Result<(), RequestError> {
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

    /// Takes what a guest that is done has left in its body, then lets its Store go.
    fn settle(&mut self, cx: &mut Context<'_>) -> Result<(), RequestError> {
        loop {
            // Pending has to mean that there is nothing: what tokio's budget for a task keeps back until its next turn would
            // be lost with the Store.
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
        // A 0.3 guest may answer with the body of its request, or of an answer that it got, and be gone: that body is still
        // coming.
        if self.sandbox.holds_bodies() {
            return Ok(());
        }
        Err(RequestError::BadAnswer("its body was left without an end".into()))
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, RequestError>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let polled = ready!(poll_non_empty(Pin::new(&mut self.inner), cx));
        // A guest may take a body that was cut off for a whole one, and call its answer complete.
        if self.sandbox.body_too_large.load(Relaxed) {
            return Poll::Ready(Err(RequestError::BodyTooLarge));
        }
        match polled {
            Some(Ok(frame)) => Poll::Ready(self.length.add(&frame).map(|()| Some(frame))),
            // Nothing of this body is sent, so nothing is wrong with it: its length is the one that GET would have.
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
        Self { promised: promised(head).filter(|_| !headless), made: 0, headless }
    }

    fn add(&mut self, frame: &Frame<Bytes>) -> Result<(), RequestError> {
        self.made = self.made.saturating_add(frame.data_ref().map_or(0, |data| data.len() as u64));
        match self.promised {
            Some(promised) if self.made > promised => Err(mismatch(promised, "at least ", self.made)),
            _ => Ok(()),
        }
    }

    fn end(&self) -> Result<(), RequestError> {
        match self.promised {
            Some(promised) if self.made < promised => Err(mismatch(promised, "", self.made)),
            _ => Ok(()),
        }
    }

    /// What is wrong with the body. wasmtime counts as well, and reports a length that is wrong in one of two ways.
    fn attribute(&self, error: &Error) -> RequestError {
        match (error, self.promised) {
            (Error::HttpResponseBodySize(Some(size)), Some(promised)) if *size > promised => {
                mismatch(promised, "at least ", *size)
            }
            (Error::HttpResponseBodySize(_) | Error::HttpProtocolError, Some(promised)) if self.made < promised => {
                mismatch(promised, "", self.made)
            }
            _ => RequestError::BadAnswer(error.to_string()),
        }
    }
}

fn mismatch(promised: u64, about: &str, made: u64) -> RequestError {
    RequestError::BadAnswer(format!("content-length says {promised} bytes, and the body has {about}{made}"))
}

/// Bytes of the body, as the head says.
pub fn promised(head: &http::response::Parts) -> Option<u64> {
    head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}

/// Whether a response with this status has no content, whatever its fields say (RFC 9110, 15.3.5, 15.3.6 and 15.4.5).
pub fn is_headless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}
