//! Response bodies of the admin listener: complete bodies and streams of events.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};
use serde::Serialize;
use tokio::sync::mpsc;

use super::contract::Problem;
use crate::request::respond::Reserve;
use lodge_base::budget::Reservation;
use lodge_traffic::proxy::outbound::Outbound;

/// The most events that wait for a slow client. The largest, the list of all services, can have a megabyte.
const EVENTS: usize = 2;

/// A response body.
pub(super) enum Body {
    /// A complete body, with its room among the unsent responses if it needs any.
    Whole(Option<Bytes>, Option<Reservation>),
    /// A stream of events.
    Events(mpsc::Receiver<Bytes>),
    /// The parts of a file, and the number of bytes that are left.
    Parts(mpsc::Receiver<Bytes>, u64),
}

impl Body {
    fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Some(bytes.into()), None)
    }

    /// Reserves room for a complete body. Returns false if there is none.
    pub(super) fn reserve(&mut self, reserve: Reserve<'_>) -> bool {
        let Self::Whole(Some(bytes), room) = self else { return true };
        let found = reserve.room(bytes.len());
        let has_room = found.is_some();
        *room = found.flatten();
        has_room
    }
}

impl Outbound for Body {
    fn room(&mut self) -> Option<Reservation> {
        if let Self::Whole(_, room) = self { room.take() } else { None }
    }
}

/// Responds with a text.
pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::whole(text));
    *response.status_mut() = status;
    response
}

/// Responds with bytes of this content type.
pub(super) fn typed(content_type: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::whole(bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Responds with a value as JSON.
pub(super) fn json(value: &impl Serialize) -> Response<Body> {
    typed("application/json", serde_json::to_vec(value).unwrap_or_default())
}

/// Responds with problem details (RFC 9457).
pub(super) fn problem(status: StatusCode, kind: &str, title: &str) -> Response<Body> {
    let mut response = json(&Problem {
        kind: Some(format!("urn:lodge:admin:{kind}")),
        title: Some(title.to_owned()),
        status: Some(status.as_u16()),
        detail: None,
    });
    *response.status_mut() = status;
    let problem = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, problem);
    response
}

/// The sender of a stream of events, which ends when this is dropped.
pub(super) struct Events(mpsc::Sender<Bytes>);

/// Responds with server-sent events that `write` sends until the client disconnects.
pub(super) fn events<F: Future<Output = ()> + Send + 'static>(write: impl FnOnce(Events) -> F) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(EVENTS);
    tokio::spawn(write(Events(sender)));
    let mut response = typed("text/event-stream", Bytes::new());
    *response.body_mut() = Body::Events(receiver);
    response
}

/// Responds with `size` bytes of this content type, which `send` sends from a thread that may block.
pub(super) fn streamed(
    content_type: &'static str,
    size: u64,
    send: impl FnOnce(mpsc::Sender<Bytes>) + Send + 'static,
) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(EVENTS);
    tokio::task::spawn_blocking(move || send(sender));
    let mut response = typed(content_type, Bytes::new());
    *response.body_mut() = Body::Parts(receiver, size);
    response
}

impl Events {
    /// Sends an event. Returns false if the client has disconnected.
    pub(super) async fn send(&self, name: &str, data: &impl Serialize) -> bool {
        let data = serde_json::to_string(data).unwrap_or_default();
        self.0.send(Bytes::from(format!("event: {name}\ndata: {data}\n\n"))).await.is_ok()
    }

    /// Sends a comment, which shows that the stream is alive. Returns false if the client has disconnected.
    pub(super) async fn beat(&self) -> bool {
        self.0.send(Bytes::from_static(b":\n\n")).await.is_ok()
    }

    /// Waits until the client disconnects.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(bytes, _) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Events(events) => events.poll_recv(cx).map(|event| event.map(|event| Ok(Frame::data(event)))),
            Self::Parts(parts, left) => parts.poll_recv(cx).map(|part| {
                let part = part?;
                *left = left.saturating_sub(part.len() as u64);
                Some(Ok(Frame::data(part)))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None, _) | Self::Parts(_, 0))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes, _) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Events(_) => SizeHint::new(),
            // A response that ends before its length breaks off.
            Self::Parts(_, left) => SizeHint::with_exact(*left),
        }
    }
}
