//! Why a request got no response, and whether the replica may have seen it.

use std::error::Error;
use std::fmt;

use http::Request;

/// The kind of a failure, by what it says about the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The replica accepts no connections.
    Connect,
    /// The connection was not open in time, including TLS.
    ConnectTimeout,
    /// The replica has no valid certificate, or does not speak TLS.
    Tls,
    /// All connections were in use for as long as a request may wait. Says nothing about the replica's health.
    Overloaded,
    /// The request cannot be sent in this form: `CONNECT`, an invalid host, an upgrade over HTTP/2. Not the replica's
    /// fault.
    Unsendable,
    /// The client's body broke off.
    Upload,
    /// The replica closed or reset the connection before the head of a response.
    Reset,
    /// The replica refused the request unprocessed: `REFUSED_STREAM`, or a `GOAWAY` with an earlier stream. Safe to
    /// repeat.
    Refused,
    /// The head of the response did not arrive in time.
    ReadTimeout,
    /// The response is not HTTP, or its head is too large.
    Rubbish,
}

/// Why a request got no response.
pub struct SendError<B> {
    /// The kind of the failure.
    pub kind: ErrorKind,
    /// The cause, for the log.
    pub cause: String,
    /// Whether the connection had served before. An [`ErrorKind::Reset`] then mostly means that the replica has just
    /// closed an idle connection.
    pub reused: bool,
    /// The request, if none of its bytes were sent. It may be sent elsewhere, whatever its method. Its body is unread;
    /// its URI and `Host` may have changed form.
    pub never_sent: Option<Box<Request<B>>>,
}

/// An error without the request.
pub(super) type SendFailure = (ErrorKind, String);

impl<B> SendError<B> {
    /// Creates the error of a request that was not sent.
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

/// Classifies an error of hyper.
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

/// Returns whether the peer refused the request unprocessed (RFC 9113, 6.8 and 8.7). h2 reports a `GOAWAY`, with any
/// code, only for streams after the last one that the frame names; the others end with their connection.
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

/// Formats an error and its sources in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
