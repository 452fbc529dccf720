//! What the result of an attempt means for its replica, for the metrics, and for the client.

use super::{AttemptResult, Failure};
use crate::proxy::body::BodyError;
use crate::upstreams::retry::TryOutcome;
use crate::upstreams::transport::ErrorKind;

pub(super) fn outcome(result: &AttemptResult) -> TryOutcome {
    match result {
        Ok(response) => TryOutcome::Responded(response.status()),
        Err(error) => match error.kind {
            ErrorKind::Connect | ErrorKind::ConnectTimeout | ErrorKind::Tls => TryOutcome::Unconnected,
            ErrorKind::Overloaded | ErrorKind::Unsendable | ErrorKind::Upload | ErrorKind::Refused => {
                TryOutcome::Unsent
            }
            ErrorKind::Reset if error.reused => TryOutcome::Closed,
            ErrorKind::Reset | ErrorKind::Rubbish => TryOutcome::Reset,
            ErrorKind::ReadTimeout => TryOutcome::TimedOut,
        },
    }
}

/// Returns the reason of a failed attempt for the metrics; `None` for success.
pub(super) fn failure_reason(result: &AttemptResult) -> Option<&'static str> {
    Some(match result {
        Ok(response) if TryOutcome::Responded(response.status()).verdict() == Some(true) => return None,
        Ok(_) => "gateway-error",
        Err(error) => failed(error.kind),
    })
}

/// Returns the reason of an error for the metrics.
pub(super) fn failed(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Connect | ErrorKind::ConnectTimeout | ErrorKind::Tls => "unconnected",
        ErrorKind::Overloaded => "overloaded",
        ErrorKind::Unsendable | ErrorKind::Upload => "request-failed",
        ErrorKind::Refused => "unsent",
        ErrorKind::Reset => "reset",
        ErrorKind::Rubbish => "rubbish",
        ErrorKind::ReadTimeout => "timed-out",
    }
}

pub(super) fn failure(kind: ErrorKind, cause: String) -> Failure {
    match kind {
        ErrorKind::Overloaded => Failure::Overloaded(cause),
        ErrorKind::Upload => Failure::Body(BodyError::Broken),
        ErrorKind::Unsendable => Failure::Request(cause),
        ErrorKind::ConnectTimeout | ErrorKind::ReadTimeout => Failure::TimedOut(cause),
        ErrorKind::Connect | ErrorKind::Tls | ErrorKind::Refused | ErrorKind::Reset | ErrorKind::Rubbish => {
            Failure::Response(cause)
        }
    }
}
