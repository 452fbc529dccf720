//! `Cache-Status` (RFC 9211): how a request was answered, in the words of its answer.

use http::header::{HeaderMap, HeaderName, HeaderValue};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CacheStatus {
    /// Without its service, by what is fresh for so many seconds; fewer than none when it is stale and may be given.
    Hit(i64),
    /// By what another request has brought.
    Collapsed,
    /// By its service: nothing fit, and the answer is being kept or not.
    Miss(bool),
    /// By its service: what fits is stale, and the answer is being kept or not.
    Stale(bool),
    /// By its service: the client would not take what is kept, and the answer is being kept or not.
    Request(bool),
    /// By what was kept, which the service says is still right.
    Revalidated,
    /// By its service: such a request is not looked up.
    Bypass,
}

/// Adds it to what caches behind this one have said.
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
    // Made of digits and words of our own, so it is a header value.
    if let Ok(value) = value {
        headers.append(CACHE_STATUS, value);
    }
}
