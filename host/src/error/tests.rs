use wasmtime_wasi_http::Error::{HttpRequestDenied, InternalError};

use super::*;

#[test]
fn only_the_service_is_blamed() {
    for (error, verdict) in [
        (RequestError::Trapped(Trap::default()), Some(Verdict::Failed)),
        (RequestError::NoAnswer, Some(Verdict::Failed)),
        (RequestError::Guest(InternalError(None)), Some(Verdict::Failed)),
        (RequestError::OutgoingDenied, Some(Verdict::Failed)),
        (RequestError::WallTime, Some(Verdict::Late)),
        (RequestError::CpuTime, Some(Verdict::Late)),
        (RequestError::Guest(HttpRequestDenied), Some(Verdict::Good)),
        (RequestError::BodyTooLarge, None),
        (RequestError::BodyLate, None),
        (RequestError::BodyBroken, None),
        (RequestError::QueueFull, None),
        (RequestError::Unavailable(String::new()), None),
    ] {
        assert_eq!(error.verdict(), verdict, "{error:?}");
    }
}
