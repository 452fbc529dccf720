//! Why a request is not passed on.

use http::header::{self, HeaderName, HeaderValue};

use super::OtherType;
use super::evaluation::SchemaError;
use super::json::JsonFault;

/// Why a request is not passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValidationFault {
    /// A service may read its path in several ways, one of which may be another operation.
    #[error("the path has another spelling: write it without `//`, `;`, `%2F` and `\\`")]
    Ambiguous,
    /// The API has no such path.
    #[error("the API of the service does not have this path")]
    Path,
    /// The path has other methods: these, in the form of the `Allow` header.
    #[error("the API of the service does not have this method for this path")]
    Method(String),
    /// Its parameters are not those of the operation.
    #[error("the request does not have the parameters that the API of the service describes")]
    Parameters(Vec<SchemaError>),
    /// Its body has another `Content-Type` than these.
    #[error("the request body must be of type {}, and in UTF-8 if it is JSON", .0.accepted())]
    Type(OtherType),
    /// Its body is compressed, so that it cannot be read.
    #[error("the request body must not be compressed")]
    Coding,
    /// It has no body.
    #[error("the request has no body")]
    Missing,
    /// It has a body, and the operation has none.
    #[error("the request must not have a body")]
    Unexpected,
    /// Its body is not JSON, or not within the bounds.
    #[error("the request body is not JSON that this service takes")]
    Json(JsonFault),
    /// Its body does not meet the schema.
    #[error("the request body does not meet the schema of this service")]
    Schema(Vec<SchemaError>),
    /// Its body takes too long to check.
    #[error("the request body is too complex to be checked")]
    Complex,
    /// There is no memory to hold its body, or the file that says what it has to be was not read yet.
    #[error("the host cannot check the request now")]
    Unavailable,
}

impl ValidationFault {
    /// Returns the errors by their places in the body or the parameters.
    pub fn errors(&self) -> &[SchemaError] {
        if let Self::Schema(errors) | Self::Parameters(errors) = self { errors } else { &[] }
    }

    /// Returns what else is known, for clients as well as operators. It has nothing of the body.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Json(fault) => Some(fault.to_string()),
            Self::Type(of) => Some(of.to_string()),
            _ => None,
        }
    }

    /// Returns the first error, for the log. It has no value of the request, but keys.
    pub fn first(&self) -> Option<String> {
        let first = self.errors().first()?;
        let more = self.errors().len().saturating_sub(1);
        let more = if more == 0 { String::new() } else { format!("; {more} more") };
        let of = match &first.parameter {
            Some(parameter) => format!("{parameter}{}", first.pointer),
            None if first.pointer.is_empty() => "the body".to_owned(),
            None => first.pointer.clone(),
        };
        Some(format!("{of}: {}{more}", first.message))
    }

    /// Returns the same of the body of a response, for its developer.
    pub fn of_response(&self) -> String {
        let what = match self {
            Self::Type(_) => "the body is not of a type that the document has",
            Self::Coding => "the body is compressed, so that it cannot be checked",
            Self::Missing => "the body is missing",
            Self::Json(_) => "the body is not JSON",
            Self::Schema(_) => "the body does not meet the schema",
            _ => "the body cannot be checked",
        };
        match self.first().or_else(|| self.detail()) {
            Some(detail) => format!("{what}: {detail}"),
            None => what.to_owned(),
        }
    }

    /// Returns the field that says what would be accepted.
    pub fn accepts(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::Type(types) => Some((header::ACCEPT, HeaderValue::from_str(types.accepted()).ok()?)),
            Self::Coding => Some((header::ACCEPT_ENCODING, HeaderValue::from_static("identity"))),
            _ => None,
        }
    }
}
