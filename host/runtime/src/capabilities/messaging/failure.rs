//! Why a message was not sent.

use lodge_state::Error;

use super::super::outcome::guest_text;
use super::NO_REPLY;

/// Why a message was not sent, or had no reply.
#[derive(Debug)]
pub(super) struct MessageFailure {
    pub(super) kind: MessageFailureKind,
    /// The same in words, for the developer of the guest.
    pub(super) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageFailureKind {
    Subject,
    Denied,
    Timeout,
    Unavailable,
    TooLarge,
    Quota,
    Other,
}

impl MessageFailure {
    pub(super) fn new(kind: MessageFailureKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// A subject that is none.
    pub(super) fn subject(error: &Error) -> Self {
        Self::new(MessageFailureKind::Subject, error.to_string())
    }
}

impl From<String> for MessageFailure {
    fn from(text: String) -> Self {
        Self::new(if text == NO_REPLY { MessageFailureKind::Timeout } else { MessageFailureKind::Other }, text)
    }
}

impl From<&str> for MessageFailure {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<Error> for MessageFailure {
    fn from(error: Error) -> Self {
        match error {
            Error::QuotaExceeded { limit, resource, .. } => Self::new(
                MessageFailureKind::Quota,
                format!("a consumer of the subject has {limit} {resource} of messages waiting: try again later"),
            ),
            Error::Timeout => {
                let text = "the message was not stored in time: it may be delivered nevertheless";
                Self::new(MessageFailureKind::Timeout, text)
            }
            Error::TooLarge { .. } => Self::new(MessageFailureKind::TooLarge, guest_text(&error)),
            Error::Invalid { .. } => Self::new(MessageFailureKind::Other, guest_text(&error)),
            _ => Self::new(MessageFailureKind::Unavailable, guest_text(&error)),
        }
    }
}
