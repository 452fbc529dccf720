//! Rate limits: the generic cell rate algorithm (GCRA).
//!
//! A bucket is stored as the time at which it is full again. A request moves that time on by one interval, and is
//! refused when it would move further than a whole burst from now. Never more than `burst + rate × time` requests are
//! admitted, whatever their timing and number of threads.

mod failures;
mod status;
mod table;

pub use failures::{Attempter, FailedAttempts};
pub use status::RateStatus;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::header::HeaderValue;

use super::request_view::RequestView;
use lodge_manifest::rate::{By, Settings};
use table::Table;

/// A rate limit with its settings and state.
#[derive(Debug)]
pub struct Rate {
    settings: Settings,
    quota: Quota,
    name: String,
    policy: HeaderValue,
    state: Arc<State>,
}

/// The parameters of GCRA, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quota {
    /// The interval between two requests at the full rate.
    interval: u64,
    /// The furthest that a bucket's time may be from now: a whole burst.
    span: u64,
}

/// The state of the buckets. Versions of the service and of its manifest share it.
#[derive(Debug)]
struct State {
    /// Times are stored relative to this.
    epoch: Instant,
    single: AtomicU64,
    /// Allocated for the first request that needs it, because most services are idle.
    table: OnceLock<Table>,
}

impl Quota {
    /// Returns the parameters, rounded so that never more than the rate is admitted.
    fn of(settings: &Settings) -> Self {
        let per = u64::try_from(settings.per.as_nanos()).unwrap_or(u64::MAX);
        let interval = per.div_ceil(u64::from(settings.count.max(1)));
        Self { interval, span: interval.saturating_mul(u64::from(settings.burst.max(1))) }
    }

    /// Returns when a bucket that is full again at `full` would be full again after one more request.
    ///
    /// # Errors
    /// The nanoseconds until there is room for one request.
    fn take(self, full: u64, now: u64) -> Result<u64, u64> {
        let next = full.max(now).saturating_add(self.interval);
        let room = now.saturating_add(self.span);
        if next <= room { Ok(next) } else { Err(next - room) }
    }

    /// Converts a bucket's time to another quota, so that the same number of requests is used, at most its whole burst.
    fn convert(self, full: u64, now: u64, to: Self) -> u64 {
        let used = u128::from(full.saturating_sub(now)) * u128::from(to.interval) / u128::from(self.interval.max(1));
        now.saturating_add(u64::try_from(used).unwrap_or(u64::MAX).min(to.span))
    }
}

impl Rate {
    /// Returns an unused limit. `scope` distinguishes the limits of routes from their service's.
    pub fn new(settings: &Settings, scope: &str, now: Instant) -> Self {
        Self::with(settings, scope, Arc::new(State::new(now)))
    }

    /// Returns this limit with other settings. The used part carries over, unless the new settings use other keys.
    pub fn with_settings(&self, settings: &Settings, scope: &str, now: Instant) -> Self {
        let to = Quota::of(settings);
        let state = match (self.settings.by == settings.by, self.quota == to) {
            (true, true) => Arc::clone(&self.state),
            (true, false) => Arc::new(self.state.converted(now, |full, now| self.quota.convert(full, now, to))),
            (false, _) => Arc::new(State::new(now)),
        };
        Self::with(settings, scope, state)
    }

    fn with(settings: &Settings, scope: &str, state: Arc<State>) -> Self {
        let quota = Quota::of(settings);
        let by = match &settings.by {
            By::Service => "service",
            By::Client => "client",
            By::Header(name) => name.as_str(),
            By::Identity => "identity",
            By::Claim(name) => name,
        };
        let name = format!("{scope}{by}");
        let window = quota.span.div_ceil(1_000_000_000);
        let policy = format!("\"{name}\";q={};w={window}", settings.burst);
        // A header's name and a number are always a valid header value.
        let policy = HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static(""));
        Self { settings: settings.clone(), quota, name, policy, state }
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes one request from its bucket.
    ///
    /// # Errors
    /// When there is no room for the request; the status says when there is.
    pub fn take(&self, view: &RequestView<'_>, now: Instant) -> Result<RateStatus, RateStatus> {
        let at = self.state.since(now);
        let take = |full: u64| self.quota.take(full, at);
        let taken = match &self.settings.by {
            By::Service => {
                let next = self.state.single.fetch_update(Relaxed, Relaxed, |full| take(full).ok());
                // Either variant holds the value from before this request.
                let (Ok(full) | Err(full)) = next;
                take(full).map_err(|wait| (full, wait))
            }
            By::Client => self.take_by_client(view, take),
            By::Identity => self.take_by_identity(view, None, take),
            By::Claim(name) => self.take_by_identity(view, Some(name), take),
            By::Header(name) => {
                let value = view.headers.get(name).map_or(&[] as &[u8], HeaderValue::as_bytes);
                self.state.table().take(&value, take)
            }
        };
        match taken {
            Ok(full) => Ok(self.status(full.saturating_sub(at), 0)),
            Err((full, wait)) => Err(self.status(full.saturating_sub(at), wait)),
        }
    }

