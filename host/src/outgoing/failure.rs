//! Why a request to the world got no answer: in a guest's words, the error codes of `wasi:http`, and in the words that
//! are counted.

use std::error::Error as _;
use std::io;
use std::net::IpAddr;

use wasmtime_wasi_http::Error;

/// What kept a request from its answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Failure {
    /// As many as may be are under way.
    #[error("limits.outgoing requests are under way")]
    Requests,
    /// As many as may be were sent in this second.
    #[error("limits.outgoing_rate requests were sent in a second")]
    Rate,
    /// As many connections as may be are open.
    #[error("too many connections are open")]
    Connections,
    /// The name cannot be resolved.
    #[error("the name cannot be resolved: {0}")]
    Dns(String),
    /// Nothing that it resolves to is public, or on the list.
    #[error("{0} is no public address")]
    Prohibited(IpAddr),
    #[error("the connection was refused")]
    Refused,
    #[error("there is no way there")]
    Unreachable,
    #[error("the connection took too long")]
    ConnectTimeout,
    #[error("the answer took too long")]
    AnswerTimeout,
    /// The certificate is not one to trust.
    #[error("the certificate was not accepted: {0}")]
    Certificate(String),
    /// TLS failed in another way.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The head of the answer is too large.
    #[error("the head of the answer is too large")]
    AnswerHead,
    /// The connection ended before the answer did.
    #[error("the connection ended")]
    Terminated,
    /// What came was no HTTP.
    #[error("{0}")]
    Protocol(String),
}

impl Failure {
    /// An address that could not be connected to.
    pub(super) fn of_connect(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::ConnectTimeout,
            _ => Self::Unreachable,
        }
    }

    /// What the client says, which hides the cause below what it was doing.
    pub(super) fn of_client(error: &hyper_util::client::legacy::Error) -> Self {
        if let Some(failure) = error.source().and_then(found) {
            return failure;
        }
        if error.is_connect() { Self::Unreachable } else { Self::Protocol(error.to_string()) }
    }

    /// The address that was prohibited, if that is it.
    pub(super) fn prohibited(&self) -> Option<IpAddr> {
        if let Self::Prohibited(address) = self { Some(*address) } else { None }
    }

    /// How it is counted: one of a few words.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Requests | Self::Connections => "limit",
            Self::Rate => "rate-limit",
            Self::Dns(_) => "dns",
            // Counted where it is said.
            Self::Prohibited(_) => "prohibited",
            Self::Refused | Self::Unreachable => "unreachable",
            Self::ConnectTimeout | Self::AnswerTimeout => "timeout",
            Self::Certificate(_) | Self::Tls(_) => "tls",
            Self::AnswerHead | Self::Terminated | Self::Protocol(_) => "broken",
        }
    }
}

/// What an error means, or what caused it.
fn found(error: &(dyn std::error::Error + 'static)) -> Option<Failure> {
    // What an io::Error wraps is not its source.
    let wrapped = || error.downcast_ref::<io::Error>()?.get_ref().and_then(|inside| found(inside));
    known(error).or_else(wrapped).or_else(|| found(error.source()?))
}

/// What a cause means, if it is one that means something.
fn known(error: &(dyn std::error::Error + 'static)) -> Option<Failure> {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return Some(failure.clone());
    }
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(match tls {
            rustls::Error::InvalidCertificate(why) => Failure::Certificate(why.to_string()),
            other => Failure::Tls(other.to_string()),
        });
    }
    if let Some(http) = error.downcast_ref::<hyper::Error>() {
        return match http {
            _ if http.is_parse_too_large() => Some(Failure::AnswerHead),
            _ if http.is_incomplete_message() || http.is_closed() => Some(Failure::Terminated),
            _ if http.is_parse() => Some(Failure::Protocol(http.to_string())),
            _ => None,
        };
    }
    match error.downcast_ref::<io::Error>()?.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            Some(Failure::Terminated)
        }
        _ => None,
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Requests | Failure::Connections | Failure::Rate => Self::ConnectionLimitReached,
            Failure::Dns(why) => Self::DnsError { rcode: Some(why), info_code: None },
            Failure::Prohibited(_) => Self::DestinationIpProhibited,
            Failure::Refused => Self::ConnectionRefused,
            Failure::Unreachable => Self::DestinationUnavailable,
            Failure::ConnectTimeout => Self::ConnectionTimeout,
            Failure::AnswerTimeout => Self::HttpResponseTimeout,
            Failure::Certificate(_) => Self::TlsCertificateError,
            Failure::Tls(_) => Self::TlsProtocolError,
            Failure::AnswerHead => Self::HttpResponseHeaderSectionSize(None),
            Failure::Terminated => Self::ConnectionTerminated,
            Failure::Protocol(_) => Self::HttpProtocolError,
        }
    }
}
