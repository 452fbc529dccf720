//! A response body that is compressed while it is sent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame};

use super::{Aborted, Body};
use crate::request::error::RequestError;
use lodge_traffic::admission::client_memory::ClientRoom;
use lodge_traffic::proxy::compression::body::{CompressedBody, Interruption};
use lodge_traffic::proxy::compression::encoder::Encoder;
use lodge_traffic::proxy::outbound::{Hold, Outbound as _};
use lodge_traffic::service::Service;

/// A body on its way through an encoder. Counts the bytes of both sides when it is dropped.
pub(super) struct Compressed {
    body: CompressedBody<Body>,
    coding: &'static str,
    service: Arc<Service>,
}

impl Compressed {
    /// Compresses `body` with an encoder whose memory `room` is for.
    pub(super) fn new(body: Body, encoder: Encoder, room: ClientRoom, service: &Arc<Service>) -> Self {
        let (coding, service) = (encoder.coding().name(), Arc::clone(service));
        Self { body: CompressedBody::new(body, encoder, room), coding, service }
    }

    /// The body that is compressed.
    pub(super) fn body(&mut self) -> &mut Body {
        self.body.inner()
    }

    /// Returns what is held until the last `bytes` are written: the memory that was the encoder's, and what the body itself holds
    /// unless its bytes are `counted` elsewhere.
    pub(super) fn hold(&mut self, bytes: usize, counted: bool) -> Hold {
        let rest = if counted { None } else { self.body().hold(bytes, counted) };
        Box::new((self.body.take_room(bytes), rest))
    }

    /// Whether no frame is left.
    pub(super) fn is_end(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        Pin::new(&mut self.body).poll_frame(cx).map_err(|error| match error {
            Interruption::Body(error) => error,
            Interruption::Encoder(error) => Aborted(RequestError::Encoder(error)),
        })
    }
}

impl Drop for Compressed {
    fn drop(&mut self) {
        let (read, written) = self.body.bytes();
        self.service.metrics.compressed.record(self.coding, read, written);
    }
}
