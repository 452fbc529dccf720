//! What users of the cache implement: a body that can be recorded, and a record of waiting times.

use std::time::Duration;

use bytes::Bytes;

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

/// The record of a request that waits for the response to another one.
pub trait WaitObserver {
    /// The request begins to wait.
    fn begin_waiting(&mut self);

    /// The request has waited for `time`, and goes to its service.
    fn waited(&mut self, time: Duration);
}
