//! Why a request to the world got no response: as an error code of `wasi:http` for the guest, and as a word for the
//! metrics.

use std::error::Error as _;
use std::io;
use std::net::IpAddr;

use wasmtime_wasi_http::Error;

/// Why a request got no response.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum OutgoingFailure {
    /// `limits.outgoing` is reached.
    #[error("limits.outgoing requests are in flight")]
    Requests,
    /// `limits.outgoing_rate` is reached.
    #[error("limits.outgoing_rate is exceeded")]
    Rate,
    /// The bound on open connections is reached.
    #[error("too many connections are open")]
    Connections,
    /// The name cannot be resolved.
    #[error("the name cannot be resolved: {0}")]
    Dns(String),
    /// None of its addresses is public or listed.
    #[error("{0} is not a public address")]
    Prohibited(IpAddr),
    #[error("the connection was refused")]
    Refused,
    #[error("the network or host is unreachable")]
    Unreachable,
    #[error("connecting timed out")]
    ConnectTimeout,
    #[error("the response timed out")]
    ResponseTimeout,
    /// The certificate is not trusted.
    #[error("the certificate is not trusted: {0}")]
    Certificate(String),
    /// Any other TLS error.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The head of the response is too large.
    #[error("the head of the response is too large")]
    ResponseHead,
    /// The connection ended before the response did.
    #[error("the connection was closed")]
    Terminated,
    /// The response is not HTTP.
    #[error("{0}")]
    Protocol(String),
}

impl OutgoingFailure {
    /// Classifies an error of connecting.
    pub(super) fn of_connect(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::ConnectTimeout,
            _ => Self::Unreachable,
        }
    }

    /// Classifies an error of hyper's client, which wraps the cause.
    pub(super) fn of_client(error: &hyper_util::client::legacy::Error) -> Self {
        if let Some(failure) = error.source().and_then(found) {
            return failure;
        }
        if error.is_connect() {
            return Self::Unreachable;
        }
        // The last cause says what happened.
        let mut cause: &(dyn std::error::Error + 'static) = error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        Self::Protocol(cause.to_string())
    }

    /// Returns the address, for [`Self::Prohibited`].
    pub(super) fn prohibited(&self) -> Option<IpAddr> {
        if let Self::Prohibited(address) = self { Some(*address) } else { None }
    }

    /// Returns the word for the metrics.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Requests | Self::Connections => "limit",
            Self::Rate => "rate-limit",
            Self::Dns(_) => "dns",
            // Logged by the caller as a denial.
            Self::Prohibited(_) => "prohibited",
            Self::Refused | Self::Unreachable => "unreachable",
            Self::ConnectTimeout | Self::ResponseTimeout => "timeout",
            Self::Certificate(_) | Self::Tls(_) => "tls",
            Self::ResponseHead | Self::Terminated | Self::Protocol(_) => "broken",
        }
    }
}

/// Classifies an error by itself or by its sources.
fn found(error: &(dyn std::error::Error + 'static)) -> Option<OutgoingFailure> {
    // The error that an io::Error wraps is not its `source`.
    let wrapped = || error.downcast_ref::<io::Error>()?.get_ref().and_then(|inside| found(inside));
    known(error).or_else(wrapped).or_else(|| found(error.source()?))
}

/// Classifies one error, without its sources.
fn known(error: &(dyn std::error::Error + 'static)) -> Option<OutgoingFailure> {
    if let Some(failure) = error.downcast_ref::<OutgoingFailure>() {
        return Some(failure.clone());
    }
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(match tls {
            rustls::Error::InvalidCertificate(why) => OutgoingFailure::Certificate(why.to_string()),
            other => OutgoingFailure::Tls(other.to_string()),
        });
    }
    if let Some(http) = error.downcast_ref::<hyper::Error>() {
        return match http {
            _ if http.is_parse_too_large() => Some(OutgoingFailure::ResponseHead),
            _ if http.is_incomplete_message() || http.is_closed() => Some(OutgoingFailure::Terminated),
            _ if http.is_parse() => Some(OutgoingFailure::Protocol(http.to_string())),
            _ => None,
        };
    }
    match error.downcast_ref::<io::Error>()?.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            Some(OutgoingFailure::Terminated)
        }
        _ => None,
    }
}

impl From<OutgoingFailure> for Error {
    fn from(failure: OutgoingFailure) -> Self {
        match failure {
            OutgoingFailure::Requests | OutgoingFailure::Connections | OutgoingFailure::Rate => {
                Self::ConnectionLimitReached
            }
            OutgoingFailure::Dns(why) => Self::DnsError { rcode: Some(why), info_code: None },
            OutgoingFailure::Prohibited(_) => Self::DestinationIpProhibited,
            OutgoingFailure::Refused => Self::ConnectionRefused,
            OutgoingFailure::Unreachable => Self::DestinationUnavailable,
            OutgoingFailure::ConnectTimeout => Self::ConnectionTimeout,
            OutgoingFailure::ResponseTimeout => Self::HttpResponseTimeout,
            OutgoingFailure::Certificate(_) => Self::TlsCertificateError,
            OutgoingFailure::Tls(_) => Self::TlsProtocolError,
            OutgoingFailure::ResponseHead => Self::HttpResponseHeaderSectionSize(None),
            OutgoingFailure::Terminated => Self::ConnectionTerminated,
            OutgoingFailure::Protocol(_) => Self::HttpProtocolError,
        }
    }
}
