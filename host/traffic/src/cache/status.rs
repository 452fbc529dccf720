//! `Cache-Status` (RFC 9211): how the cache handled a request.

use http::header::{HeaderMap, HeaderName, HeaderValue};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// How the cache handled a request. The flag of a miss says whether the response is being stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CacheStatus {
    /// A stored response was used. Seconds until it is stale; negative if it is.
    Hit(i64),
    /// The response to a concurrent request was used.
    Collapsed,
    /// No stored response matched.
    Miss(bool),
    /// The stored response was stale.
    Stale(bool),
    /// The request's directives ruled out the stored response.
    Request(bool),
    /// The service has validated the stored response.
    Revalidated,
    /// The cache is not used for such a request.
    Bypass,
}

/// Appends the status to those of other caches.
pub(super) fn append(headers: &mut HeaderMap, how: CacheStatus) {
    let with =
        |text: &'static str, stored: &'static str, is: bool| HeaderValue::from_static(if is { stored } else { text });
    let value = match how {
        CacheStatus::Hit(left) => HeaderValue::try_from(format!("lodge; hit; ttl={left}")),
        CacheStatus::Collapsed => Ok(HeaderValue::from_static("lodge; fwd=miss; collapsed")),
        CacheStatus::Miss(stored) => Ok(with("lodge; fwd=miss", "lodge; fwd=miss; stored", stored)),
        CacheStatus::Stale(stored) => Ok(with("lodge; fwd=stale", "lodge; fwd=stale; stored", stored)),
        CacheStatus::Request(stored) => Ok(with("lodge; fwd=request", "lodge; fwd=request; stored", stored)),
        CacheStatus::Revalidated => Ok(HeaderValue::from_static("lodge; fwd=stale; fwd-status=304")),
        CacheStatus::Bypass => Ok(HeaderValue::from_static("lodge; fwd=bypass")),
    };
    // Only digits and constants, so it is a valid header value.
    if let Ok(value) = value {
        headers.append(CACHE_STATUS, value);
    }
}
