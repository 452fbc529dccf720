//! Whether a response may be stored, and for how long it is fresh (RFC 9111, 3 and 4.2). Pure: the time is an argument.
//!
//! Stricter than the RFC on purpose: there is no heuristic freshness (4.2.2), and a response is not stored if it has
//! `Set-Cookie` or would have to be validated at every use.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderValue};
use http::{StatusCode, response};

use super::control::{CacheControl, MOST, Seconds, number};
use crate::proxy::lists::{self, Quoting};
use lodge_manifest::cache::Rules;

/// The final status codes whose responses can be stored. 206 is not implemented.
const STATUSES: [u16; 14] = [200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501];

/// Directives of a response that keep it out of this cache.
const FORBIDS: [&str; 3] = ["no-store", "private", "no-cache"];

/// A clock that is behind by more than this was set back. By less, another thread read it a moment earlier.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

/// When a request was sent, and when the head of its response was received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) requested: SystemTime,
    pub(super) received: SystemTime,
}

/// How long a stored response can be used, and in which cases after that.
#[derive(Debug)]
pub(super) struct Freshness {
    received: SystemTime,
    /// The age when it was received (RFC 9111, 4.2.3).
    initial_age: Duration,
    lifetime: Duration,
    /// It is explicitly for all clients: `public` or `s-maxage`.
    pub(super) shared: bool,
    /// It must not be used stale without validation (RFC 9111, 4.2.4).
    strict: bool,
    while_revalidate: Duration,
    if_error: Duration,
    /// A later response of the service forbade to use it stale.
    stale_forbidden: AtomicBool,
}

impl Freshness {
    /// The freshness of a response to a GET. `None` if the response must not be stored, or is already stale.
    pub(super) fn of(request_headers: &HeaderMap, head: &response::Parts, rules: Rules, times: Times) -> Option<Self> {
        let response_headers = &head.headers;
        let mut names = lists::elements(response_headers, &header::VARY, Quoting::Escapes);
        if response_headers.contains_key(header::SET_COOKIE) || names.any(|name| name == b"*") {
            return None;
        }
        let control = CacheControl::read(response_headers)?;
        let (public, s_maxage) = (control.has("public"), control.has("s-maxage"));
        if FORBIDS.iter().any(|word| control.has(word))
            || CacheControl::read(request_headers)?.has("no-store")
            || !STATUSES.contains(&head.status.as_u16())
        {
            return None;
        }
        if request_headers.contains_key(header::AUTHORIZATION)
            && !(public || s_maxage || control.has("must-revalidate"))
        {
            return None;
        }
        let strict = s_maxage || control.has("must-revalidate") || control.has("proxy-revalidate");
        let grace = |name| control.seconds(name).valid().filter(|_| !strict).unwrap_or_default();
        let freshness = Self {
            received: times.received,
            initial_age: age(response_headers, times),
            lifetime: lifetime(&control, head, rules, times.received)?,
            shared: public || s_maxage,
            strict,
            while_revalidate: grace("stale-while-revalidate"),
            if_error: grace("stale-if-error"),
            stale_forbidden: AtomicBool::new(false),
        };
        freshness.is_fresh(times.received).then_some(freshness)
    }

    pub(super) fn received(&self) -> SystemTime {
        self.received
    }

    /// Whether the response can be used for a request with these headers without validation.
    pub(super) fn satisfies(&self, request_headers: &HeaderMap, now: SystemTime) -> bool {
        if !has_directives(request_headers) {
            return self.is_fresh(now);
        }
        let Some(control) = CacheControl::read(request_headers).filter(|control| !control.has("no-cache")) else {
            return false;
        };
        let (age, fresh) = (self.age_at(now), self.is_fresh(now));
        let young = match control.seconds("max-age") {
            Seconds::Absent => true,
            limit => limit.valid().is_some_and(|limit| age <= limit),
        };
        let lasting = match control.seconds("min-fresh") {
            Seconds::Absent => true,
            least => least.valid().is_some_and(|least| age.saturating_add(least) <= self.lifetime),
        };
        let staleness = age.saturating_sub(self.lifetime);
        let stale = match control.seconds("max-stale") {
            Seconds::Bare => true,
            most => most.valid().is_some_and(|most| staleness <= most),
        };
        young && lasting && (fresh || (stale && !self.strict && !self.is_stale_forbidden() && self.is_clock_valid(now)))
    }

    /// Whether the response is fresh, for a request without directives.
    pub(super) fn is_fresh(&self, now: SystemTime) -> bool {
        self.is_within(Duration::ZERO, now)
    }

    /// Whether it may be used stale while it is revalidated (RFC 5861, 3).
    pub(super) fn allows_while_revalidating(&self, now: SystemTime) -> bool {
        self.is_within(self.while_revalidate, now)
    }

