//! What the cache needs of those who use it: a body that it can record, and somebody to tell of a wait.

use std::time::Duration;

use bytes::Bytes;

use super::recorder::Recorder;

/// The body of a response that passes through the cache.
pub trait ResponseBody: Sized + Send + 'static {
    /// A body of these stored bytes; `None` for a response without a body.
    fn stored(bytes: Option<Bytes>) -> Self;

    /// The same body, whose frames are also given to `recorder`.
    fn recorded(self, recorder: Recorder) -> Self;

    /// Reads the body to its end for its recorder alone.
    fn drain(self) -> impl Future<Output = ()> + Send + 'static;
}

/// The record of a request that waits for the response to another one.
pub trait Waiting {
    /// The request waits from now on.
    fn begin_waiting(&mut self);

    /// The request has waited for so long, and goes to its service.
    fn waited(&mut self, time: Duration);
}
