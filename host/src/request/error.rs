//! The errors of a request: the sum of the errors of the layers below, with the status and the reason of each.
//!
//! The text for clients is the `Display` of the error, where the error is defined. It never contains guest output,
//! paths or details of the host. Those are in [`RequestError::detail`], which is logged with the request id.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, StatusCode};

use lodge_runtime::error::RunError;
use lodge_traffic::admission::rate::RateStatus;
use lodge_traffic::admission::{Refusal, Verdict};
use lodge_traffic::auth::denial::{AuthDenial, DenialKind};
use lodge_traffic::auth::redirect::LoginRedirect;
use lodge_traffic::cache::{FetchError, UnexpectedNotModified};
use lodge_traffic::proxy::body::BodyError;
use lodge_traffic::proxy::compression::encoder::EncoderError;
use lodge_traffic::proxy::headers::Malformed;
use lodge_traffic::proxy::via::TooManyHops;
use lodge_traffic::routing::router::Missed;
use lodge_traffic::rules::{RefusalCause, RuleRefusal};
use lodge_traffic::service::{FailureReport, Service};
use lodge_traffic::static_files::{self, FilesError};
use lodge_traffic::upstreams::send::Failure;
use lodge_traffic::validation::ValidationFault;
use lodge_traffic::validation::evaluation::SchemaError;

