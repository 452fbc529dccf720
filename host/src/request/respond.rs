//! The response on its way to the client.
//!
//! A complete response needs no sandbox: its [`Permit`] is returned at once, and its bytes count against
//! `listener.unsent` until the last one is written. Any other body holds the permit and the running guest or the
//! replica until its last frame or until the deadline of the request. A complete response for which `listener.unsent`
//! has no room does the same. A file has no such deadline: it is not being produced, and the listener ends it for a client that
//! takes less than [a client must](crate::listener::activity).
//!
//! A body ends in one of three ways: complete; aborted, which the client can detect (HTTP/1.1: closed without the last
//! chunk, HTTP/2: RST_STREAM); or dropped because the client disconnected, which cancels the guest.

mod blame;
mod checked;
mod compressed;
mod file;
mod problem;
mod recorded;
mod redirect;
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

use self::checked::CheckedBody;
pub(super) use self::checked::ResponseCheck;
use self::compressed::Compressed;
pub use self::file::sending;
pub use self::problem::problem;
pub use self::redirect::{login, moved};
pub use self::streamed::Aborted;
use self::streamed::{Live, Streamed};
use super::forward::Forwarded;
use super::record::Record;
use crate::request::error::RequestError;
use lodge_base::budget::{Budget, Reservation};
use lodge_runtime::error::RunError;
use lodge_runtime::response::{GuestBody, GuestResponse, content_length, is_headless};
use lodge_traffic::admission::client_memory::ClientRoom;
use lodge_traffic::admission::{Permit, Upload};
use lodge_traffic::auth::login::cookies;
use lodge_traffic::cache::recorder::Recorder;
use lodge_traffic::proxy::compression::encoder::Encoder;
use lodge_traffic::proxy::headers;
use lodge_traffic::proxy::outbound::{Hold, Outbound};
use lodge_traffic::proxy::upgrade;
use lodge_traffic::service::Service;

/// An extension of responses after which the connection must be closed, because its framing is not reliable.
#[derive(Clone, Copy, Debug)]
pub struct Last;

/// Bytes charged for a response besides its body while it waits for the window of its HTTP/2 stream: the task of the
/// stream, its state in h2, the head.
const STREAM: usize = 8 << 10;

/// Complete responses of at most this many bytes are not charged over HTTP/1.1: a connection sends one at a time, and
/// buffers as many bytes in any case.
const BUFFERED: usize = 8 << 10;

/// The properties of the request and the host that a response depends on.
pub struct Exchange<'a> {
    /// The request's method.
    pub method: Method,
    /// The deadline of the request.
    pub deadline: Instant,
    /// The budget for the response once it is complete.
    pub reserve: Reserve<'a>,
}

/// The budget `listener.unsent` for the response to one request.
#[derive(Clone, Copy)]
pub struct Reserve<'a> {
    /// The version of the request.
    pub version: Version,
    /// The budget of all responses.
    pub unsent: &'a Arc<Budget>,
}

/// The body of a response as hyper polls it, with the record of its request.
pub struct Body {
    source: Source,
    /// The room of a complete response in `listener.unsent`.
    room: Option<Reservation>,
    record: Option<Record>,
    /// Copies the frames to the cache.
    recorder: Option<Recorder>,
    /// Compares it with the document of the service, for developers.
    checked: Option<Box<CheckedBody>>,
}

enum Source {
    /// A text of the host, or a stored body without a permit.
    Text(Option<Bytes>),
    /// All frames of a complete response. The usual case, and the cheapest.
    Whole(VecDeque<Frame<Bytes>>),
    /// A response that is incomplete, or for which `listener.unsent` has no room.
    Streamed(Streamed),
    /// One of the others, on its way through an encoder.
    Compressed(Box<Compressed>),
}

impl Exchange<'_> {
    /// Whether the response has no body, whatever its header says.
    fn is_bodiless(&self, status: StatusCode) -> bool {
        self.method == Method::HEAD || is_headless(status)
    }

    /// Returns the body to send. If it is complete and there is room for it, the permit is returned.
    fn send(&self, head: &mut http::response::Parts, body: Live, permit: Permit) -> Body {
        let whole = body.size();
        if let Some(room) = whole.and_then(|size| self.reserve.room(size)) {
            let mut body = Body::of(Source::Whole(body.finish(permit, self.reserve.version)));
            body.room = room;
            return body;
        }
        if let Some(size) = whole.and(body.exact_size()) {
            head.headers.entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(size));
        }
        let deadline = (!matches!(body, Live::File(_))).then_some(self.deadline);
        Body::of(Source::Streamed(Streamed::new(body, permit, content_length(head), deadline, self.reserve)))
    }
}

impl Reserve<'_> {
    /// Reserves room for a complete response of this many bytes. `Some(None)` if it needs none, `None` if there is
    /// none.
    pub fn room(self, bytes: usize) -> Option<Option<Reservation>> {
        let needs = match self.version {
            Version::HTTP_2 => bytes.saturating_add(STREAM),
            _ if bytes <= BUFFERED => return Some(None),
            _ => bytes,
        };
        self.unsent.reserve(needs).map(Some)
    }
}

