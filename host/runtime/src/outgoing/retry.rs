//! A second attempt for requests of guests. A guest does not know about the connection pool, so it cannot know that a
//! connection was closed under its request.
//!
//! Sent again, once and on a new connection, are idempotent requests that failed on a closed used connection (RFC 9112,
//! 9.3.1), and all requests that an HTTP/2 server refused unprocessed (RFC 9113, 8.7). All of the body read so far must
//! still be held.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use http::request::Parts;
use http::uri::Scheme;
use http::{Extensions, Request};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::CaptureConnection;
use wasmtime_wasi_http::{Error, WasiBody};

use super::failure::OutgoingFailure;
use lodge_traffic::upstreams::replay::{Replay, ReplayMemory};
use lodge_traffic::upstreams::retry::Repeatable;
use lodge_traffic::upstreams::transport::is_refusal;

/// The number of requests that a connection has carried.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnectionUses(Arc<AtomicUsize>);

/// A request that got no response.
pub(super) struct LostRequest {
    pub(super) failure: OutgoingFailure,
    /// Whether its connection had carried other requests.
    reused: bool,
    /// Whether the server refused it unprocessed.
    refused: bool,
}

/// What the second attempt is made of.
pub(super) struct SecondAttempt {
    head: Parts,
    body: Option<Replay<Error>>,
    is_idempotent: bool,
}

impl ConnectionUses {
    /// Counts a request on its connection, if it got one. Returns whether the connection had carried others.
    pub(super) fn count(connection: &CaptureConnection) -> bool {
        let mut extras = Extensions::new();
        if let Some(connected) = connection.connection_metadata().as_ref() {
            connected.get_extras(&mut extras);
        }
        extras.get::<Self>().is_some_and(|uses| uses.0.fetch_add(1, Relaxed) > 0)
    }
}

impl LostRequest {
    pub(super) fn new(error: &legacy::Error, reused: bool) -> Self {
        Self { failure: OutgoingFailure::of_client(error), reused, refused: refused(error) }
    }

    /// Describes a request that timed out.
    pub(super) fn late(failure: OutgoingFailure) -> Self {
        Self { failure, reused: false, refused: false }
    }
}

impl SecondAttempt {
    /// Prepares a request for a second attempt if one may be needed. Over plain HTTP/1.1, only idempotent requests may:
    /// a server cannot refuse unprocessed there.
    pub(super) fn of(
        request: Request<WasiBody>,
        replay_memory: &Arc<ReplayMemory>,
    ) -> (Request<WasiBody>, Option<Self>) {
        let is_idempotent = Repeatable::new(request.method(), true).always();
        if !is_idempotent && request.uri().scheme() != Some(&Scheme::HTTPS) {
            return (request, None);
        }
        let (head, body) = request.into_parts();
        let (replay, body) = if body.is_end_stream() {
            (None, body)
        } else {
            let (replay, first) = Replay::new(body, replay_memory);
            (Some(replay), first)
        };
        let retry = Self { head: head.clone(), body: replay, is_idempotent };
        (Request::from_parts(head, body), Some(retry))
    }

    /// Returns the request for the second attempt, if it may be sent again after this failure.
    pub(super) fn after(self, lost: &LostRequest) -> Option<Request<WasiBody>> {
        let closed = lost.reused && matches!(lost.failure, OutgoingFailure::Terminated);
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

/// Returns whether an error was caused by a refusal of the unprocessed request.
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
