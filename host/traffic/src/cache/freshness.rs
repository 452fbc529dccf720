//! Whether a response may be stored, and for how long it is fresh (RFC 9111, 3 and 4.2). Pure: the time is passed in.
//!
//! Stricter than the RFC, on purpose: freshness is never guessed (4.2.2), a response with `Set-Cookie` is never stored,
//! and neither is one that would have to be validated at every use.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderValue};
use http::{StatusCode, response};

use super::control::{Control, MOST, Seconds, number};
use super::lists::{self, Quoting};
use lodge_manifest::cache::Rules;

/// Final status codes whose caching this cache implements. Parts of responses (206) are not among them.
const STATUSES: [u16; 14] = [200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501];

/// Directives of a response that keep it out of this cache.
const FORBIDS: [&str; 3] = ["no-store", "private", "no-cache"];

/// A clock that is behind by more than this was set back. By less, another thread read it a moment earlier.
const SET_BACK: Duration = Duration::from_secs(1);

/// When a response was asked for, and when its head came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) requested: SystemTime,
    pub(super) received: SystemTime,
}

/// The terms on which a response is stored.
#[derive(Debug)]
pub(super) struct Terms {
    received: SystemTime,
    /// Its age then (RFC 9111, 4.2.3).
    initial_age: Duration,
    lifetime: Duration,
    /// It says itself that it is for everybody: `public`, or `s-maxage`.
    pub(super) shared: bool,
    /// Once stale it must not be used without validation (RFC 9111, 4.2.4).
    strict: bool,
    while_revalidate: Duration,
    if_error: Duration,
    /// Its service has said since that such a response must not be stored.
    withdrawn: AtomicBool,
}

impl Terms {
    /// The terms of a response to a GET with the headers `asked`; `None` when it must not be stored, or would never be
    /// fresh.
    pub(super) fn of(asked: &HeaderMap, head: &response::Parts, rules: Rules, times: Times) -> Option<Self> {
        let answer = &head.headers;
        let mut names = lists::elements(answer, &header::VARY, Quoting::Escapes);
        if answer.contains_key(header::SET_COOKIE) || names.any(|name| name == b"*") {
            return None;
        }
        let control = Control::read(answer)?;
        let (public, s_maxage) = (control.says("public"), control.says("s-maxage"));
        if FORBIDS.iter().any(|word| control.says(word))
            || Control::read(asked)?.says("no-store")
            || !STATUSES.contains(&head.status.as_u16())
        {
            return None;
        }
        if asked.contains_key(header::AUTHORIZATION) && !(public || s_maxage || control.says("must-revalidate")) {
            return None;
        }
        let strict = s_maxage || control.says("must-revalidate") || control.says("proxy-revalidate");
        let grace = |name| control.seconds(name).valid().filter(|_| !strict).unwrap_or_default();
        let terms = Self {
            received: times.received,
            initial_age: age(answer, times),
            lifetime: lifetime(&control, head, rules, times.received)?,
            shared: public || s_maxage,
            strict,
            while_revalidate: grace("stale-while-revalidate"),
            if_error: grace("stale-if-error"),
            withdrawn: AtomicBool::new(false),
        };
        terms.is_fresh(times.received).then_some(terms)
    }

    /// When its head came.
    pub(super) fn received(&self) -> SystemTime {
        self.received
    }

    /// Whether it may be the response to a request with these headers without validation.
    pub(super) fn satisfies(&self, asked: &HeaderMap, now: SystemTime) -> bool {
        if !has_directives(asked) {
            return self.is_fresh(now);
        }
        let Some(control) = Control::read(asked).filter(|control| !control.says("no-cache")) else { return false };
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
        young && lasting && (fresh || (stale && !self.strict && !self.is_withdrawn() && self.is_after(now)))
    }

    /// Whether it is fresh for a request that says nothing of that.
    pub(super) fn is_fresh(&self, now: SystemTime) -> bool {
        self.is_within(Duration::ZERO, now)
    }

    /// Whether it may be used stale while it is revalidated (RFC 5861, 3).
    pub(super) fn serves_meanwhile(&self, now: SystemTime) -> bool {
        self.is_within(self.while_revalidate, now)
    }

