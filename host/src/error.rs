//! The closed set of ways in which a request can fail, and what the caller is told of each.
//!
//! The public text never holds guest output, paths or host details: those are in [`RequestError::detail`], which
//! goes to the log under the same request id.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use crate::admission::rate::RateStatus;
use crate::admission::{Refusal, Verdict};

/// Why a request got no answer from a guest.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No service owns this host and path.
    #[error("no service answers here")]
    NoRoute,
    /// The service is being compiled.
    #[error("the service is starting")]
    Starting,
    /// The service's files are refused, and there is no earlier version; why, and whether its clients may know.
    #[error("the service is not available")]
    Refused(String, bool),
    /// The route has other methods: these, as the `Allow` header has them.
    #[error("the service does not take this method here")]
    MethodNotAllowed(String),
    /// The request itself is not one that HTTP allows.
    #[error("{0}")]
    BadRequest(&'static str),
    /// The request's body comes in codings that are not known here, or in chunks twice: where it ends is anybody's guess, and
    /// so is what comes after it on the connection.
    #[error("the Transfer-Encoding is not chunked, once and alone")]
    BadFraming,
    /// The request's head has more fields than the listener allows.
    #[error("the request has too many header fields")]
    TooManyFields,
    /// The request body is over the service's limit.
    #[error("the request body is larger than this service allows")]
    BodyTooLarge,
    /// The client had not sent its body when wall time was up.
    #[error("the request body did not come in time")]
    BodyLate,
    /// The client broke off in the middle of its body.
    #[error("the request body broke off")]
    BodyBroken,
    /// The client's address may not ask.
    #[error("the service is not for this client")]
    ClientDenied,
    /// Too many requests of its kind have come.
    #[error("too many requests")]
    RateLimited(Box<RateStatus>),
    /// The service has failed too often, and is not asked for so long at least.
    #[error("the service is failing")]
    BreakerOpen(Duration),
    /// The host is full, and other services matter more.
    #[error("the service is overloaded")]
    Shed,
    /// Too many requests are waiting already.
    #[error("the service is overloaded")]
    QueueFull,
    /// It waited for its place as long as it may.
    #[error("the service is overloaded")]
    QueueTimeout,
    /// The engine's pool has no room for a component that takes more of it than most.
    #[error("the service is overloaded")]
    PoolFull(String),
    /// An operator has said that the service is not to be asked.
    #[error("the service is switched off")]
    Disabled,
    /// Services call each other, or themselves, in too long a chain; or a service elsewhere is this host again.
    #[error("calls between services go too deep")]
    CallDepth,
    /// The service is elsewhere, and no replica of it is known.
    #[error("the service is not available")]
    NoReplica,
    /// All connections to replicas of the service are in use.
    #[error("the service is overloaded")]
    UpstreamBusy(String),
    /// As many connections as may be have become something else, and this request asks for one more.
    #[error("the service is overloaded")]
    TunnelsFull,
    /// A replica took too long to answer, or to take a connection.
    #[error("the service took too long")]
    UpstreamTimeout(String),
    /// A replica did not answer, broke off its answer, or gave one that is not HTTP.
    #[error("the service failed")]
    Upstream(String),
    /// The request cannot be sent to a replica as it is.
    #[error("the request cannot be passed on")]
    Unforwardable(String),
    /// The service's machine code was dropped and cannot be had again; the directory will say what is next.
    #[error("the service is not available")]
    Unavailable(String),
    /// The guest trapped, exited, or could not be instantiated.
    #[error("the service failed")]
    Trapped(Trap),
    /// The guest returned without an answer.
    #[error("the service did not answer")]
    NoAnswer,
    /// The guest asked for more memory than it may have, and trapped.
    #[error("the service ran out of memory")]
    OverMemory,
    /// The guest's answer cannot be put on the wire.
    #[error("the service gave an invalid answer")]
    BadAnswer(String),
    /// The guest answered with an error of its own: a `wasi:http` error code.
    #[error("the service reported an error")]
    Guest(wasmtime_wasi_http::Error),
    /// The guest was denied a request of its own, by its manifest, and passed that on. What its client did is not to blame.
    #[error("the service could not reach what it needs")]
    OutgoingDenied,
    /// Wall time is up.
    #[error("the service took too long")]
    WallTime,
    /// CPU time is up.
    #[error("the service used too much CPU time")]
    CpuTime,
}

