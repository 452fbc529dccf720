//! Why requests fail, by what the server says.

use std::fmt;

use http::StatusCode;
use lodge_state::blobs::BlobError;

use crate::xml;

/// The most bytes of an error, and of a response to a request that has no content.
pub(crate) const MAX_ERROR: usize = 64 << 10;

/// An attempt that has failed.
pub(crate) struct FailedAttempt {
    pub(crate) failure: S3Failure,
    /// Whether another attempt may succeed.
    pub(crate) passing: bool,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum S3Failure {
    /// There is nothing with this key.
    Missing,
    /// A condition does not hold.
    Changed,
    /// The range begins after the end of the object, which has this many bytes.
    BeyondEnd,
    /// Another reason.
    Other(BlobError),
}

impl From<BlobError> for S3Failure {
    fn from(error: BlobError) -> Self {
        Self::Other(error)
    }
}

impl S3Failure {
    /// The error of a request whose key must exist, and which has no other condition.
    pub(crate) fn or(self, missing: BlobError) -> BlobError {
        match self {
            Self::Missing => missing,
            Self::Changed => unavailable("something was changed by another request at the same time: try again"),
            Self::BeyondEnd => unavailable("the server has refused a range"),
            Self::Other(error) => error,
        }
    }
}

pub(crate) fn unavailable(why: impl fmt::Display) -> BlobError {
    BlobError::Unavailable(format!("S3: {why}"))
}

/// The failure of a response with status 200, which the server begins before it knows how the request ends.
pub(crate) fn late_failure(content: &[u8]) -> Option<FailedAttempt> {
    let document = String::from_utf8_lossy(content);
    let code = xml::text(xml::text(&document, "Error")?, "Code").unwrap_or_default();
    let passing = matches!(code, "InternalError" | "ServiceUnavailable" | "SlowDown" | "RequestTimeout");
    Some(FailedAttempt { failure: named_failure(StatusCode::OK, &document), passing })
}

/// The failure of a document with an `<Error>`.
pub(crate) fn named_failure(status: StatusCode, document: &str) -> S3Failure {
    let code = xml::text(document, "Code").unwrap_or_default();
    let word: String = code.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
    match (status.as_u16(), word.as_str()) {
        (_, "NoSuchBucket") => unavailable("there is no such bucket: create it, or correct `state.blobs`").into(),
        (_, "PreconditionFailed" | "ConditionalRequestConflict") | (412, _) => S3Failure::Changed,
        (_, "InvalidRange") | (416, _) => S3Failure::BeyondEnd,
        (_, "NoSuchKey" | "NoSuchUpload") | (404, _) => S3Failure::Missing,
        (_, "RequestTimeTooSkewed") => unavailable("the clock of this host is not that of the server: set it").into(),
        (301 | 307 | 308 | 400, "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed") => {
            unavailable("the bucket is in another region: correct `region` in `state.blobs`").into()
        }
        (401 | 403, _) => unavailable(format!(
            "the server has refused the key ({word}): correct it, or permit it to list the bucket, and to read, write and delete \
             in it"
        ))
        .into(),
        (501, _) => unavailable(format!("the server cannot do what is needed ({word}): use one that has conditional writes"))
            .into(),
        (status, "") => unavailable(format!("status {status}")).into(),
        (status, word) => unavailable(format!("status {status}, {word}")).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_say_what_to_do() {
        let failure = |status: u16, code: &str| {
            named_failure(StatusCode::from_u16(status).unwrap(), &format!("<Error><Code>{code}</Code></Error>"))
        };
        assert_eq!(failure(404, "NoSuchKey"), S3Failure::Missing);
        assert_eq!(named_failure(StatusCode::NOT_FOUND, ""), S3Failure::Missing);
        assert_eq!(failure(409, "ConditionalRequestConflict"), S3Failure::Changed);
        assert_eq!(failure(416, "InvalidRange"), S3Failure::BeyondEnd);
        for (status, code, text) in [
            (404, "NoSuchBucket", "no such bucket: create it"),
            (403, "SignatureDoesNotMatch", "refused the key (SignatureDoesNotMatch)"),
            (301, "PermanentRedirect", "correct `region`"),
            (403, "RequestTimeTooSkewed", "clock"),
            (503, "SlowDown", "status 503, SlowDown"),
            (500, "<b>\n", "status 500, b"),
        ] {
            let S3Failure::Other(error) = failure(status, code) else { panic!("{code}") };
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn a_failure_after_the_head_may_be_a_passing_one() {
        let passes = |document: &str| late_failure(document.as_bytes()).map(|failed| failed.passing);
        assert_eq!(passes("<?xml?>\n<Error><Code>InternalError</Code></Error>"), Some(true));
        assert_eq!(passes("<Error><Code>NoSuchUpload</Code></Error>"), Some(false));
        assert_eq!(passes("<CopyObjectResult></CopyObjectResult>"), None);
        assert_eq!(passes(""), None);
    }
}
