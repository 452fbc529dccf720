//! Redirects of browsers during a login.

use http::header::HeaderValue;

/// Where a browser is sent, with which cookies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginRedirect {
    /// The URL.
    pub location: HeaderValue,
    /// The values of `Set-Cookie`.
    pub cookies: Vec<HeaderValue>,
}
