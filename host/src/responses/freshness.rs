//! Whether an answer may be stored, and for how long it is fresh: RFC 9111, by a library. Pure: the time is passed in.
//!
//! What the library takes for granted is made so first: names of directives in lower case, an `Age` that can be added to.
//! Stricter than it, on purpose: nothing is guessed from `Last-Modified`, and `Set-Cookie` is never given to two clients.

use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri, response};
use http_cache_semantics::{BeforeRequest, CacheOptions, CachePolicy, RequestLike, ResponseLike};

use crate::guests::manifest::cache::Rules;

/// RFC 9111, 1.2.2: what a number of seconds is that is too large to count with.
const MOST: u64 = 1 << 31;

/// As a shared cache reads it; with no share of a resource's age as a guess of how long it stays.
const OPTIONS: CacheOptions = CacheOptions {
    shared: true,
    cache_heuristic: 0.0,
    immutable_min_time_to_live: Duration::ZERO,
    ignore_cargo_cult: false,
};

/// On what terms an answer was stored.
pub(super) struct Terms {
    policy: CachePolicy,
    fresh_until: SystemTime,
    /// It says itself that it is for everybody: `public`, or `s-maxage`.
    pub(super) shared: bool,
    while_revalidate: Duration,
    if_error: Duration,
}

impl Terms {
    /// The terms of an answer to a GET with these headers, received `now`; `None` when it must not be stored, or would
    /// never be fresh.
    pub(super) fn of(asked: &HeaderMap, head: &response::Parts, rules: Rules, now: SystemTime) -> Option<Self> {
        let answer = &head.headers;
        if answer.contains_key(header::SET_COOKIE) || lists(answer, &header::VARY, |name| name == "*") {
            return None;
        }
        let mut control = directives(answer)?;
        let silent = [header::CACHE_CONTROL, header::EXPIRES, header::PRAGMA];
        if head.status == StatusCode::OK && !silent.iter().any(|name| answer.contains_key(name)) {
            control = format!("max-age={}", rules.ttl.as_secs());
        }
        let said = |wanted: &str| control.split(',').any(|part| name_of(part) == wanted);
        let seconds = |wanted: &str| {
            let value = control.split(',').find(|part| name_of(part) == wanted)?.split_once('=')?.1;
            Some(Duration::from_secs(value.trim().trim_matches('"').parse::<u64>().ok()?.min(MOST)))
        };
        let strict = said("must-revalidate") || said("proxy-revalidate");
        let grace = |wanted: &str| seconds(wanted).filter(|_| !strict).unwrap_or_default();
        let (shared, while_revalidate, if_error) =
            (said("public") || said("s-maxage"), grace("stale-while-revalidate"), grace("stale-if-error"));
        let policy = CachePolicy::new_options(&Asked::of(asked)?, &Answered::of(head, &control)?, now, OPTIONS);
        let fresh = policy.time_to_live(now);
        let fresh_until = now.checked_add(fresh.min(Duration::from_secs(MOST)))?;
        (policy.is_storable() && !fresh.is_zero()).then_some(Self {
            policy,
            fresh_until,
            shared,
            while_revalidate,
            if_error,
        })
    }

    /// Whether it may answer a request with these headers, unasked.
    pub(super) fn satisfies(&self, asked: &HeaderMap, now: SystemTime) -> bool {
        if !has_directives(asked) {
            return self.is_fresh(now);
        }
        let before = Asked::of(asked).map(|asked| self.policy.before_request(&asked, now));
        matches!(before, Some(BeforeRequest::Fresh(_)))
    }

    /// Whether it is as its maker wants it.
    pub(super) fn is_fresh(&self, now: SystemTime) -> bool {
        now < self.fresh_until
    }

    /// Whether it may still be given while somebody asks for a newer one.
    pub(super) fn serves_meanwhile(&self, now: SystemTime) -> bool {
        now < self.fresh_until + self.while_revalidate
    }

