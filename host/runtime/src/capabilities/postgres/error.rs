//! The errors of the interfaces.

use lodge_state::postgres::{PostgresError, PostgresReport};
use wasmtime::component::{ComponentType, Lift, Lower};

use super::super::outcome::cut;

/// What guests receive instead of the reason for which there is no connection, which may name servers and users.
pub(super) const UNREACHABLE: &str = "the database cannot be reached: try again later; the log of the host says why";

/// What guests receive for a database that is not granted.
const DENIED: &str = "the manifest of the service grants no such database";

/// The most bytes of an error's text that a guest receives.
pub(super) const TEXT: usize = 1 << 10;

/// Why a call of a guest fails.
pub(super) enum CallFailure {
    /// The manifest does not grant the database.
    Denied,
    /// The host does not do what the guest wants: why, and what to do.
    Refused(String),
    /// The statement failed.
    Statement(PostgresError),
}

impl From<PostgresError> for CallFailure {
    fn from(error: PostgresError) -> Self {
        Self::Statement(error)
    }
}

/// The error of the interfaces, of which each has another payload for statements that failed.
#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(variant)]
pub(super) enum Error<Q> {
    #[component(name = "connection-failed")]
    ConnectionFailed(String),
    #[component(name = "bad-parameter")]
    BadParameter(String),
    #[component(name = "query-failed")]
    QueryFailed(Q),
    /// Part of the interface. A value without a form there is `unsupported`.
    #[component(name = "value-conversion-failed")]
    ValueConversionFailed(String),
    #[component(name = "other")]
    Other(String),
}

/// Why a statement failed, with what the server reports of it.
#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(variant)]
pub(super) enum QueryError {
    #[component(name = "text")]
    Text(String),
    #[component(name = "db-error")]
    DbError(DbError),
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
pub(super) struct DbError {
    #[component(name = "as-text")]
    as_text: String,
    severity: String,
    code: String,
    message: String,
    detail: Option<String>,
    extras: Vec<(String, String)>,
}

/// What an interface tells of a statement that failed.
pub(super) trait FailedQuery {
    /// `report` is that of the server, if it has refused the statement, and `text` says the same.
    fn new(text: String, report: Option<&PostgresReport>) -> Self;
}

impl FailedQuery for String {
    fn new(text: String, _: Option<&PostgresReport>) -> Self {
        text
    }
}

impl FailedQuery for QueryError {
    fn new(text: String, report: Option<&PostgresReport>) -> Self {
        let Some(report) = report else { return Self::Text(text) };
        let short = |text: &String| cut(text, TEXT).to_owned();
        Self::DbError(DbError {
            as_text: text,
            severity: short(&report.severity),
            code: short(&report.code),
            message: short(&report.message),
            detail: report.detail.as_ref().map(short),
            extras: report.extras.iter().map(|(name, text)| ((*name).to_owned(), short(text))).collect(),
        })
    }
}

impl<Q: FailedQuery> From<CallFailure> for Error<Q> {
    fn from(failure: CallFailure) -> Self {
        let error = match failure {
            CallFailure::Denied => return Self::ConnectionFailed(DENIED.into()),
            CallFailure::Refused(why) => return Self::Other(why),
            CallFailure::Statement(error) => error,
        };
        let text = cut(&error.to_string(), TEXT).to_owned();
        match error {
            // The reason is for operators.
            PostgresError::Unreachable(_) => Self::ConnectionFailed(UNREACHABLE.into()),
            PostgresError::Busy | PostgresError::Lost | PostgresError::Ended => Self::ConnectionFailed(text),
            PostgresError::Parameter { .. } => Self::BadParameter(text),
            PostgresError::Failed(report) => Self::QueryFailed(Q::new(text, Some(&report))),
            PostgresError::Timeout => Self::QueryFailed(Q::new(text, None)),
            PostgresError::TooLarge { .. } => Self::Other(text),
        }
    }
}