    /// Whether it may be used stale in the place of a failure: by `stale-if-error` (RFC 5861, 4), or since it may be
    /// used stale while it is revalidated, and the failure is what revalidation came to.
    pub(super) fn serves_on_error(&self, now: SystemTime) -> bool {
        self.is_within(self.if_error.max(self.while_revalidate), now)
    }

    /// Ends every use of it once it is stale.
    pub(super) fn withdraw(&self) {
        self.withdrawn.store(true, Relaxed);
    }

    fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Relaxed)
    }

    /// Its age in seconds (RFC 9111, 4.2.3).
    pub(super) fn age(&self, now: SystemTime) -> u64 {
        self.age_at(now).as_secs()
    }

    /// Seconds for which it is fresh; negative since it is not.
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
        let grace = if self.is_withdrawn() { Duration::ZERO } else { grace };
        self.age_at(now) < self.lifetime.saturating_add(grace) && self.is_after(now)
    }

    /// Whether the clock is where it was or later. What was stored before it was set back would be fresh for as much
    /// longer.
    fn is_after(&self, now: SystemTime) -> bool {
        self.received.duration_since(now).unwrap_or_default() <= SET_BACK
    }
}

/// Whether a response with these headers says that it must not be stored, or not be used without validation. One whose
/// `Cache-Control` cannot be read might say that.
pub(super) fn forbids(answer: &HeaderMap) -> bool {
    Control::read(answer).is_none_or(|control| FORBIDS.iter().any(|word| control.says(word)))
}

/// Whether a request says anything of the responses that it would take.
pub(super) fn has_directives(asked: &HeaderMap) -> bool {
    asked.contains_key(header::CACHE_CONTROL) || asked.contains_key(header::PRAGMA)
}

/// The age of a response whose head has just come (RFC 9111, 4.2.3): what caches before this one say of it and the time
/// that it was on its way, or what its `Date` says, whichever is longer.
pub(super) fn age(answer: &HeaderMap, times: Times) -> Duration {
    let Times { requested, received } = times;
    let apparent = date(answer.get(header::DATE)).and_then(|date| received.duration_since(date).ok());
    // A list counts by its first member, and what is no number counts for nothing (5.1).
    let said = answer.get(header::AGE).and_then(|age| number(age.to_str().ok()?.split(',').next()?.trim()));
    let delay = received.duration_since(requested).unwrap_or_default();
    let corrected = said.unwrap_or_default().saturating_add(delay);
    corrected.max(apparent.unwrap_or_default()).min(Duration::from_secs(MOST))
}

/// How long a response is fresh, counted from when its maker sent it (RFC 9111, 4.2.1); `None` where it does not say. What
/// is not valid, or contradicts itself, is no time at all.
fn lifetime(control: &Control, head: &response::Parts, rules: Rules, received: SystemTime) -> Option<Duration> {
    let answer = &head.headers;
    for name in ["s-maxage", "max-age"] {
        match control.seconds(name) {
            Seconds::Absent => {}
            seconds => return Some(seconds.valid().unwrap_or_default()),
        }
    }
    let mut lines = answer.get_all(header::EXPIRES).iter();
    if let Some(first) = lines.next() {
        let expires = date(Some(first)).filter(|_| lines.all(|line| line == first));
        let sent = date(answer.get(header::DATE)).unwrap_or(received);
        let span = expires.and_then(|expires| expires.duration_since(sent).ok());
        return Some(span.unwrap_or_default().min(Duration::from_secs(MOST)));
    }
    let silent = [header::CACHE_CONTROL, header::PRAGMA].iter().all(|name| !answer.contains_key(name));
    (silent && head.status == StatusCode::OK).then_some(rules.ttl)
}

/// A moment as HTTP writes it, in any of the three formats (RFC 9110, 5.6.7).
pub(super) fn date(value: Option<&HeaderValue>) -> Option<SystemTime> {
    httpdate::parse_http_date(value?.to_str().ok()?).ok()
}

/// A value in memory of its own: that of a message that was read shares it with all that was read.
pub(super) fn own(value: &HeaderValue) -> Option<HeaderValue> {
    HeaderValue::from_bytes(value.as_bytes()).ok()
}

#[cfg(test)]
mod tests;
