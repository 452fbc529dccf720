//! Failed operations on the state of a service: their outcomes, as metrics name them, their texts, as guests receive them, and
//! the lines about outages.

use std::time::Instant;

use lodge_state::Error;
use lodge_traffic::service::Service;

/// The most bytes of a reason in a log line. Parts of it may come from a server.
const REASON: usize = 512;

/// What guests receive instead of the reason for which a store is unavailable. That is for the operator: it may name servers,
/// files and users.
pub(super) const UNAVAILABLE: &str = "the store is unavailable: try again later; the log of the host says why";

/// Returns the outcome of a failed operation.
pub(super) fn outcome(error: &Error) -> &'static str {
    match error {
        Error::Invalid { .. } => "invalid",
        Error::TooLarge { .. } => "too-large",
        Error::QuotaExceeded { .. } => "quota",
        Error::Denied { .. } => "denied",
        Error::Conflict | Error::LeaseEnded => "conflict",
        Error::NotANumber | Error::Overflow => "not-a-number",
        Error::Timeout => "timeout",
        Error::Unavailable { .. } => "unavailable",
    }
}

/// Returns the text of an error for guests: limits and names of settings, and nothing of the host.
pub(super) fn guest_text(error: &Error) -> String {
    if let Error::Unavailable { .. } = error { UNAVAILABLE.into() } else { error.to_string() }
}

/// Logs that the state of a service is unavailable, once a minute for each reason.
pub(super) fn log_if_unavailable(service: &Service, error: &Error) {
    if let Error::Unavailable { reason } = error {
        log_outage(service, "its state", reason);
    }
}

/// Logs for which reason `what` of a service is unavailable, once a minute for each reason.
pub(super) fn log_outage(service: &Service, what: &str, reason: &str) {
    let line = format!("{what} is unavailable: {}", cut(reason, REASON));
    let Some(unsaid) = service.record_outage(Instant::now(), &line) else { return };
    let unsaid = (unsaid > 0).then_some(unsaid);
    tracing::warn!(service = &*service.name, unsaid, "{line}");
}

/// Returns the beginning of a text, at most `most` bytes of it.
pub(super) fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_learn_nothing_of_the_host() {
        let error = Error::unavailable("cannot connect to Redis at db.internal: the user me is wrong");
        assert_eq!(guest_text(&error), UNAVAILABLE);
        assert!(guest_text(&Error::Overflow).contains("64 bits"));
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("aä", 2), "a");
        assert_eq!(cut("aä", 3), "aä");
        assert_eq!(cut("a", 512), "a");
    }
}
