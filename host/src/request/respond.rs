//! The answer on its way to the client: a body that owns the [`Permit`] and the running guest until the last byte.
//!
//! Ends in one of three ways: complete; aborted, so that the client can tell (h1: closed without the last chunk, h2:
//! RST_STREAM); or dropped by a client that went away, which cancels the guest.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use tokio::task::AbortHandle;

use super::answer::{Answer, AnswerBody};
use super::forward::{Forwarded, Relay};
use super::headers;
use super::record::Record;
use super::upgrade;
use crate::admission::Permit;
use crate::capabilities::sandbox::lock;
use crate::error::RequestError;
use crate::responses::recorder::Recorder;

/// Among the extensions of an answer after which nothing that comes on its connection can be believed.
#[derive(Clone, Copy, Debug)]
pub struct Last;

/// What hyper sends, and what is known of the request that it answers.
pub struct Body {
    source: Source,
    record: Option<Record>,
    /// Writes it down for others.
    recorder: Option<Recorder>,
}

enum Source {
    /// The host's own words.
    Text(Option<Bytes>),
    /// An answer that is all here: the usual case, and the cheap one.
    Whole { body: Live, _permit: Option<Permit> },
    /// An answer that is still being made.
    Streamed(Streamed),
}

/// The body of an answer, with whoever makes it.
enum Live {
    Guest(AnswerBody),
    Replica(Box<Relay>),
}

/// hyper does not ask for frames while the client does not take them, so a deadline that is only checked when it
/// asks would never come for a client that stalls. A watchdog shares the body and takes it away in time.
struct Streamed {
    shared: Arc<Mutex<Watched>>,
    watchdog: AbortHandle,
    /// Bytes that the head promised and that are still to come.
    promised: Option<u64>,
}

/// An answer that is being made, until it is taken away.
struct Watched {
    live: Option<(Live, Permit)>,
    /// The connection, while it waits for more: a replica that is dropped does not always wake it.
    waiting: Option<Waker>,
}

/// A problem that ended a transfer after its head was sent.
#[derive(Debug, thiserror::Error)]
#[error("transfer aborted: {0}")]
pub struct Aborted(RequestError);

/// The answer of a guest as a response that holds its permit, which learns from it.
///
/// # Errors
/// When there is none, or its head cannot go on the wire.
pub fn holding(
    mut permit: Permit,
    answer: Result<Answer, RequestError>,
    method: &Method,
    deadline: Instant,
) -> Result<Response<Body>, RequestError> {
    let answer = answer.and_then(Answer::sendable).inspect_err(|error| permit.failed(error, Instant::now))?;
    let Answer { mut head, mut body } = answer;
    headers::strip_hop_by_hop(&mut head.headers);
    permit.answered(head.status, &mut head.headers, body.waited(), Instant::now);
    let source = if *method == Method::HEAD || bodiless(head.status) {
        tokio::spawn(discard(body, permit));
        Source::Text(None)
    } else if body.is_whole() {
        let permit = match body.afterwork() {
            Some(afterwork) => {
                tokio::spawn(holding_until(afterwork, permit));
                None
            }
            None => Some(permit),
        };
        Source::Whole { body: Live::Guest(body), _permit: permit }
    } else {
        Source::Streamed(Streamed::new(Live::Guest(body), permit, promised(&head), deadline))
    };
    Ok(Response::from_parts(head, Body::of(source)))
}

/// The answer of a replica as a response that holds its permit, which learns from it.
///
/// # Errors
/// When there is none.
pub fn relaying(
    mut permit: Permit,
    answer: Result<Forwarded, RequestError>,
    method: &Method,
    deadline: Instant,
) -> Result<Response<Body>, RequestError> {
    let (mut head, body, idle) = match answer.inspect_err(|error| permit.failed(error, Instant::now))? {
        Forwarded::Answer(head, body, idle) => (head, body, idle),
        Forwarded::Switch(mut head, tunnel) => {
            let chosen = upgrade::chosen(&head.headers);
            headers::strip_hop_by_hop(&mut head.headers);
            chosen.iter().for_each(|chosen| upgrade::speak(&mut head.headers, chosen));
            permit.answered(head.status, &mut head.headers, Duration::ZERO, Instant::now);
            tokio::spawn(tunnel.run(permit));
            return Ok(Response::from_parts(head, Body::of(Source::Text(None))));
        }
    };
    headers::strip_hop_by_hop(&mut head.headers);
    permit.answered(head.status, &mut head.headers, idle, Instant::now);
    let source = if *method == Method::HEAD || bodiless(head.status) {
        Source::Text(None)
    } else if body.is_whole() {
        Source::Whole { body: Live::Replica(Box::new(body)), _permit: Some(permit) }
    } else {
        Source::Streamed(Streamed::new(Live::Replica(Box::new(body)), permit, promised(&head), deadline))
    };
    Ok(Response::from_parts(head, Body::of(source)))
}

/// Bytes of a body, as its head says.
fn promised(head: &http::response::Parts) -> Option<u64> {
    head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}

