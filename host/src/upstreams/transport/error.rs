//! Why there is no answer, and whether the replica can have seen the request.

use std::error::Error;
use std::fmt;

use http::Request;

/// What went wrong, by what it says about the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// It takes no connections.
    Connect,
    /// It did not take one in time, TLS included.
    ConnectTimeout,
    /// It cannot show that it is who it should be, or does not speak TLS.
    Tls,
    /// All connections to it were in use for as long as a request may wait. Says nothing about its health.
    Overloaded,
    /// The request cannot be sent as it is: `CONNECT`, a host that is none, an upgrade over HTTP/2. Not its fault.
    Unsendable,
    /// The request's body broke off. The client's fault.
    Upload,
    /// It closed, or reset, before the head of an answer.
    Reset,
    /// It says that it did not look at the request: `REFUSED_STREAM`, or `GOAWAY` before this one. Safe to repeat.
    Refused,
    /// It took too long to begin its answer.
    ReadTimeout,
    /// What it says is not HTTP, or more of a head than is read.
    Rubbish,
}

/// A request without an answer.
pub struct SendError<B> {
    /// What went wrong.
    pub kind: ErrorKind,
    /// The same in words, for the log.
    pub cause: String,
    /// Whether the connection had served before. A [`ErrorKind::Reset`] then mostly means that the replica had just closed
    /// it for being idle, and nothing about its health.
    pub reused: bool,
    /// The request, if not one byte of it has left: may be sent elsewhere, whatever its method. Its body is untouched;
    /// its URI and `Host` may have changed form.
    pub never_sent: Option<Box<Request<B>>>,
}

/// The part that is not about a request.
pub(super) type SendFailure = (ErrorKind, String);

impl<B> SendError<B> {
    /// Of a request that stayed here.
    pub(super) fn unsent((kind, cause): SendFailure, request: Request<B>) -> Self {
        Self { kind, cause, reused: false, never_sent: Some(Box::new(request)) }
    }
}

impl<B> fmt::Display for SendError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl<B> fmt::Debug for SendError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, cause, sent) = (self.kind, &self.cause, self.never_sent.is_none());
        write!(f, "{kind:?} ({cause}), sent: {sent}, reused: {}", self.reused)
    }
}

impl<B> Error for SendError<B> {}

/// What hyper's error means.
pub(super) fn judge(error: &hyper::Error) -> ErrorKind {
    if let Some(h2) = error.source().and_then(|source| source.downcast_ref::<h2::Error>()) {
        return judge_h2(h2);
    }
    if error.is_user() {
        ErrorKind::Upload
    } else if error.is_parse() {
        ErrorKind::Rubbish
    } else {
        ErrorKind::Reset
    }
}

/// Whether the peer says that it has not looked at the request (RFC 9113, 6.8 and 8.7). h2 gives a `GOAWAY`, with whatever
/// code, only to streams after the last one that it names; the others end with their connection.
pub fn is_refusal(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

fn judge_h2(error: &h2::Error) -> ErrorKind {
    if is_refusal(error) {
        ErrorKind::Refused
    } else if error.is_library() {
        ErrorKind::Rubbish
    } else {
        ErrorKind::Reset
    }
}

/// An error and what caused it, in a line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
