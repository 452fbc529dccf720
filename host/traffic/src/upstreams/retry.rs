//! Decides whether a request may be sent again after an attempt.
//!
//! Two conditions: the request may be executed twice, and another attempt may well succeed. The
//! [`budget`](super::budget) is checked last. A [`TryOutcome`] covers an attempt only up to the head of the response,
//! so nothing was passed on to the client yet.

use std::time::Instant;

use http::{Method, StatusCode};

use lodge_manifest::upstream::Retry;

/// The outcome of one attempt, up to the head of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryOutcome {
    /// No connection: refused, unreachable, a failed TLS handshake, or a timeout. The replica received nothing.
    Unconnected,
    /// Nothing was sent, or the replica refused the request unprocessed (HTTP/2 `REFUSED_STREAM` or `GOAWAY`). Says
    /// nothing about its health.
    Unsent,
    /// A connection that had served before broke after some of the request may have been sent. Most likely the replica
    /// closed it because it was idle, which says nothing about its health.
    Closed,
    /// A new connection broke after some of the request may have been sent.
    Reset,
    /// No response head arrived in time.
    TimedOut,
    /// The status of a response.
    Responded(StatusCode),
}

/// The properties of a request that decide whether it may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeatable {
    /// The method is idempotent (RFC 9110, 9.2.2).
    idempotent: bool,
    /// The method is safe (RFC 9110, 9.2.1).
    safe: bool,
    /// There is no body, or all of it is still held.
    replayable: bool,
}

impl TryOutcome {
    /// Returns whether the outcome counts for (`true`) or against (`false`) the replica; `None` if it says nothing.
    pub fn verdict(self) -> Option<bool> {
        match self {
            Self::Unconnected | Self::Reset | Self::TimedOut => Some(false),
            Self::Unsent | Self::Closed => None,
            Self::Responded(status) => Some(!is_gateway(status)),
        }
    }

    /// Returns whether the replica certainly processed nothing.
    fn is_untouched(self) -> bool {
        matches!(self, Self::Unconnected | Self::Unsent)
    }

    /// Returns whether the next attempt needs another replica. After a timeout it does: the same one would likely hang
    /// again.
    pub fn needs_another(self) -> bool {
        self == Self::TimedOut
    }

    /// Returns whether an attempt after this one may well end differently. A first timeout may be the fault of the
    /// replica; a second one is more likely due to the request or to all replicas.
    fn is_hopeful(self, tries: usize) -> bool {
        match self {
            Self::Unconnected | Self::Unsent | Self::Closed | Self::Reset => true,
            Self::TimedOut => tries == 1,
            Self::Responded(status) => is_gateway(status),
        }
    }
}

/// Returns whether the status means a failure that is not due to the request and may pass.
fn is_gateway(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

impl Repeatable {
    /// Describes a request by its method and whether its body is empty or `replayable`.
    pub fn new(method: &Method, replayable: bool) -> Self {
        let idempotent =
            [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE].contains(method);
        Self { idempotent, safe: method.is_safe(), replayable }
    }

    /// Returns whether the request may be sent again whatever the outcome of the first attempt.
    pub fn always(self) -> bool {
        self.idempotent && self.replayable
    }

    /// Returns whether two attempts may be in flight at once. Only for safe methods: the slower attempt goes on after
    /// the client has its response and could undo the client's next request. For example, a late second DELETE would
    /// delete what a PUT has created in between.
    pub fn hedges(self) -> bool {
        self.safe && self.replayable
    }

    /// Returns whether the request may be sent again after `tries` attempts of which the last had this outcome.
    pub fn again(self, tries: usize, last: TryOutcome, now: Instant, deadline: Instant, retry: &Retry) -> bool {
        tries <= retry.attempts && now < deadline && last.is_hopeful(tries) && (last.is_untouched() || self.always())
    }
}

#[cfg(test)]
mod tests;
