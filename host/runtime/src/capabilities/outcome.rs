//! The outcome of operations on the state of a service, as metrics name it.

use lodge_state::Error;

/// Returns the outcome of a failed operation.
pub(super) fn outcome(error: &Error) -> &'static str {
    match error {
        Error::Invalid { .. } => "invalid",
        Error::TooLarge { .. } => "too-large",
        Error::QuotaExceeded { .. } => "quota",
        Error::Conflict | Error::LeaseEnded => "conflict",
        Error::NotANumber | Error::Overflow => "not-a-number",
        Error::Timeout => "timeout",
        Error::Unavailable { .. } => "unavailable",
    }
}
