//! What users of the cache implement: a body that can be recorded, an error, and a record of waiting times.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::recorder::Recorder;

/// The body of a response that passes through the cache.
pub trait CacheBody: Sized + Send + 'static {
    /// Makes a body of stored bytes; `None` for a response without a body.
    fn stored(bytes: Option<Bytes>) -> Self;

    /// The same body, with its frames also copied to `recorder`.
    fn recorded(self, recorder: Recorder) -> Self;

    /// Reads the body to its end, for its recorder alone.
    fn drain(self) -> impl Future<Output = ()> + Send + 'static;
}

/// A service responded with 304 to a request without conditions: its client has nothing to use in its place (RFC 9110,
/// 15.4.5).
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the service sent an invalid response")]
pub struct UnexpectedNotModified;

/// The reason why a service gave no response.
pub trait FetchError: From<UnexpectedNotModified> {
    /// The status that the client gets.
    fn status(&self) -> StatusCode;

    /// Whether the request may have taken effect.
    fn may_have_taken_effect(&self) -> bool;
}

/// The record of a request that waits for the response to another one.
pub trait WaitObserver {
    /// The request begins to wait.
    fn begin_waiting(&mut self);

    /// The request has waited for `time`, and goes to its service.
    fn waited(&mut self, time: Duration);
}