/// A failure as a response: RFC 9457 problem details.
pub fn problem(error: &RequestError, request_id: &str) -> Response<Body> {
    let status = error.status();
    let text = serde_json::json!({
        "type": format!("urn:lodge:problem:{}", error.reason()),
        "title": error.to_string(),
        "status": status.as_u16(),
        "request_id": request_id,
    });
    let mut response = Response::new(Body::text(Some(Bytes::from(text.to_string()))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(allow) = error.allow().and_then(|allow| HeaderValue::from_str(allow).ok()) {
        headers.insert(header::ALLOW, allow);
    }
    if let Some(seconds) = error.retry_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(standing) = error.standing() {
        standing.write(headers);
    }
    if matches!(error, RequestError::BadFraming) {
        response.extensions_mut().insert(Last);
    }
    response
}

fn bodiless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

/// A body that nobody wants, such as the answer to HEAD: the guest may write it all the same.
async fn discard(mut body: AnswerBody, permit: Permit) {
    while let Some(Ok(_)) = poll_fn(|cx| body.poll_frame(cx)).await {}
    if let Some(afterwork) = body.afterwork() {
        afterwork.await;
    }
    drop(permit);
}

async fn holding_until(afterwork: impl Future<Output = ()>, permit: Permit) {
    afterwork.await;
    drop(permit);
}

impl Streamed {
    fn new(body: Live, permit: Permit, promised: Option<u64>, deadline: Instant) -> Self {
        let shared = Arc::new(Mutex::new(Watched { live: Some((body, permit)), waiting: None }));
        let watched = Arc::clone(&shared);
        let watchdog = tokio::spawn(async move {
            tokio::time::sleep_until(deadline.into()).await;
            let mut watched = lock(&watched);
            let (live, waiting) = (watched.live.take(), watched.waiting.take());
            drop(watched);
            drop(live);
            waiting.into_iter().for_each(Waker::wake);
        });
        Self { shared, watchdog: watchdog.abort_handle(), promised }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let mut shared = lock(&self.shared);
        let Watched { live, waiting } = &mut *shared;
        let Some((body, permit)) = live else {
            return Poll::Ready(Some(Err(Aborted(RequestError::WallTime))));
        };
        let Poll::Ready(frame) = body.poll_frame(cx) else {
            waiting.get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker());
            return Poll::Pending;
        };
        match frame {
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.promised = self.promised.map(|promised| promised.saturating_sub(size));
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                permit.failed(&error, Instant::now);
                *live = None;
                Poll::Ready(Some(Err(Aborted(error))))
            }
            None => {
                self.promised = Some(0);
                Poll::Ready(None)
            }
        }
    }
}

impl Drop for Streamed {
    /// With every byte delivered the guest may finish what it is doing; otherwise the client is gone, and so is it.
    fn drop(&mut self) {
        self.watchdog.abort();
        let Some((body, permit)) = lock(&self.shared).live.take() else { return };
        let Live::Guest(mut body) = body else { return };
        if let (Some(0), Some(afterwork)) = (self.promised, body.afterwork()) {
            tokio::spawn(holding_until(afterwork, permit));
        }
    }
}

impl Body {
    fn of(source: Source) -> Self {
        Self { source, record: None, recorder: None }
    }

    /// A body that is all here, or none.
    pub fn text(text: Option<Bytes>) -> Self {
        Self::of(Source::Text(text))
    }

    /// The same, written down as it goes.
    pub fn recorded(mut self, mut recorder: Recorder) -> Self {
        if self.source.is_end() {
            recorder.end();
        } else {
            self.recorder = Some(recorder);
        }
        self
    }

    /// Takes all of it, for who writes it down: nobody else wants it. Ends with the guest's wall time at the latest.
    pub async fn drain(mut self) {
        while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)).await {}
    }

    /// The same, for the request of which this is known.
    pub fn with(mut self, record: Record) -> Self {
        self.record = Some(record);
        self
    }
}

impl Live {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestError>>> {
        match self {
            Self::Guest(body) => body.poll_frame(cx),
            Self::Replica(body) => body.poll_frame(cx),
        }
    }

    fn is_end(&self) -> bool {
        match self {
            Self::Guest(body) => body.is_end(),
            Self::Replica(body) => body.is_end(),
        }
    }

    fn exact_size(&self) -> Option<u64> {
        match self {
            Self::Guest(body) => body.exact_size(),
            Self::Replica(body) => body.exact_size(),
        }
    }
}

impl Source {
    /// Nothing is left to say.
    fn is_end(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Whole { body, .. } => body.is_end(),
            Self::Streamed(streamed) => streamed.promised == Some(0),
        }
    }

    /// The watchdog has taken it away.
    fn is_late(&self) -> bool {
        if let Self::Streamed(streamed) = self { lock(&streamed.shared).live.is_none() } else { false }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let Some(record) = &mut self.record else { return };
        if self.source.is_end() {
            record.complete();
        } else if self.source.is_late() {
            record.aborted(&RequestError::WallTime);
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let this = &mut *self;
        let frame = ready!(match &mut this.source {
            Source::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Source::Whole { body, .. } => body.poll_frame(cx).map_err(Aborted),
            Source::Streamed(streamed) => streamed.poll_frame(cx),
        });
        if let Some(recorder) = &mut this.recorder {
            match &frame {
                Some(Ok(frame)) => recorder.frame(frame),
                Some(Err(_)) => recorder.give_up(),
                None => {}
            }
            if frame.is_none() || this.source.is_end() {
                recorder.end();
            }
        }
        match (&mut this.record, &frame) {
            (Some(record), Some(Ok(frame))) => record.sent(frame.data_ref().map_or(0, Bytes::len)),
            (Some(record), Some(Err(Aborted(error)))) => record.aborted(error),
            _ => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        !matches!(self.source, Source::Streamed(_)) && self.source.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Source::Whole { body, .. } => body.exact_size().map_or_else(SizeHint::new, SizeHint::with_exact),
            Source::Streamed(_) => SizeHint::new(),
        }
    }
}