    /// Whether it may be used stale in place of an error: by `stale-if-error` (RFC 5861, 4), or by
    /// `stale-while-revalidate`, since the error is the result of a revalidation.
    pub(super) fn allows_on_error(&self, now: SystemTime) -> bool {
        self.is_within(self.if_error.max(self.while_revalidate), now)
    }

    /// Forbids to use it stale.
    pub(super) fn forbid_stale(&self) {
        self.stale_forbidden.store(true, Relaxed);
    }

    fn is_stale_forbidden(&self) -> bool {
        self.stale_forbidden.load(Relaxed)
    }

    /// The age in seconds (RFC 9111, 4.2.3).
    pub(super) fn age(&self, now: SystemTime) -> u64 {
        self.age_at(now).as_secs()
    }

    /// Seconds until it is stale; negative if it is.
    pub(super) fn left(&self, now: SystemTime) -> i64 {
        let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        let age = self.age_at(now);
        match self.lifetime.checked_sub(age) {
            Some(left) => seconds(left),
            None => -seconds(age - self.lifetime),
        }
    }

    fn age_at(&self, now: SystemTime) -> Duration {
        self.initial_age.saturating_add(now.duration_since(self.received).unwrap_or_default())
    }

    fn is_within(&self, grace: Duration, now: SystemTime) -> bool {
        let grace = if self.is_stale_forbidden() { Duration::ZERO } else { grace };
        self.age_at(now) < self.lifetime.saturating_add(grace) && self.is_clock_valid(now)
    }

    /// Whether the clock was not set back since. Otherwise the response would be fresh for longer than it should.
    fn is_clock_valid(&self, now: SystemTime) -> bool {
        self.received.duration_since(now).unwrap_or_default() <= CLOCK_TOLERANCE
    }
}

/// Whether a response with these headers must not be stored, or not be used without validation. An unreadable
/// `Cache-Control` counts as such.
pub(super) fn forbids(response_headers: &HeaderMap) -> bool {
    CacheControl::read(response_headers).is_none_or(|control| FORBIDS.iter().any(|word| control.has(word)))
}

/// Whether a request has directives about the responses that it accepts.
pub(super) fn has_directives(request_headers: &HeaderMap) -> bool {
    request_headers.contains_key(header::CACHE_CONTROL) || request_headers.contains_key(header::PRAGMA)
}

/// The age of a response at the time when its head was received (RFC 9111, 4.2.3): the larger of the age by `Date`, and
/// of `Age` with the delay of the response.
pub(super) fn age(response_headers: &HeaderMap, times: Times) -> Duration {
    let Times { requested, received } = times;
    let apparent = date(response_headers.get(header::DATE)).and_then(|date| received.duration_since(date).ok());
    // The first element of a list counts, and an invalid value is ignored (5.1).
    let said = response_headers.get(header::AGE).and_then(|age| number(age.to_str().ok()?.split(',').next()?.trim()));
    let delay = received.duration_since(requested).unwrap_or_default();
    let corrected = said.unwrap_or_default().saturating_add(delay);
    corrected.max(apparent.unwrap_or_default()).min(Duration::from_secs(MOST))
}

/// How long a response is fresh, from when the service sent it (RFC 9111, 4.2.1). `None` if nothing says so; zero if
/// the values are invalid or contradict one another.
fn lifetime(control: &CacheControl, head: &response::Parts, rules: Rules, received: SystemTime) -> Option<Duration> {
    let response_headers = &head.headers;
    for name in ["s-maxage", "max-age"] {
        match control.seconds(name) {
            Seconds::Absent => {}
            seconds => return Some(seconds.valid().unwrap_or_default()),
        }
    }
    let mut lines = response_headers.get_all(header::EXPIRES).iter();
    if let Some(first) = lines.next() {
        let expires = date(Some(first)).filter(|_| lines.all(|line| line == first));
        let sent = date(response_headers.get(header::DATE)).unwrap_or(received);
        let span = expires.and_then(|expires| expires.duration_since(sent).ok());
        return Some(span.unwrap_or_default().min(Duration::from_secs(MOST)));
    }
    let silent = [header::CACHE_CONTROL, header::PRAGMA].iter().all(|name| !response_headers.contains_key(name));
    (silent && head.status == StatusCode::OK).then_some(rules.ttl)
}

/// Parses a date in any of the three formats of HTTP (RFC 9110, 5.6.7).
pub(crate) fn date(value: Option<&HeaderValue>) -> Option<SystemTime> {
    httpdate::parse_http_date(value?.to_str().ok()?).ok()
}

/// A copy of a value in memory of its own. A parsed value shares its buffer with the whole message.
pub(super) fn own(value: &HeaderValue) -> Option<HeaderValue> {
    HeaderValue::from_bytes(value.as_bytes()).ok()
}

#[cfg(test)]
mod tests;
