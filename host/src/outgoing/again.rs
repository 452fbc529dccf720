//! Requests of guests that are sent a second time: a guest cannot know of the pool that its requests go through, and so not
//! that a connection was closed under one of them.
//!
//! An idempotent request that found a used connection closed (RFC 9112, 9.3.1), and any request that a server of HTTP/2 says
//! it has not looked at (RFC 9113, 8.7), is sent once more, on a new connection. Its body must be there still.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use http::request::Parts;
use http::uri::Scheme;
use http::{Extensions, Request};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::CaptureConnection;
use wasmtime_wasi_http::WasiBody;

use super::failure::Failure;
use crate::upstreams::replay::{Replay, ReplayMemory};
use crate::upstreams::retry::Repeatable;
use crate::upstreams::transport::is_refusal;

/// Requests that a connection has carried.
#[derive(Clone, Debug, Default)]
pub(super) struct Uses(Arc<AtomicUsize>);

/// A request that got no response.
pub(super) struct Lost {
    pub(super) failure: Failure,
    /// Its connection had carried others.
    reused: bool,
    /// The server says that it has not looked at it.
    refused: bool,
}

/// What a request can be made of once more.
pub(super) struct Again {
    head: Parts,
    body: Option<Replay>,
    is_idempotent: bool,
}

impl Uses {
    /// Counts a request on the connection that it was given, if it was given one. Returns whether there were others before.
    pub(super) fn count(connection: &CaptureConnection) -> bool {
        let mut extras = Extensions::new();
        if let Some(connected) = connection.connection_metadata().as_ref() {
            connected.get_extras(&mut extras);
        }
        extras.get::<Self>().is_some_and(|uses| uses.0.fetch_add(1, Relaxed) > 0)
    }
}

impl Lost {
    pub(super) fn new(error: &legacy::Error, reused: bool) -> Self {
        Self { failure: Failure::of_client(error), reused, refused: refused(error) }
    }

    /// Of a request that has waited for too long.
    pub(super) fn late(failure: Failure) -> Self {
        Self { failure, reused: false, refused: false }
    }
}

impl Again {
    /// Prepares a request for a second time, if there may be one; over plain HTTP/1.1 nobody refuses what he has not looked at.
    pub(super) fn of(request: Request<WasiBody>, room: &Arc<ReplayMemory>) -> (Request<WasiBody>, Option<Self>) {
        let is_idempotent = Repeatable::new(request.method(), true).always();
        if !is_idempotent && request.uri().scheme() != Some(&Scheme::HTTPS) {
            return (request, None);
        }
        let (head, body) = request.into_parts();
        let (replay, body) = if body.is_end_stream() {
            (None, body)
        } else {
            let (replay, first) = Replay::new(body, room);
            (Some(replay), first)
        };
        let again = Self { head: head.clone(), body: replay, is_idempotent };
        (Request::from_parts(head, body), Some(again))
    }

    /// The request once more, if it may be sent after it was lost like this.
    pub(super) fn after(self, lost: &Lost) -> Option<Request<WasiBody>> {
        let closed = lost.reused && matches!(lost.failure, Failure::Terminated);
        if !(lost.refused || closed && self.is_idempotent) {
            return None;
        }
        let body = match &self.body {
            Some(replay) => replay.next()?,
            None => Empty::new().map_err(|never| match never {}).boxed_unsync(),
        };
        Some(Request::from_parts(self.head, body))
    }
}

/// Whether a cause of an error is that the server has not looked at the request.
fn refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<h2::Error>().is_some_and(is_refusal) {
            return true;
        }
        cause = error.source();
    }
    false
}
