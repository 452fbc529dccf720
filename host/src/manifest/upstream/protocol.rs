//! How replicas are spoken to.

use http::uri;

/// Which HTTP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/2 if the replica agrees to it in TLS; HTTP/1.1 if not, and without TLS.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, without asking.
    Http2,
}

/// How it is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

impl Scheme {
    /// The port that need not be said.
    pub fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// As `:scheme` has it.
    pub fn uri(self) -> uri::Scheme {
        match self {
            Self::Http => uri::Scheme::HTTP,
            Self::Https => uri::Scheme::HTTPS,
        }
    }
}