/// How a guest came to its end.
#[derive(Debug, Default)]
pub struct Trap {
    /// What went wrong.
    pub cause: String,
    /// Where, innermost first, in the guest's own names when it still has them.
    pub frames: Vec<String>,
}

/// Frames of a guest's backtrace in a log line.
const FRAMES: usize = 6;

impl RequestError {
    /// The status of the answer. Total: a new way to fail does not compile until it has one.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest(_) | Self::BadFraming => StatusCode::BAD_REQUEST,
            Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyLate => StatusCode::REQUEST_TIMEOUT,
            Self::BodyBroken | Self::Unforwardable(_) => StatusCode::BAD_REQUEST,
            Self::ClientDenied => StatusCode::FORBIDDEN,
            Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::BreakerOpen(_)
            | Self::Shed
            | Self::Starting
            | Self::Refused(..)
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::PoolFull(_)
            | Self::Disabled
            | Self::Unavailable(_)
            | Self::NoReplica
            | Self::UpstreamBusy(_)
            | Self::TunnelsFull => StatusCode::SERVICE_UNAVAILABLE,
            Self::Trapped(_) | Self::NoAnswer | Self::OverMemory | Self::BadAnswer(_) | Self::OutgoingDenied => {
                StatusCode::BAD_GATEWAY
            }
            Self::CallDepth => StatusCode::LOOP_DETECTED,
            Self::Guest(code) => guest_status(code),
            Self::Upstream(_) => StatusCode::BAD_GATEWAY,
            Self::WallTime | Self::CpuTime | Self::UpstreamTimeout(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// A short name that never changes: the `type` of the problem body, the `reason` of the log line.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoRoute => "no-route",
            Self::Starting => "starting",
            Self::Refused(..) => "refused",
            Self::MethodNotAllowed(_) => "method-not-allowed",
            Self::BadRequest(_) | Self::BadFraming => "bad-request",
            Self::TooManyFields => "too-many-fields",
            Self::BodyTooLarge => "body-too-large",
            Self::BodyLate => "body-late",
            Self::BodyBroken => "body-broken",
            Self::ClientDenied => "client-denied",
            Self::RateLimited(_) => "rate-limited",
            Self::BreakerOpen(_) => "breaker-open",
            Self::Shed => "shed",
            Self::QueueFull => "queue-full",
            Self::QueueTimeout => "queue-timeout",
            Self::PoolFull(_) => "pool-full",
            Self::Disabled => "disabled",
            Self::CallDepth => "call-depth",
            Self::Unavailable(_) => "unavailable",
            Self::NoReplica => "no-replica",
            Self::UpstreamBusy(_) => "upstream-busy",
            Self::TunnelsFull => "tunnels-full",
            Self::UpstreamTimeout(_) => "upstream-timeout",
            Self::Upstream(_) => "upstream-failed",
            Self::Unforwardable(_) => "unforwardable",
            Self::Trapped(_) => "trapped",
            Self::NoAnswer => "no-answer",
            Self::OverMemory => "over-memory",
            Self::BadAnswer(_) => "bad-answer",
            Self::Guest(_) => "guest-error",
            Self::OutgoingDenied => "outgoing-denied",
            Self::WallTime => "wall-time",
            Self::CpuTime => "cpu-time",
        }
    }

    /// What the operator may see and the caller may not.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Unavailable(detail)
            | Self::PoolFull(detail)
            | Self::BadAnswer(detail)
            | Self::UpstreamBusy(detail)
            | Self::UpstreamTimeout(detail)
            | Self::Upstream(detail)
            | Self::Unforwardable(detail) => Some(detail.clone()),
            Self::Trapped(trap) => Some(trap.to_string()),
            Self::Guest(code) => Some(code.to_string()),
            Self::OutgoingDenied => Some("its manifest grants too little; the log says what".into()),
            _ => None,
        }
    }

    /// What the caller may see of that: developers, while they work on the service.
    pub fn explanation(&self) -> Option<&str> {
        if let Self::Refused(why, true) = self { Some(why) } else { None }
    }

    /// Where in the guest it happened, innermost first.
    pub fn backtrace(&self) -> &[String] {
        if let Self::Trapped(trap) = self { &trap.frames } else { &[] }
    }

    /// Whether a guest or a replica was at work on the request, and this is what became of it; else it was turned away before.
    pub fn reached_backend(&self) -> bool {
        match self {
            Self::NoRoute
            | Self::Starting
            | Self::Refused(..)
            | Self::MethodNotAllowed(_)
            | Self::BadRequest(_)
            | Self::BadFraming
            | Self::TooManyFields
            | Self::BodyTooLarge
            | Self::BodyLate
            | Self::BodyBroken
            | Self::ClientDenied
            | Self::RateLimited(_)
            | Self::BreakerOpen(_)
            | Self::Shed
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::PoolFull(_)
            | Self::Disabled
            | Self::CallDepth
            | Self::Unavailable(_)
            | Self::NoReplica
            | Self::UpstreamBusy(_)
            | Self::TunnelsFull
            | Self::Unforwardable(_) => false,
            Self::UpstreamTimeout(_)
            | Self::Upstream(_)
            | Self::Trapped(_)
            | Self::NoAnswer
            | Self::OverMemory
            | Self::BadAnswer(_)
            | Self::Guest(_)
            | Self::OutgoingDenied
            | Self::WallTime
            | Self::CpuTime => true,
        }
    }

    /// What this says of the service; `None` if the request was turned away or its client is to blame.
    pub fn verdict(&self) -> Option<Verdict> {
        match self {
            _ if !self.reached_backend() => None,
            Self::WallTime | Self::CpuTime => Some(Verdict::Late),
            _ if self.status().is_server_error() => Some(Verdict::Failed),
            _ => Some(Verdict::Good),
        }
    }

    /// The methods that would be allowed, for the `Allow` header.
    pub fn allow(&self) -> Option<&str> {
        if let Self::MethodNotAllowed(allow) = self { Some(allow) } else { None }
    }

    /// Seconds after which it makes sense to try again, for the failures that pass by themselves.
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Self::RateLimited(status) => Some(status.retry()),
            Self::BreakerOpen(wait) => Some(u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX).max(1)),
            Self::Starting
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::PoolFull(_)
            | Self::Shed
            | Self::Disabled
            | Self::Unavailable(_)
            | Self::NoReplica
            | Self::UpstreamBusy(_)
            | Self::TunnelsFull => Some(1),
            _ => None,
        }
    }

    /// Where a client stands with the rate limit that turned it away.
    pub fn rate_status(&self) -> Option<&RateStatus> {
        if let Self::RateLimited(status) = self { Some(status) } else { None }
    }

    /// Whether it happens often when it does, and is no line of the log each time: a policy does what it is there for, or a
    /// service does not answer yet, or not any more, which the log has said once.
    pub fn is_policy(&self) -> bool {
        matches!(
            self,
            Self::ClientDenied
                | Self::RateLimited(_)
                | Self::BreakerOpen(_)
                | Self::Shed
                | Self::Starting
                | Self::Refused(..)
        )
    }
}

