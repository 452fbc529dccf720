//! The response on its way to the client.
//!
//! A response that is complete needs no sandbox: its [`Permit`] is given back at once, and until the last byte is written its
//! bytes count against `listener.unsent`. Any other body owns the permit and the running guest, or the replica, until its last
//! frame, or until the time of the service is up. So does a complete one while `listener.unsent` is full.
//!
//! A body ends in one of three ways: complete; aborted, so that the client can tell (h1: closed without the last chunk, h2:
//! RST_STREAM); or dropped by a client that went away, which cancels the guest.

mod recorded;
mod streamed;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode, Version};
use http_body::{Frame, SizeHint};

pub use self::streamed::Aborted;
use self::streamed::{Live, Streamed};
use super::forward::Forwarded;
use super::record::Record;
use crate::request::error::RequestError;
use lodge_base::budget::{Budget, Reservation};
use lodge_runtime::error::RunError;
use lodge_runtime::response::{GuestBody, GuestResponse, content_length, is_headless};
use lodge_traffic::admission::{Permit, Upload};
use lodge_traffic::cache::recorder::Recorder;
use lodge_traffic::proxy::headers::{self, Malformed};
use lodge_traffic::proxy::outbound::{Hold, Outbound};
use lodge_traffic::proxy::upgrade;

/// Among the extensions of an answer after which nothing that comes on its connection can be believed.
#[derive(Clone, Copy, Debug)]
pub struct Last;

/// Bytes that a response takes besides its body while it waits for the window of its HTTP/2 stream: the task of the stream,
/// its state in h2, the head.
const STREAM: usize = 8 << 10;

/// A complete response of at most so many bytes over HTTP/1.1 does not count: a connection has one, and buffers that much.
const BUFFERED: usize = 8 << 10;

/// What a response depends on of its request and its host.
pub struct Exchange<'a> {
    /// The request's method.
    pub method: Method,
    /// When the service's time is up.
    pub deadline: Instant,
    /// Where the response has room once it is complete.
    pub reserve: Reserve<'a>,
}

/// `listener.unsent`, the bytes of complete responses that are not written yet, for the response to one request.
#[derive(Clone, Copy)]
pub struct Reserve<'a> {
    /// The version of the request.
    pub version: Version,
    /// The room of all responses.
    pub unsent: &'a Arc<Budget>,
}

/// What hyper sends, and what is known of the request that it answers.
pub struct Body {
    source: Source,
    /// For the bytes of a complete response.
    room: Option<Reservation>,
    record: Option<Record>,
    /// Writes it down for others.
    recorder: Option<Recorder>,
}

enum Source {
    /// A text of the host, or a stored body.
    Text(Option<Bytes>),
    /// Every frame of a complete response: the usual case, and the cheap one.
    Whole(VecDeque<Frame<Bytes>>),
    /// A response that is still being made, or that there is no room for.
    Streamed(Streamed),
}

impl Exchange<'_> {
    /// Whether the response has no body, whatever its head says.
    fn is_bodiless(&self, status: StatusCode) -> bool {
        self.method == Method::HEAD || is_headless(status)
    }

    /// The body of a response that has one. If it is complete and there is room for it, the permit is given back.
    fn send(&self, head: &mut http::response::Parts, body: Live, permit: Permit) -> Body {
        let whole = body.size();
        if let Some(room) = whole.and_then(|size| self.reserve.room(size)) {
            let mut body = Body::of(Source::Whole(body.finish(permit)));
            body.room = room;
            return body;
        }
        if let Some(size) = whole.and(body.exact_size()) {
            head.headers.entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(size));
        }
        Body::of(Source::Streamed(Streamed::new(body, permit, content_length(head), self.deadline, self.reserve)))
    }
}

impl Reserve<'_> {
    /// Room for a complete response of so many bytes: `Some(None)` where it needs none, `None` where there is none.
    pub fn room(self, bytes: usize) -> Option<Option<Reservation>> {
        let needs = match self.version {
            Version::HTTP_2 => bytes.saturating_add(STREAM),
            _ if bytes <= BUFFERED => return Some(None),
            _ => bytes,
        };
        self.unsent.reserve(needs).map(Some)
    }
}

