//! A response: whether it can be passed on, and its body, which holds its connection.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::idle_pool::Connection;
use super::upload::UploadProgress;
use crate::proxy::frames::detached;
use crate::proxy::headers::has_known_coding;

/// The body of a response. Holds its connection, or its stream, until the last byte was read. Dropping it earlier
/// closes the connection (HTTP/1.1) or resets the stream (HTTP/2).
pub struct ReceivedBody<B> {
    body: Incoming,
    held: Option<Connection<B>>,
}

impl<B> ReceivedBody<B> {
    pub(super) fn new(body: Incoming, held: Connection<B>) -> Self {
        let mut received = Self { body, held: Some(held) };
        if received.body.is_end_stream() {
            received.release();
        }
        received
    }

    fn release(&mut self) {
        if let Some(connection) = self.held.take() {
            connection.finish();
        }
    }
}

impl<B> fmt::Debug for ReceivedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.body.fmt(f)
    }
}

impl<B> Body for ReceivedBody<B> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let is_last = self.body.is_end_stream();
        match &frame {
            Some(Err(_)) => self.held = None,
            // A reader that knows the length does not poll for the end, and none polls after trailers.
            Some(Ok(frame)) if frame.is_data() && !is_last => {}
            _ => self.release(),
        }
        Poll::Ready(frame.map(|frame| frame.map(|frame| detached(frame, is_last))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Returns why a response cannot be passed on, if it cannot.
pub(super) fn unusable<B>(response: &Response<Incoming>, connection: &Connection<B>) -> Option<String> {
    if !has_known_coding(response.headers()) {
        // As in requests: without the header, its body would be taken for a plain one.
        return Some("its Transfer-Encoding is not `chunked`, exactly once".into());
    }
    let Connection::Http1(exchange) = connection else { return None };
    exchange.conn.interim().check().err().map(|error| error.to_string())
}

/// Puts the connection into the body of the response.
pub(super) fn received<B>(
    response: Response<Incoming>,
    mut connection: Connection<B>,
    upload: Option<Arc<UploadProgress>>,
) -> Response<ReceivedBody<B>> {
    if let Connection::Http1(exchange) = &mut connection {
        exchange.upload = upload;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            exchange.conn.release_slot();
        }
    }
    response.map(|body| ReceivedBody::new(body, connection))
}
