//! Why there is no certificate.

use std::fmt;

use instant_acme::{Error, Problem};
use lodge_base::telemetry::logs::foreign_line;

/// The most characters of a text of the authority in a message.
const MOST_TEXT: usize = 600;

/// Why an attempt to get a certificate failed.
#[derive(Debug)]
pub(super) struct OrderFailure {
    pub(super) kind: FailureKind,
    /// One line.
    pub(super) why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// The authority was not reached, or what it sent was no response. It knows of no attempt.
    Unreachable,
    /// The authority took none of several nonces (RFC 8555 6.5), as it does after it was started anew. It has judged nothing.
    Nonce,
    /// The authority refuses the order, or has seen no proof.
    Refused,
    /// The authority does not know the account, so it needs a new one.
    UnknownAccount,
    /// The certificate cannot be used or stored.
    Unusable,
    /// The certificate is in use, and to be renewed at once.
    DueAtOnce,
}

impl FailureKind {
    /// Returns its name in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unreachable | Self::Nonce => "unreachable",
            Self::Refused | Self::UnknownAccount => "refused",
            Self::Unusable | Self::DueAtOnce => "unusable",
        }
    }
}

impl OrderFailure {
    pub(super) fn new(kind: FailureKind, why: impl Into<String>) -> Self {
        Self { kind, why: why.into() }
    }

    pub(super) fn refused(why: impl Into<String>) -> Self {
        Self::new(FailureKind::Refused, why)
    }

    pub(super) fn unusable(why: impl fmt::Display) -> Self {
        Self::new(FailureKind::Unusable, printable(&why.to_string()))
    }

    /// Marks a failure that the authority may have counted: an order exists.
    pub(super) fn counted(mut self) -> Self {
        if self.kind == FailureKind::Unreachable {
            self.kind = FailureKind::Refused;
        }
        self
    }
}

impl From<Error> for OrderFailure {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(problem) if is(&problem, "accountDoesNotExist") => {
                Self::new(FailureKind::UnknownAccount, said(&problem))
            }
            Error::Api(problem) if is(&problem, "badNonce") => Self::new(FailureKind::Nonce, said(&problem)),
            Error::Api(problem) => Self::refused(said(&problem)),
            Error::Timeout(_) => Self::refused("the authority did not decide in time"),
            Error::Json(error) => {
                let why =
                    format!("it responds with something else than ACME ({error}); is `tls.acme.directory` right?");
                Self::new(FailureKind::Unreachable, printable(&why))
            }
            error => Self::new(FailureKind::Unreachable, printable(&error.to_string())),
        }
    }
}

fn is(problem: &Problem, kind: &str) -> bool {
    problem.r#type.as_deref().and_then(|name| name.strip_prefix("urn:ietf:params:acme:error:")) == Some(kind)
}

/// Returns what the authority says, as one line.
pub(super) fn said(problem: &Problem) -> String {
    let mut text = problem.detail.clone().unwrap_or_else(|| "no reason given".into());
    for part in problem.subproblems.iter().take(3) {
        text.push_str(&format!("; {part}"));
    }
    if let Some(kind) = &problem.r#type {
        text.push_str(&format!(" ({})", kind.rsplit(':').next().unwrap_or(kind)));
    }
    printable(&text)
}

/// Bounds a text of another program, which may have control characters.
pub(super) fn printable(text: &str) -> String {
    foreign_line(text, MOST_TEXT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_authority_is_a_wrong_directory() {
        let error = serde_json::from_str::<u8>("\"a\"").unwrap_err();
        let failure = OrderFailure::from(Error::Json(error));
        assert_eq!(failure.kind, FailureKind::Unreachable);
        assert!(failure.why.starts_with("it responds with something else than ACME (invalid type"), "{}", failure.why);
        assert!(failure.why.ends_with("; is `tls.acme.directory` right?"), "{}", failure.why);
    }
}