/// The response of a guest. Its permit learns from it.
///
/// # Errors
/// When there is none, or its head cannot go on the wire.
pub fn holding(
    mut permit: Permit,
    answer: Result<GuestResponse, RunError>,
    exchange: &Exchange<'_>,
) -> Result<Response<Body>, RequestError> {
    let answer = answer
        .and_then(GuestResponse::sendable)
        .map_err(RequestError::from)
        .inspect_err(|error| permit.record_failure(error.verdict(), Instant::now))?;
    let GuestResponse { mut head, body } = answer;
    take_over(&mut head);
    permit.record_response(head.status, body.upload(), Instant::now);
    permit.write_headers(&mut head.headers);
    let body = if exchange.is_bodiless(head.status) {
        tokio::spawn(tokio::time::timeout_at(exchange.deadline.into(), discard(body, permit)));
        Body::text(None)
    } else {
        exchange.send(&mut head, Live::Guest(body), permit)
    };
    Ok(Response::from_parts(head, body))
}

/// The response of a replica. Its permit learns from it.
///
/// # Errors
/// When there is none.
pub fn relaying(
    mut permit: Permit,
    answer: Result<Forwarded, RequestError>,
    exchange: &Exchange<'_>,
) -> Result<Response<Body>, RequestError> {
    let (mut head, body, upload) =
        match answer.inspect_err(|error| permit.record_failure(error.verdict(), Instant::now))? {
            Forwarded::Answer(head, body, upload) => (head, body, upload),
            Forwarded::Switch(mut head, tunnel) => {
                let chosen = upgrade::chosen(&head.headers);
                take_over(&mut head);
                chosen.iter().for_each(|chosen| upgrade::write_upgrade(&mut head.headers, chosen));
                permit.record_response(head.status, Upload::default(), Instant::now);
                permit.write_headers(&mut head.headers);
                tokio::spawn(tunnel.run());
                return Ok(Response::from_parts(head, Body::text(None)));
            }
        };
    take_over(&mut head);
    permit.record_response(head.status, upload, Instant::now);
    permit.write_headers(&mut head.headers);
    let body = if exchange.is_bodiless(head.status) {
        Body::text(None)
    } else {
        exchange.send(&mut head, Live::Replica(Box::new(body)), permit)
    };
    Ok(Response::from_parts(head, body))
}

/// Makes the head of a guest's or a replica's response one of this host's own: in the client's version of HTTP and not in the
/// replica's (RFC 9112, 2.3), without fields for the next hop, and without a length that the status does not allow. With 101
/// and 204 there is none (RFC 9110, 8.6); a 205 has no content, and a client that believed its length would take the next
/// response on the connection for its body.
fn take_over(head: &mut http::response::Parts) {
    head.version = Version::HTTP_11;
    headers::strip_hop_by_hop(&mut head.headers);
    if matches!(head.status, StatusCode::SWITCHING_PROTOCOLS | StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT) {
        head.headers.remove(header::CONTENT_LENGTH);
    }
}

/// A failure as a response: RFC 9457 problem details.
pub fn problem(error: &RequestError, request_id: &str) -> Response<Body> {
    let status = error.status();
    let mut text = serde_json::json!({
        "type": format!("urn:lodge:problem:{}", error.reason()),
        "title": error.to_string(),
        "status": status.as_u16(),
        "request_id": request_id,
    });
    if let (Some(why), Some(members)) = (error.explanation(), text.as_object_mut()) {
        members.insert("detail".into(), why.into());
    }
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
    if let Some(standing) = error.rate_status() {
        standing.write(headers);
    }
    if matches!(error, RequestError::Malformed(Malformed::Framing)) {
        response.extensions_mut().insert(Last);
    }
    response
}