/// The reason why a request gets no response from its service.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The request violates HTTP.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The request's head has more fields than the listener allows.
    #[error("the request has too many header fields")]
    TooManyFields,
    /// No route matches the request.
    #[error(transparent)]
    Missed(#[from] Missed),
    /// The service is being compiled.
    #[error("the service is starting")]
    Starting,
    /// The service's files are refused, and no earlier version is served. Contains the reason, and whether clients may
    /// see it.
    #[error("the service is not available")]
    Refused(String, bool),
    /// An operator or its manifest disabled the service.
    #[error("the service is disabled")]
    Disabled,
    /// The chain of calls between services is too long, or an upstream is this host.
    #[error(transparent)]
    TooManyHops(#[from] TooManyHops),
    /// The body of the request is too large, late or broken.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The request has no credentials, or none that suffice.
    #[error(transparent)]
    Denied(#[from] AuthDenial),
    /// Its client had too many failed attempts at credentials. Contains the seconds until the next one is allowed.
    #[error("too many failed attempts")]
    AuthLimited(u32),
    /// A rule of the manifest does not allow the request, or cannot be evaluated.
    #[error(transparent)]
    Rule(Box<RuleRefusal>),
    /// The request is not valid, or cannot be validated.
    #[error(transparent)]
    Invalid(#[from] ValidationFault),
    /// The request was not admitted.
    #[error(transparent)]
    Admission(#[from] Refusal),
    /// The service sent 304 (Not Modified) without a stored response to confirm.
    #[error(transparent)]
    NotModified(#[from] UnexpectedNotModified),
    /// The guest failed.
    #[error(transparent)]
    Guest(#[from] RunError),
    /// No replica responded.
    #[error(transparent)]
    Upstream(#[from] Failure),
    /// The directory of static files has nothing for the request.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The response could not be compressed.
    #[error(transparent)]
    Encoder(#[from] EncoderError),
    /// The response was not complete at the deadline of the request.
    #[error("the service took too long")]
    WallTime,
    /// The service failed near the end of a time that is shorter than its own, by the choice of its caller. Contains the failure.
    #[error("the caller left the service too little time")]
    TooLittleTime(Box<Self>),
}

/// How far a failed request came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Failed {
    /// The request was refused before a guest or a replica worked on it, or the client is at fault.
    Before,
    /// A guest or a replica worked on it.
    At,
}

/// The same as [`RequestError::row`], for static files.
fn files_row(error: &FilesError) -> (StatusCode, &'static str, Failed) {
    use Failed::{At, Before};
    match error {
        FilesError::Late => (StatusCode::GATEWAY_TIMEOUT, "wall-time", At),
        FilesError::NotFound => (StatusCode::NOT_FOUND, "no-file", Before),
        FilesError::Method => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", Before),
        FilesError::Precondition => (StatusCode::PRECONDITION_FAILED, "precondition-failed", Before),
        FilesError::Range(_) => (StatusCode::RANGE_NOT_SATISFIABLE, "bad-range", Before),
        FilesError::NoRoot(_) => (StatusCode::SERVICE_UNAVAILABLE, "no-files", At),
        FilesError::Unreadable(_) | FilesError::Changed => (StatusCode::INTERNAL_SERVER_ERROR, "unreadable-file", At),
    }
}

impl RequestError {
    /// Returns the status, the reason, and how far the request came. The match has no wildcard, so a new error needs
    /// all three.
    fn row(&self) -> (StatusCode, &'static str, Failed) {
        use Failed::{At, Before};
        use ValidationFault as Fault;
        match self {
            Self::Malformed(Malformed::Head(_) | Malformed::Framing) | Self::Missed(Missed::Ambiguous) => {
                (StatusCode::BAD_REQUEST, "bad-request", Before)
            }
            Self::TooManyFields => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too-many-fields", Before),
            Self::Missed(Missed::Route) => (StatusCode::NOT_FOUND, "no-route", Before),
            Self::Missed(Missed::Method(_)) => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", Before),
            Self::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting", Before),
            Self::Refused(..) => (StatusCode::SERVICE_UNAVAILABLE, "refused", Before),
            Self::Disabled => (StatusCode::SERVICE_UNAVAILABLE, "disabled", Before),
            Self::TooManyHops(_) => (StatusCode::LOOP_DETECTED, "call-depth", Before),
            Self::Body(body) | Self::Guest(RunError::Body(body)) | Self::Upstream(Failure::Body(body)) => match body {
                BodyError::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", Before),
                BodyError::Late => (StatusCode::REQUEST_TIMEOUT, "body-late", Before),
                BodyError::Broken => (StatusCode::BAD_REQUEST, "body-broken", Before),
            },
            Self::Denied(denial) if denial.login.is_some() => (StatusCode::FOUND, "auth-missing", Before),
            Self::Denied(denial) => match denial.cause.kind() {
                DenialKind::Missing => (StatusCode::UNAUTHORIZED, "auth-missing", Before),
                DenialKind::Invalid => (StatusCode::UNAUTHORIZED, "auth-invalid", Before),
                DenialKind::Insufficient => (StatusCode::FORBIDDEN, "auth-insufficient", Before),
                DenialKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "auth-unavailable", Before),
            },
            Self::AuthLimited(_) => (StatusCode::TOO_MANY_REQUESTS, "auth-limited", Before),
            Self::Rule(refusal) => match refusal.cause {
                RefusalCause::Denied(..) => (refusal.status(), "rule-denied", Before),
                RefusalCause::Failed(_) => (refusal.status(), "rule-failed", Before),
            },
            Self::Invalid(fault) => match fault {
                Fault::Ambiguous => (StatusCode::BAD_REQUEST, "bad-request", Before),
                Fault::Path => (StatusCode::NOT_FOUND, "no-operation", Before),
                Fault::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", Before),
                Fault::Parameters(_) => (StatusCode::BAD_REQUEST, "parameter-invalid", Before),
                Fault::Type(_) | Fault::Coding => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "body-type", Before),
                Fault::Missing | Fault::Json(_) => (StatusCode::BAD_REQUEST, "body-not-json", Before),
                Fault::Unexpected => (StatusCode::BAD_REQUEST, "body-unexpected", Before),
                Fault::Schema(_) => (StatusCode::UNPROCESSABLE_ENTITY, "body-invalid", Before),
                Fault::Complex => (StatusCode::UNPROCESSABLE_ENTITY, "body-complex", Before),
                Fault::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "body-unchecked", Before),
            },
            Self::Admission(Refusal::Client) => (StatusCode::FORBIDDEN, "client-denied", Before),
            Self::Admission(Refusal::Rate(_)) => (StatusCode::TOO_MANY_REQUESTS, "rate-limited", Before),
            Self::Admission(Refusal::Breaker(_)) => (StatusCode::SERVICE_UNAVAILABLE, "breaker-open", Before),
            Self::Admission(Refusal::Shed) => (StatusCode::SERVICE_UNAVAILABLE, "shed", Before),
            Self::Admission(Refusal::QueueFull) => (StatusCode::SERVICE_UNAVAILABLE, "queue-full", Before),
            Self::Admission(Refusal::QueueTimeout) => (StatusCode::SERVICE_UNAVAILABLE, "queue-timeout", Before),
            Self::Guest(RunError::PoolFull(_)) => (StatusCode::SERVICE_UNAVAILABLE, "pool-full", Before),
            Self::Guest(RunError::Unavailable(_)) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", Before),
            Self::Guest(RunError::Trapped(_)) => (StatusCode::BAD_GATEWAY, "trapped", At),
            Self::Guest(RunError::NoResponse) => (StatusCode::BAD_GATEWAY, "no-answer", At),
            Self::Guest(RunError::OverMemory(_)) => (StatusCode::BAD_GATEWAY, "over-memory", At),
            Self::Guest(RunError::InvalidResponse(_)) | Self::NotModified(_) => {
                (StatusCode::BAD_GATEWAY, "bad-answer", At)
            }
            Self::Guest(RunError::Reported(code)) => (code.status, "guest-error", At),
            Self::Guest(RunError::OutgoingDenied) => (StatusCode::BAD_GATEWAY, "outgoing-denied", At),
            Self::Guest(RunError::WallTime) | Self::WallTime => (StatusCode::GATEWAY_TIMEOUT, "wall-time", At),
            Self::TooLittleTime(_) => (StatusCode::GATEWAY_TIMEOUT, "caller-deadline", At),
            Self::Encoder(_) => (StatusCode::INTERNAL_SERVER_ERROR, "encoder-failed", At),
            Self::Guest(RunError::CpuTime(_)) => (StatusCode::GATEWAY_TIMEOUT, "cpu-time", At),
            Self::Files(error) => files_row(error),
            Self::Upstream(Failure::NoReplica) => (StatusCode::SERVICE_UNAVAILABLE, "no-replica", Before),
            Self::Upstream(Failure::Overloaded(_)) => (StatusCode::SERVICE_UNAVAILABLE, "upstream-busy", Before),
            Self::Upstream(Failure::TunnelsFull) => (StatusCode::SERVICE_UNAVAILABLE, "tunnels-full", Before),
            Self::Upstream(Failure::TimedOut(_)) => (StatusCode::GATEWAY_TIMEOUT, "upstream-timeout", At),
            Self::Upstream(Failure::Response(_) | Failure::BrokenOff(_)) => {
                (StatusCode::BAD_GATEWAY, "upstream-failed", At)
            }
            Self::Upstream(Failure::Request(_)) => (StatusCode::BAD_REQUEST, "unforwardable", Before),
        }
    }

    /// Returns the response's status.
    pub fn status(&self) -> StatusCode {
        self.row().0
    }

    /// Returns a short name that never changes: the `type` of the problem body and the `reason` of the log line.
    pub fn reason(&self) -> &'static str {
        self.row().1
    }

    /// Whether the client is to take what it asked for as unknown: a rule says so, without a message.
    pub fn denies_existence(&self) -> bool {
        let Self::Rule(refusal) = self else { return false };
        refusal.status() == StatusCode::NOT_FOUND && refusal.message().is_none()
    }

    /// Whether a guest or a replica worked on the request and failed.
    pub fn reached_backend(&self) -> bool {
        self.row().2 == Failed::At
    }

    /// Returns the outcome that counts for the service; `None` if the request was refused or its client is at fault.
    pub fn verdict(&self) -> Option<Verdict> {
        match self {
            _ if !self.reached_backend() => None,
            // A file that changes while it is sent is no failure of the service, and neither is one of the host.
            Self::Files(FilesError::Changed) | Self::Encoder(_) | Self::TooLittleTime(_) => None,
            Self::WallTime | Self::Files(FilesError::Late) | Self::Guest(RunError::WallTime | RunError::CpuTime(_)) => {
                Some(Verdict::Late)
            }
            _ if self.status().is_server_error() => Some(Verdict::Failed),
            _ => Some(Verdict::Good),
        }
    }

    /// Returns details for the operator, which clients must not see.
    pub fn detail(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Guest(error) => error.detail(),
            Self::Upstream(Failure::Overloaded(detail) | Failure::TimedOut(detail)) => Some(detail.into()),
            Self::Upstream(Failure::Response(detail) | Failure::BrokenOff(detail) | Failure::Request(detail)) => {
                Some(detail.into())
            }
            Self::Files(FilesError::NoRoot(detail) | FilesError::Unreadable(detail)) => Some(detail.into()),
            Self::Files(FilesError::Changed) => {
                Some("write a new file and rename it, in place of writing to the old one".into())
            }
            Self::Denied(denial) => Some(match &denial.key {
                Some(key) => format!("{}, key {key}", denial.cause.name()).into(),
                None => denial.cause.name().into(),
            }),
            Self::Rule(refusal) => Some(refusal.detail().into()),
            Self::Invalid(fault) => fault.first().or_else(|| fault.detail()).map(Cow::from),
            Self::Encoder(EncoderError(cause)) => Some(cause.into()),
            Self::TooLittleTime(failure) => Some(match failure.detail() {
                Some(detail) => format!("{}: {detail}", failure.reason()).into(),
                None => failure.reason().into(),
            }),
            Self::NotModified(_) => Some("304 (Not Modified) to a request without conditions".into()),
            _ => None,
        }
    }

    /// Returns details that clients may see: what a rule says to them, where a body is not JSON, and what `lodge dev` shows to developers.
    pub fn explanation(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Refused(why, true) => Some(why.into()),
            Self::Denied(denial) => denial.advice().map(Cow::from),
            Self::Rule(refusal) => refusal.message().map(Cow::from),
            Self::Invalid(fault) => fault.detail().map(Cow::from),
            _ => None,
        }
    }

    /// Returns what is wrong with the parameters, or the parts of the body.
    pub fn errors(&self) -> &[SchemaError] {
        if let Self::Invalid(fault) = self { fault.errors() } else { &[] }
    }

    /// Returns the field that says which bodies are accepted.
    pub fn accepts(&self) -> Option<(HeaderName, HeaderValue)> {
        if let Self::Invalid(fault) = self { fault.accepts() } else { None }
    }

    /// Returns the guest's backtrace, innermost frame first.
    fn backtrace(&self) -> &[String] {
        if let Self::Guest(RunError::Trapped(trap)) = self { &trap.frames } else { &[] }
    }

    /// Returns the file of the component in front of the service that failed, if it was one.
    pub fn part(&self) -> Option<&str> {
        if let Self::Guest(error) = self { error.part() } else { None }
    }

    /// Returns the value of the `Allow` field: the allowed methods.
    pub fn allow(&self) -> Option<&str> {
        match self {
            Self::Missed(Missed::Method(allow)) | Self::Invalid(ValidationFault::Method(allow)) => Some(allow),
            Self::Files(FilesError::Method) => Some(static_files::METHODS),
            _ => None,
        }
    }

    /// Returns the value of `Content-Range` that says how large a file is of which there is no such range.
    pub fn size(&self) -> Option<HeaderValue> {
        let Self::Files(FilesError::Range(size)) = self else { return None };
        HeaderValue::try_from(format!("bytes */{size}")).ok()
    }

    /// Returns the values of the `WWW-Authenticate` field: the credentials that are accepted.
    pub fn challenges(&self) -> &[HeaderValue] {
        if let Self::Denied(denial) = self { &denial.challenges } else { &[] }
    }

    /// Returns where a browser can log in, in place of the refusal.
    pub fn login(&self) -> Option<&LoginRedirect> {
        if let Self::Denied(denial) = self { denial.login.as_deref() } else { None }
    }

    /// Returns the value of `Retry-After` in seconds; `None` if a retry is not expected to help.
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Self::Admission(Refusal::Rate(status)) => Some(status.retry_after()),
            Self::AuthLimited(seconds) => Some((*seconds).max(1)),
            Self::Admission(Refusal::Breaker(wait)) => {
                Some(u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX).max(1))
            }
            Self::Admission(Refusal::Client) | Self::Refused(..) => None,
            _ => (self.status() == StatusCode::SERVICE_UNAVAILABLE && !self.reached_backend()).then_some(1),
        }
    }

    /// Returns the state of the rate limit that refused the request.
    pub fn rate_status(&self) -> Option<&RateStatus> {
        if let Self::Admission(Refusal::Rate(status)) = self { Some(status) } else { None }
    }

    /// Whether the error is expected in large numbers and therefore not logged for each request: a policy refused it, its
    /// caller left too little time, or the service is starting or refused, which is logged once.
    pub fn is_policy(&self) -> bool {
        match self {
            Self::Admission(refusal) => !matches!(refusal, Refusal::QueueFull | Refusal::QueueTimeout),
            Self::Denied(_) | Self::AuthLimited(_) | Self::Rule(_) | Self::Invalid(_) => true,
            _ => matches!(self, Self::Starting | Self::Refused(..) | Self::TooLittleTime(_)),
        }
    }

    /// Counts the request for `service`, as refused or as failed. `headed` is whether the head of the response was sent
    /// before.
    pub fn record(&self, service: &Service, request_id: &str, headed: bool) {
        if let Self::Denied(denial) = self {
            service.metrics.denied.count(denial.cause.name());
        }
        match self {
            Self::TooLittleTime(_) if headed => {
                service.metrics.aborted.count(self.reason());
                return;
            }
            Self::TooLittleTime(_) => return service.record_refusal(self.reason(), None, None),
            Self::Denied(denial) if !headed => {
                return service.record_refusal(self.reason(), Some(denial.cause.name()), denial.key.clone());
            }
            _ if !headed && !self.reached_backend() => return service.record_refusal(self.reason(), None, None),
            _ => {}
        }
        let (status, reason) = ((!headed).then(|| self.status()), self.reason());
        let (detail, part, backtrace) = (self.detail(), self.part(), self.backtrace());
        let report = FailureReport { status, reason, detail, part, backtrace };
        service.record_failure(request_id, report);
    }
}

impl FetchError for RequestError {
    fn status(&self) -> StatusCode {
        self.status()
    }

    fn may_have_taken_effect(&self) -> bool {
        // Whether a body is broken is found only when a backend reads it.
        let read = matches!(self, Self::Body(_) | Self::Guest(RunError::Body(_)) | Self::Upstream(Failure::Body(_)));
        read || self.reached_backend()
    }
}

#[cfg(test)]
mod tests;
