//! Failures to connect.

use std::borrow::Cow;
use std::fmt;

/// Why a connection could not be opened, and what would help. It contains neither addresses nor credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectFailure(Cow<'static, str>);

impl ConnectFailure {
    /// A failure for `reason`.
    pub fn new(reason: impl Into<Cow<'static, str>>) -> ConnectFailure {
        ConnectFailure(reason.into())
    }
}

impl std::error::Error for ConnectFailure {}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