impl From<Refusal> for RequestError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Client => Self::ClientDenied,
            Refusal::Rate(status) => Self::RateLimited(Box::new(status)),
            Refusal::Breaker(wait) => Self::BreakerOpen(wait),
            Refusal::Shed => Self::Shed,
            Refusal::QueueFull => Self::QueueFull,
            Refusal::QueueTimeout => Self::QueueTimeout,
        }
    }
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)?;
        let mut separator = " (in ";
        for frame in self.frames.iter().take(FRAMES) {
            write!(f, "{separator}{frame}")?;
            separator = " < ";
        }
        if self.frames.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

/// The nearest status to a `wasi:http` error code.
fn guest_status(code: &wasmtime_wasi_http::Error) -> StatusCode {
    use wasmtime_wasi_http::Error as E;
    match code {
        E::DnsTimeout
        | E::ConnectionTimeout
        | E::ConnectionReadTimeout
        | E::ConnectionWriteTimeout
        | E::HttpResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
        E::HttpRequestBodySize(_) => StatusCode::PAYLOAD_TOO_LARGE,
        E::HttpRequestDenied => StatusCode::FORBIDDEN,
        E::HttpRequestLengthRequired => StatusCode::LENGTH_REQUIRED,
        E::HttpRequestUriInvalid => StatusCode::BAD_REQUEST,
        E::HttpRequestUriTooLong => StatusCode::URI_TOO_LONG,
        E::HttpRequestHeaderSectionSize(_)
        | E::HttpRequestHeaderSize { .. }
        | E::HttpRequestTrailerSectionSize(_)
        | E::HttpRequestTrailerSize { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        E::LoopDetected => StatusCode::LOOP_DETECTED,
        _ => StatusCode::BAD_GATEWAY,
    }
}

#[cfg(test)]
mod tests;
