//! Settings of a rate limit.

use std::fmt;
use std::time::Duration;

use http::header::HeaderName;

/// A rate limit and the key of its buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Requests per `per`.
    pub count: u32,
    /// The period of `count`.
    pub per: Duration,
    /// Requests that may come at once: the size of a bucket.
    pub burst: u32,
    /// The key of the token buckets.
    pub by: By,
}

/// The key of the token buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// One bucket for all requests.
    Service,
    /// One bucket per client address; for IPv6 per /64, which a single client usually has.
    Client,
    /// One bucket per value of this header; requests without the header share one.
    Header(HeaderName),
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, per, burst, by } = self;
        let per = humantime::format_duration(*per).to_string();
        write!(f, "{count}/{}, burst {burst}, by ", per.strip_prefix('1').unwrap_or(&per))?;
        match by {
            By::Service => f.write_str("service"),
            By::Client => f.write_str("client"),
            By::Header(name) => write!(f, "header:{name}"),
        }
    }
}