    /// Whether it may be given in the place of a failure.
    pub(super) fn serves_on_error(&self, now: SystemTime) -> bool {
        now < self.fresh_until + self.if_error
    }

    /// Seconds since it was made.
    pub(super) fn age(&self, now: SystemTime) -> u64 {
        self.policy.age(now).as_secs()
    }

    /// Seconds for which it is fresh; negative since it is not.
    pub(super) fn left(&self, now: SystemTime) -> i64 {
        let whole = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        match self.fresh_until.duration_since(now) {
            Ok(left) => whole(left),
            Err(over) => -whole(over.duration()),
        }
    }
}

/// Whether a request says anything of the answers that it would take.
pub(super) fn has_directives(asked: &HeaderMap) -> bool {
    asked.contains_key(header::CACHE_CONTROL) || asked.contains_key(header::PRAGMA)
}

/// A value in memory of its own: that of a message that was read shares it with all that was read.
pub(super) fn own(value: &HeaderValue) -> Option<HeaderValue> {
    HeaderValue::from_bytes(value.as_bytes()).ok()
}

/// Whether any element of a list header is so.
pub(super) fn lists(headers: &HeaderMap, name: &HeaderName, so: impl Fn(&str) -> bool) -> bool {
    elements(headers, name).any(so)
}

/// The elements of a list header, in every line of it.
pub(super) fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|element| !element.is_empty())
}

/// `Cache-Control` in lower case and one line; `None` when it cannot be read, and so might forbid anything.
fn directives(headers: &HeaderMap) -> Option<String> {
    let mut all = String::new();
    for value in headers.get_all(header::CACHE_CONTROL) {
        if !all.is_empty() {
            all.push(',');
        }
        all.push_str(&value.to_str().ok()?.to_ascii_lowercase());
    }
    Some(all)
}

fn name_of(directive: &str) -> &str {
    directive.split('=').next().unwrap_or_default().trim()
}

/// A request, as far as the library has to know it: the key and `Vary` are compared elsewhere.
struct Asked(HeaderMap);

impl Asked {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut known = HeaderMap::new();
        let control = directives(headers)?;
        if !control.is_empty() {
            known.insert(header::CACHE_CONTROL, HeaderValue::try_from(control).ok()?);
        }
        if let Some(pragma) = headers.get(header::PRAGMA) {
            known.insert(header::PRAGMA, own(pragma)?);
        }
        if headers.contains_key(header::AUTHORIZATION) {
            // That there is one is all that counts.
            known.insert(header::AUTHORIZATION, HeaderValue::from_static(""));
        }
        Some(Self(known))
    }
}

impl RequestLike for Asked {
    fn uri(&self) -> Uri {
        Uri::default()
    }

    fn is_same_uri(&self, _: &Uri) -> bool {
        true
    }

    fn method(&self) -> &Method {
        &Method::GET
    }

    fn headers(&self) -> &HeaderMap {
        &self.0
    }
}

/// An answer, likewise.
struct Answered(StatusCode, HeaderMap);

impl Answered {
    fn of(head: &response::Parts, control: &str) -> Option<Self> {
        let mut known = HeaderMap::new();
        if !control.is_empty() {
            known.insert(header::CACHE_CONTROL, HeaderValue::from_str(control).ok()?);
        }
        for name in [header::PRAGMA, header::EXPIRES, header::DATE] {
            if let Some(value) = head.headers.get(&name) {
                known.insert(name, own(value)?);
            }
        }
        if let Some(age) = head.headers.get(header::AGE) {
            let age = age.to_str().ok().and_then(|age| age.trim().parse::<u64>().ok()).unwrap_or(MOST);
            known.insert(header::AGE, HeaderValue::from(age.min(MOST)));
        }
        Some(Self(head.status, known))
    }
}

impl ResponseLike for Answered {
    fn status(&self) -> StatusCode {
        self.0
    }

    fn headers(&self) -> &HeaderMap {
        &self.1
    }
}

#[cfg(test)]
mod tests;
