//! The closed set of reasons why a request can fail, with the status and the text that the client gets.
//!
//! The public text never contains guest output, paths or host details. Those are in [`RequestError::detail`], which
//! goes to the log under the same request id.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use crate::admission::rate::RateStatus;
use crate::admission::{Refusal, Verdict};

/// The reason why a request has no response from its service.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No service has a route for this host and path.
    #[error("no service has a route for this host and path")]
    NoRoute,
    /// The service is being compiled.
    #[error("the service is starting")]
    Starting,
    /// The service's files are refused and there is no earlier version: the reason, and whether clients may see it.
    #[error("the service is not available")]
    Refused(String, bool),
    /// The route allows other methods: these, in the form of the `Allow` header.
    #[error("the service does not allow this method for this path")]
    MethodNotAllowed(String),
    /// HTTP does not allow the request.
    #[error("{0}")]
    BadRequest(&'static str),
    /// The request's transfer codings include an unknown one, or `chunked` twice. The end of the body, and so
    /// everything after it on the connection, cannot be determined.
    #[error("the Transfer-Encoding header must be `chunked`, exactly once")]
    BadFraming,
    /// The request's head has more fields than the listener allows.
    #[error("the request has too many header fields")]
    TooManyFields,
    /// The request body is over the service's limit.
    #[error("the request body is larger than this service allows")]
    BodyTooLarge,
    /// The client had not sent its whole body when the wall time was used up.
    #[error("the request body did not arrive in time")]
    BodyLate,
    /// The client's body ended before it was complete.
    #[error("the request body ended before it was complete")]
    BodyBroken,
    /// The client's address is not allowed.
    #[error("this client address is not allowed")]
    ClientDenied,
    /// The request is over a rate limit.
    #[error("too many requests")]
    RateLimited(Box<RateStatus>),
    /// The service's circuit breaker is open, for at least this long.
    #[error("the service is failing")]
    BreakerOpen(Duration),
    /// The host is overloaded, and the service's priority is too low.
    #[error("the service is overloaded")]
    Shed,
    /// The queue is full.
    #[error("the service is overloaded")]
    QueueFull,
    /// The request waited in a queue as long as it may.
    #[error("the service is overloaded")]
    QueueTimeout,
    /// The engine's pool has no room for a component that needs more of it than most.
    #[error("the service is overloaded")]
    PoolFull(String),
    /// An operator disabled the service.
    #[error("the service is disabled")]
    Disabled,
    /// The chain of calls between services is too long, or an upstream turns out to be this host again.
    #[error("the chain of calls between services is too long")]
    CallDepth,
    /// The service is an upstream, and no replica of it is known.
    #[error("the service is not available")]
    NoReplica,
    /// All connections to the service's replicas are in use.
    #[error("the service is overloaded")]
    UpstreamBusy(String),
    /// The request asks to upgrade its connection, and as many connections as allowed are upgraded already.
    #[error("the service is overloaded")]
    TunnelsFull,
    /// A replica took too long to respond or to accept a connection.
    #[error("the service took too long")]
    UpstreamTimeout(String),
    /// A replica did not respond, broke off its response, or sent one that is not valid HTTP.
    #[error("the service failed")]
    Upstream(String),
    /// The request cannot be sent to a replica in its present form.
    #[error("the request cannot be forwarded to the service")]
    Unforwardable(String),
    /// The service's machine code was unloaded and cannot be loaded again, until the next scan of the directory.
    #[error("the service is not available")]
    Unavailable(String),
    /// The guest trapped, exited, or could not be instantiated.
    #[error("the service failed")]
    Trapped(Trap),
    /// The guest returned without a response.
    #[error("the service sent no response")]
    NoAnswer,
    /// The guest trapped after it requested more memory than its limit.
    #[error("the service ran out of memory")]
    OverMemory,
    /// The guest's response cannot be sent in HTTP.
    #[error("the service sent an invalid response")]
    BadAnswer(String),
    /// The guest returned a `wasi:http` error code.
    #[error("the service reported an error")]
    Guest(GuestCode),
    /// An outgoing request of the guest was denied by its manifest, and the guest returned that error. The client is
    /// not at fault.
    #[error("the service was denied an outgoing request")]
    OutgoingDenied,
    /// The request used up its wall time.
    #[error("the service took too long")]
    WallTime,
    /// The request used up its CPU time.
    #[error("the service used too much CPU time")]
    CpuTime,
}

/// A `wasi:http` error code of a guest.
#[derive(Debug)]
pub struct GuestCode {
    /// The nearest status.
    pub status: StatusCode,
    /// The name of the code.
    pub name: String,
}

/// The reason why a guest trapped, with its backtrace.
#[derive(Debug, Default)]
pub struct Trap {
    /// The cause.
    pub cause: String,
    /// The functions, innermost first, by the guest's own names if it has them.
    pub frames: Vec<String>,
}

/// The number of frames of a backtrace in a log line.
const FRAMES: usize = 6;

impl RequestError {
    /// Returns the response's status. The match is total: a new error does not compile until it has a status.
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
            Self::Guest(code) => code.status,
            Self::Upstream(_) => StatusCode::BAD_GATEWAY,
            Self::WallTime | Self::CpuTime | Self::UpstreamTimeout(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Returns a short name that never changes: the `type` of the problem body and the `reason` of the log line.
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

    /// Returns details for the operator that clients must not see.
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
            Self::Guest(code) => Some(code.name.clone()),
            Self::OutgoingDenied => Some("the manifest does not grant an outgoing request; the log names it".into()),
            _ => None,
        }
    }

    /// Returns details that clients may see: for developers, while they work on the service.
    pub fn explanation(&self) -> Option<&str> {
        if let Self::Refused(why, true) = self { Some(why) } else { None }
    }

    /// Returns the guest's backtrace, innermost frame first.
    pub fn backtrace(&self) -> &[String] {
        if let Self::Trapped(trap) = self { &trap.frames } else { &[] }
    }

    /// Whether a guest or a replica worked on the request and failed; otherwise the request was refused before.
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

    /// Returns what the error says of the service; `None` if the request was refused or its client is at fault.
    pub fn verdict(&self) -> Option<Verdict> {
        match self {
            _ if !self.reached_backend() => None,
            Self::WallTime | Self::CpuTime => Some(Verdict::Late),
            _ if self.status().is_server_error() => Some(Verdict::Failed),
            _ => Some(Verdict::Good),
        }
    }

    /// Returns the methods that are allowed, for the `Allow` header.
    pub fn allow(&self) -> Option<&str> {
        if let Self::MethodNotAllowed(allow) = self { Some(allow) } else { None }
    }

    /// Returns the seconds after which a retry makes sense; `None` for errors that do not pass by themselves.
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Self::RateLimited(status) => Some(status.retry_after()),
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

    /// Returns the state of the rate limit that refused the request.
    pub fn rate_status(&self) -> Option<&RateStatus> {
        if let Self::RateLimited(status) = self { Some(status) } else { None }
    }

    /// Whether the error is not logged for each request, because it comes in large numbers: a policy works as intended,
    /// or the service is starting or refused, which is logged once.
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

#[cfg(test)]
mod tests;
