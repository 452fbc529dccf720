//! Where a client stands with a rate limit, as the fields `RateLimit-Policy` and `RateLimit` have it
//! (draft-ietf-httpapi-ratelimit-headers).

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Where a client stands after a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateStatus {
    policy: HeaderValue,
    limit: HeaderValue,
    remaining: u64,
    retry: u64,
}

impl RateStatus {
    /// So many requests remain; `reset` and `retry` are seconds until all of them do, and until one more may come.
    pub(super) fn new(policy: &HeaderValue, name: &str, remaining: u64, reset: u64, retry: u64) -> Self {
        let limit = format!("\"{name}\";r={remaining};t={reset}");
        let limit = HeaderValue::try_from(limit).unwrap_or(HeaderValue::from_static(""));
        Self { policy: policy.clone(), limit, remaining, retry }
    }

    /// Requests that may come at once.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Seconds until the next may come: 0 for one that was let in.
    pub fn retry(&self) -> u32 {
        u32::try_from(self.retry).unwrap_or(u32::MAX)
    }

    /// Adds the two fields. Both are lists: what a guest says of limits of its own stays.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.append(POLICY, self.policy.clone());
        headers.append(LIMIT, self.limit.clone());
    }
}