/// Converts the result of a guest to a response, and records it in the permit.
///
/// # Errors
/// If the guest failed, or its response has a head that cannot be sent.
pub fn holding(
    mut permit: Permit,
    result: Result<GuestResponse, RunError>,
    exchange: &Exchange<'_>,
) -> Result<Response<Body>, RequestError> {
    let result =
        result.and_then(GuestResponse::sendable).map_err(|error| RequestError::from(error).recorded(&mut permit))?;
    let GuestResponse { mut head, body } = result;
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

/// Converts the result of an upstream to a response, and records it in the permit.
///
/// # Errors
/// If no replica responded.
pub fn relaying(
    mut permit: Permit,
    result: Result<Forwarded, RequestError>,
    exchange: &Exchange<'_>,
) -> Result<Response<Body>, RequestError> {
    let (mut head, body, upload) = match result.map_err(|error| error.recorded(&mut permit))? {
        Forwarded::Response(head, body, upload) => (head, body, upload),
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

/// Makes the head of a guest's or a replica's response one of this host: HTTP/1.1 whatever the replica's version (RFC
/// 9112, 2.3), without hop-by-hop fields and cookies of the host, and without a `Content-Length` that the status does not allow. RFC 9110, 8.6
/// forbids it with 101 and 204. A 205 has no content, and a client that relies on the length would take the next
/// response on the connection for the body.
fn take_over(head: &mut http::response::Parts) {
    head.version = Version::HTTP_11;
    headers::strip_hop_by_hop(&mut head.headers);
    cookies::remove_set(&mut head.headers);
    if matches!(head.status, StatusCode::SWITCHING_PROTOCOLS | StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT) {
        head.headers.remove(header::CONTENT_LENGTH);
    }
}

/// Reads the body of a response to HEAD or of a status without a body, which a guest may write all the same. The body
/// may be that of the request, which the time limit of the guest does not bound, so the caller sets a timeout.
async fn discard(mut body: GuestBody, permit: Permit) {
    while let Some(Ok(_)) = poll_fn(|cx| body.poll_frame(cx)).await {}
    if let Some(afterwork) = body.afterwork() {
        afterwork.await;
    }
    drop(permit);
}

impl Body {
    fn of(source: Source) -> Self {
        Self { source, room: None, record: None, recorder: None, checked: None }
    }

    /// Reserves room for a text or a stored body, `bytes` of which are in memory for this response alone. Returns false
    /// if there is no room.
    #[must_use = "a body without room must not wait for its client"]
    pub fn count(&mut self, bytes: usize, reserve: Reserve<'_>) -> bool {
        if !matches!(self.source, Source::Text(Some(_))) {
            return true;
        }
        let room = reserve.room(bytes);
        let counts = room.is_some();
        self.room = room.flatten();
        counts
    }

    /// Converts a text or a stored body without [room](Self::count). It holds `permit` until its last byte is written
    /// or there is room, and is aborted at `deadline`.
    pub fn permitted(mut self, permit: Permit, deadline: Instant, reserve: Reserve<'_>) -> Self {
        if let Source::Text(Some(text)) = &mut self.source {
            let text = std::mem::take(text);
            let size = text.len() as u64;
            let live = Live::Stored(text);
            self.source = Source::Streamed(Streamed::new(live, permit, Some(size), Some(deadline), reserve));
        }
        self
    }

    /// A complete body, or an empty one.
    pub fn text(text: Option<Bytes>) -> Self {
        Self::of(Source::Text(text))
    }

    /// Compresses the body while it is sent.
    pub(super) fn compressed(self, encoder: Encoder, room: ClientRoom, service: &Arc<Service>) -> Self {
        Self::of(Source::Compressed(Box::new(Compressed::new(self, encoder, room, service))))
    }

    /// Attaches the record of the request.
    pub fn with(mut self, record: Record) -> Self {
        self.record = Some(record);
        self
    }
}

impl Source {
    /// Whether no frame is left.
    fn is_end(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Whole(frames) => frames.is_empty(),
            Self::Streamed(streamed) => streamed.is_end(),
            Self::Compressed(compressed) => compressed.is_end(),
        }
    }

    /// Returns the reason why the watchdog aborted the body, once.
    fn take_late(&mut self) -> Option<RequestError> {
        match self {
            Self::Streamed(streamed) => streamed.take_late(),
            Self::Compressed(compressed) => compressed.body().source.take_late(),
            Self::Text(_) | Self::Whole(_) => None,
        }
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
        if let Source::Compressed(compressed) = &mut self.source {
            return compressed.body().room.take();
        }
        self.room.take()
    }

    fn hold(&mut self, bytes: usize, counted: bool) -> Option<Hold> {
        self.end();
        match std::mem::replace(&mut self.source, Source::Text(None)) {
            Source::Streamed(streamed) if !counted => Some(streamed.hold(bytes)),
            Source::Compressed(mut compressed) => Some(compressed.hold(bytes, counted)),
            Source::Streamed(_) | Source::Text(_) | Source::Whole(_) => None,
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
            Source::Compressed(compressed) => compressed.poll_frame(cx),
        });
        if let (Source::Streamed(streamed), Some(Ok(_))) = (&this.source, &frame)
            && let Some((frames, room)) = streamed.rest()
        {
            // Stored at once, as in `recorded`: requests that wait for this response must not depend on the speed of
            // this client.
            if let Some(mut recorder) = this.recorder.take() {
                frame.iter().flatten().chain(&frames).for_each(|frame| recorder.frame(frame));
                recorder.end();
            }
            (this.source, this.room) = (Source::Whole(frames), room);
        }
        if this.checked.is_some() && !matches!(frame, Some(Err(_))) {
            this.see(frame.as_ref().and_then(|frame| frame.as_ref().ok()));
        }
        if let Some(recorder) = &mut this.recorder {
            match &frame {
                Some(Ok(frame)) => recorder.frame(frame),
                Some(Err(_)) => recorder.cancel(),
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
            Source::Streamed(_) | Source::Compressed(_) => SizeHint::new(),
        }
    }
}