/// Reads a body that is not sent, such as that of the response to HEAD, which a guest may write all the same. It may be the
/// request's own body, which has no end that the guest's time limit would bring: the caller bounds it.
async fn discard(mut body: GuestBody, permit: Permit) {
    while let Some(Ok(_)) = poll_fn(|cx| body.poll_frame(cx)).await {}
    if let Some(afterwork) = body.afterwork() {
        afterwork.await;
    }
    drop(permit);
}

impl Body {
    fn of(source: Source) -> Self {
        Self { source, room: None, record: None, recorder: None }
    }

    /// Counts a text or a stored body, of which `bytes` are in memory for this response alone. False when there is no room.
    #[must_use = "what has no room must not wait for its client"]
    pub fn count(&mut self, bytes: usize, reserve: Reserve<'_>) -> bool {
        if !matches!(self.source, Source::Text(Some(_))) {
            return true;
        }
        let room = reserve.room(bytes);
        let counts = room.is_some();
        self.room = room.flatten();
        counts
    }

    /// A text or a stored body that there is no [room](Self::count) for: it holds `permit` until its last byte is written or
    /// there is room, and is aborted at `deadline`.
    pub fn permitted(mut self, permit: Permit, deadline: Instant, reserve: Reserve<'_>) -> Self {
        if let Source::Text(Some(text)) = &mut self.source {
            let text = std::mem::take(text);
            let size = text.len() as u64;
            self.source = Source::Streamed(Streamed::new(Live::Stored(text), permit, Some(size), deadline, reserve));
        }
        self
    }

    /// A body that is all here, or none.
    pub fn text(text: Option<Bytes>) -> Self {
        Self::of(Source::Text(text))
    }

    /// The same, for the request of which this is known.
    pub fn with(mut self, record: Record) -> Self {
        self.record = Some(record);
        self
    }
}

impl Source {
    /// Nothing is left to say.
    fn is_end(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Whole(frames) => frames.is_empty(),
            Self::Streamed(streamed) => streamed.is_end(),
        }
    }

    /// Why the watchdog has taken it away.
    fn take_late(&self) -> Option<RequestError> {
        if let Self::Streamed(streamed) = self { streamed.take_late() } else { None }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.end();
    }
}

impl Body {
    /// Records how the response ended.
    fn end(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        if self.source.is_end() {
            record.set_complete();
        } else if let Some(late) = self.source.take_late() {
            record.record_abort(&late);
        }
    }
}

impl Outbound for Body {
    fn stalled(&mut self) {
        if let Some(mut record) = self.record.take() {
            match self.source.take_late() {
                Some(late) => record.record_abort(&late),
                None => record.set_stalled(),
            }
        }
    }

    fn room(&mut self) -> Option<Reservation> {
        self.room.take()
    }

    fn hold(&mut self, bytes: usize) -> Option<Hold> {
        self.end();
        match std::mem::replace(&mut self.source, Source::Text(None)) {
            Source::Streamed(streamed) => Some(streamed.hold(bytes)),
            _ => None,
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
            Source::Whole(frames) => Poll::Ready(frames.pop_front().map(Ok)),
            Source::Streamed(streamed) => streamed.poll_frame(cx),
        });
        if let (Source::Streamed(streamed), Some(Ok(_))) = (&this.source, &frame)
            && let Some((frames, room)) = streamed.rest()
        {
            // Stored at once, as in `recorded`: requests for the same response must not wait for the client of this one.
            if let Some(mut recorder) = this.recorder.take() {
                frame.iter().flatten().chain(&frames).for_each(|frame| recorder.frame(frame));
                recorder.end();
            }
            (this.source, this.room) = (Source::Whole(frames), room);
        }
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
            (Some(record), Some(Ok(frame))) => record.add_sent(frame.data_ref().map_or(0, Bytes::len)),
            (Some(record), Some(Err(Aborted(error)))) => record.record_abort(error),
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
            Source::Whole(frames) => {
                let sizes = frames.iter().map(|frame| Some(frame.data_ref()?.len() as u64));
                sizes.sum::<Option<u64>>().map_or_else(SizeHint::new, SizeHint::with_exact)
            }
            Source::Streamed(_) => SizeHint::new(),
        }
    }
}
