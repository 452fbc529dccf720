//! Whether a request may be sent again, by what became of it.
//!
//! Two questions: may it be done twice, and is there hope that another try ends otherwise. Whether there is room for one
//! is the [`budget`](super::budget)'s, and asked last. Nothing of an answer may have been passed on yet: an [`TryOutcome`] is
//! only what is known up to its head.

use std::time::Instant;

use http::{Method, StatusCode};

use crate::manifest::upstream::Retry;

/// What became of one try, up to the head of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryOutcome {
    /// No connection: refused, unreachable, no name, TLS failed, or not in time. The replica saw nothing.
    Unconnected,
    /// Nothing of it was sent, or the replica says that it did not look at it (HTTP/2 REFUSED_STREAM, GOAWAY), and
    /// nothing is wrong with the replica.
    Unsent,
    /// A connection that had served before broke when some of it may have been sent. Most likely it was just being closed
    /// for having been idle, which says nothing about the replica.
    Closed,
    /// A new connection broke when some of it may have been sent.
    Reset,
    /// There was no head in time.
    TimedOut,
    /// The head of an answer.
    Answered(StatusCode),
}

/// What a request must say of itself before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeatable {
    /// To do it twice is to do it once, by its method.
    idempotent: bool,
    /// It asks for nothing to be done at all, by its method.
    safe: bool,
    /// It has no body, or one that is kept.
    replayable: bool,
}

impl TryOutcome {
    /// Whether it speaks for the replica or against it; nothing when it says nothing.
    pub fn verdict(self) -> Option<bool> {
        match self {
            Self::Unconnected | Self::Reset | Self::TimedOut => Some(false),
            Self::Unsent | Self::Closed => None,
            Self::Answered(status) => Some(!is_gateway(status)),
        }
    }

    /// Whether the replica certainly did nothing.
    fn is_untouched(self) -> bool {
        matches!(self, Self::Unconnected | Self::Unsent)
    }

    /// Whether another replica has to be there for the next try: one that hangs would only hang again.
    pub fn needs_another(self) -> bool {
        self == Self::TimedOut
    }

    /// Whether the next one after so many tries may well end otherwise. A first time-out may be the replica's; after
    /// another try it is more likely the request that takes so long, or everybody.
    fn is_hopeful(self, tries: usize) -> bool {
        match self {
            Self::Unconnected | Self::Unsent | Self::Closed | Self::Reset => true,
            Self::TimedOut => tries == 1,
            Self::Answered(status) => is_gateway(status),
        }
    }
}

/// What is said when it is not the request's fault, and may pass.
fn is_gateway(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

impl Repeatable {
    /// Of a request with this method, whose body is none or `replayable`.
    pub fn new(method: &Method, replayable: bool) -> Self {
        let idempotent =
            [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE].contains(method);
        Self { idempotent, safe: method.is_safe(), replayable }
    }

    /// Whether it may be sent twice whatever becomes of the first time.
    pub fn always(self) -> bool {
        self.idempotent && self.replayable
    }

    /// Whether it may be under way twice. The slower one goes on when the client has its answer, and may then undo what the
    /// client does next: a second DELETE does what the first did, unless there was a PUT in between.
    pub fn hedges(self) -> bool {
        self.safe && self.replayable
    }

    /// Whether it may be sent again, after so many tries of which the last ended like this.
    pub fn again(self, tries: usize, last: TryOutcome, now: Instant, deadline: Instant, retry: &Retry) -> bool {
        tries <= retry.attempts && now < deadline && last.is_hopeful(tries) && (last.is_untouched() || self.always())
    }
}

#[cfg(test)]
mod tests;
