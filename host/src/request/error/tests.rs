use std::time::Duration;

use lodge_runtime::error::GuestCode;

use super::*;

#[test]
fn only_the_service_is_blamed() {
    let reported = |status| RunError::Reported(GuestCode { status, name: String::new() });
    for (error, verdict, may_have_taken_effect) in [
        (RunError::trapped(String::new(), Vec::new(), None).into(), Some(Verdict::Failed), true),
        (RunError::NoResponse.into(), Some(Verdict::Failed), true),
        (RunError::OutgoingDenied.into(), Some(Verdict::Failed), true),
        (reported(StatusCode::BAD_GATEWAY).into(), Some(Verdict::Failed), true),
        (reported(StatusCode::FORBIDDEN).into(), Some(Verdict::Good), true),
        (RunError::WallTime.into(), Some(Verdict::Late), true),
        (RunError::CpuTime(None).into(), Some(Verdict::Late), true),
        (RequestError::WallTime, Some(Verdict::Late), true),
        (UnexpectedNotModified.into(), Some(Verdict::Failed), true),
        (Failure::Response(String::new()).into(), Some(Verdict::Failed), true),
        (Failure::BrokenOff(String::new()).into(), Some(Verdict::Failed), true),
        (Failure::TimedOut(String::new()).into(), Some(Verdict::Failed), true),
        (BodyError::TooLarge.into(), None, true),
        (RunError::Body(BodyError::Late).into(), None, true),
        (Failure::Body(BodyError::Broken).into(), None, true),
        (Failure::NoReplica.into(), None, false),
        (Failure::Request(String::new()).into(), None, false),
        (FilesError::NotFound.into(), None, false),
        (FilesError::Changed.into(), None, true),
        (EncoderError(String::new()).into(), None, true),
        (FilesError::Unreadable(String::new()).into(), Some(Verdict::Failed), true),
        (Refusal::QueueFull.into(), None, false),
        (RunError::Unavailable(String::new()).into(), None, false),
    ] {
        let error: RequestError = error;
        assert_eq!((error.verdict(), error.may_have_taken_effect()), (verdict, may_have_taken_effect), "{error:?}");
    }
}

/// Temporary errors have a `Retry-After`, permanent ones have none.
#[test]
fn what_passes_can_be_retried() {
    let after = |error: RequestError| error.retry_after();
    for error in [Refusal::Shed, Refusal::QueueFull, Refusal::QueueTimeout] {
        assert_eq!(after(error.into()), Some(1));
    }
    assert_eq!(after(Refusal::Breaker(Duration::from_millis(1_001)).into()), Some(2));
    assert_eq!(after(Failure::TunnelsFull.into()), Some(1));
    assert_eq!(after(RunError::PoolFull(String::new()).into()), Some(1));
    assert_eq!([after(RequestError::Starting), after(RequestError::Disabled)], [Some(1), Some(1)]);
    assert_eq!(after(RequestError::Refused(String::new(), true)), None);
    assert_eq!([after(Refusal::Client.into()), after(RunError::NoResponse.into())], [None, None]);
}
