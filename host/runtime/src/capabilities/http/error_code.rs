//! The error codes of `wasi:http` that a guest returns instead of a response.

use http::StatusCode;
use wasmtime_wasi_http::Error;

use lodge_traffic::error::{GuestCode, RequestError};

/// Returns the error of a request whose guest returned this code.
pub fn request_error(code: &Error) -> RequestError {
    RequestError::Guest(GuestCode { status: status(code), name: code.to_string() })
}

/// Returns the nearest status to a code.
fn status(code: &Error) -> StatusCode {
    match code {
        Error::DnsTimeout
        | Error::ConnectionTimeout
        | Error::ConnectionReadTimeout
        | Error::ConnectionWriteTimeout
        | Error::HttpResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
        Error::HttpRequestBodySize(_) => StatusCode::PAYLOAD_TOO_LARGE,
        Error::HttpRequestDenied => StatusCode::FORBIDDEN,
        Error::HttpRequestLengthRequired => StatusCode::LENGTH_REQUIRED,
        Error::HttpRequestUriInvalid => StatusCode::BAD_REQUEST,
        Error::HttpRequestUriTooLong => StatusCode::URI_TOO_LONG,
        Error::HttpRequestHeaderSectionSize(_)
        | Error::HttpRequestHeaderSize { .. }
        | Error::HttpRequestTrailerSectionSize(_)
        | Error::HttpRequestTrailerSize { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Error::LoopDetected => StatusCode::LOOP_DETECTED,
        _ => StatusCode::BAD_GATEWAY,
    }
}

#[cfg(test)]
mod tests {
    use lodge_traffic::admission::Verdict;

    use super::*;

    #[test]
    fn a_denied_request_does_not_count_against_the_service() {
        assert_eq!(request_error(&Error::InternalError(None)).verdict(), Some(Verdict::Failed));
        assert_eq!(request_error(&Error::HttpRequestDenied).verdict(), Some(Verdict::Good));
    }
}
