use super::*;

#[test]
fn only_failures_of_the_service_count() {
    for (error, verdict) in [
        (RequestError::Trapped(Trap::default()), Some(Verdict::Failed)),
        (RequestError::NoAnswer, Some(Verdict::Failed)),
        (RequestError::OutgoingDenied, Some(Verdict::Failed)),
        (RequestError::WallTime, Some(Verdict::Late)),
        (RequestError::CpuTime, Some(Verdict::Late)),
        (RequestError::BodyTooLarge, None),
        (RequestError::BodyLate, None),
        (RequestError::BodyBroken, None),
        (RequestError::QueueFull, None),
        (RequestError::Unavailable(String::new()), None),
    ] {
        assert_eq!(error.verdict(), verdict, "{error:?}");
    }
}
