//! How often clients may ask, as a manifest has it.

use std::fmt;
use std::time::Duration;

use http::header::HeaderName;

/// How often, and who shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// So many requests …
    pub count: u32,
    /// … in this time.
    pub per: Duration,
    /// So many at once.
    pub burst: u32,
    /// Who has a bucket of their own.
    pub by: By,
}

/// Who has a bucket of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// Nobody: all requests share one.
    Service,
    /// Every client address; of IPv6 every /64, which is what one client has.
    Client,
    /// Every value of this header; requests without it share one.
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
