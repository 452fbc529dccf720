//! The state of a rate limit after a request, and the fields `RateLimit-Policy` and `RateLimit`
//! (draft-ietf-httpapi-ratelimit-headers).

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The state of a rate limit after a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateStatus {
    policy: HeaderValue,
    limit: HeaderValue,
    remaining: u64,
    retry: u64,
}

impl RateStatus {
    /// `remaining` is in requests; `reset` and `retry` are the seconds until all requests remain and until one more may
    /// come.
    pub(super) fn new(policy: &HeaderValue, name: &str, remaining: u64, reset: u64, retry: u64) -> Self {
        let limit = format!("\"{name}\";r={remaining};t={reset}");
        let limit = HeaderValue::try_from(limit).unwrap_or(HeaderValue::from_static(""));
        Self { policy: policy.clone(), limit, remaining, retry }
    }

    /// Returns the number of requests that may come at once.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Returns the seconds until the next request may come; 0 for a request that was admitted.
    pub fn retry_after(&self) -> u32 {
        u32::try_from(self.retry).unwrap_or(u32::MAX)
    }

    /// Appends the two fields. Both are lists, so fields of the guest's own rate limits stay.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.append(POLICY, self.policy.clone());
        headers.append(LIMIT, self.limit.clone());
    }
}