    /// Takes one request from the bucket of the client's address, and of the one that it claims.
    fn take_by_client(
        &self,
        view: &RequestView<'_>,
        take: impl Fn(u64) -> Result<u64, u64> + Copy,
    ) -> Result<u64, (u64, u64)> {
        let (own, table) = (key_of(view.client), self.state.table());
        let claimed = view.claimed.map(key_of).filter(|key| *key != own);
        table.take(&own, take).and_then(|full| match claimed {
            Some(key) => table.take(&key, take).map(|other| full.max(other)),
            None => Ok(full),
        })
    }

    /// Takes one request from the bucket of the sender, or of its claim.
    fn take_by_identity(
        &self,
        view: &RequestView<'_>,
        claim: Option<&str>,
        take: impl Fn(u64) -> Result<u64, u64> + Copy,
    ) -> Result<u64, (u64, u64)> {
        let Some(identity) = view.identity else { return self.take_by_client(view, take) };
        match claim.and_then(|name| identity.claim(name)) {
            Some(value) => self.state.table().take(&("claim", &*value), take),
            None => self.state.table().take(&(identity.method().name(), identity.issuer(), identity.subject()), take),
        }
    }

    /// `ahead` is the time until the bucket is full again, `wait` the time until there is room for one more request,
    /// both in nanoseconds.
    fn status(&self, ahead: u64, wait: u64) -> RateStatus {
        let remaining = self.quota.span.saturating_sub(ahead) / self.quota.interval.max(1);
        let seconds = |nanos: u64| nanos.div_ceil(1_000_000_000);
        RateStatus::new(&self.policy, &self.name, remaining, seconds(ahead), seconds(wait))
    }

    /// Returns the number of buckets that are not full; `None` where all requests share one bucket.
    pub fn keys(&self, now: Instant) -> Option<usize> {
        let at = self.state.since(now);
        (self.settings.by != By::Service).then(|| self.state.table.get().map_or(0, |table| table.in_use(at)))
    }

    /// Returns the number of requests for which there is room; `None` where there are several buckets.
    pub fn remaining(&self, now: Instant) -> Option<u64> {
        let ahead = self.state.single.load(Relaxed).saturating_sub(self.state.since(now));
        let room = self.quota.span.saturating_sub(ahead) / self.quota.interval.max(1);
        (self.settings.by == By::Service).then_some(room)
    }
}

impl State {
    fn new(now: Instant) -> Self {
        Self { epoch: now, single: AtomicU64::new(0), table: OnceLock::new() }
    }

    fn since(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    fn table(&self) -> &Table {
        self.table.get_or_init(Table::default)
    }

    /// Returns a copy in which every bucket is converted. It lacks the requests that the old limit admits in the
    /// microseconds until the new version is active.
    fn converted(&self, now: Instant, convert: impl Fn(u64, u64) -> u64) -> Self {
        let at = self.since(now);
        let table = OnceLock::new();
        if let Some(old) = self.table.get() {
            let _ = table.set(old.converted(|full| convert(full, at)));
        }
        Self { epoch: self.epoch, single: AtomicU64::new(convert(self.single.load(Relaxed), at)), table }
    }
}

/// Returns the key of a client: its IPv4 address, or the /64 network of its IPv6 address, which one client has to
/// itself.
pub(crate) fn key_of(client: IpAddr) -> u64 {
    match client {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        // No assigned /64 network equals an IPv4 key with the highest bit set.
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64 | 1 << 63,
    }
}

#[cfg(test)]
mod tests;
