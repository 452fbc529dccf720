//! What an admitted request holds, and what is recorded when it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode};

use super::adaptive::Adaptive;
use super::breaker::{Pass, Transition};
use super::rate::RateStatus;
use super::time_limit::TimeLimit;
use super::{Concurrency, Slot};
use lodge_base::telemetry::logs::CHANGE;
use lodge_base::telemetry::metrics::VersionStats;

/// Proof of admission. Not `Clone`; dropping it releases both slots.
#[derive(Debug)]
pub struct Permit {
    service: Slot,
    /// `None` once it was returned, because the response needs no sandbox.
    host: Option<Slot>,
    /// The start of the response time, and the state of the policies; only where there are policies.
    state: Option<(Instant, Box<PolicyState>)>,
}

/// The policies' state for one request: arrays have the route's entry, then the service's.
#[derive(Debug, Default)]
pub(super) struct PolicyState {
    pub(super) name: Option<Arc<str>>,
    pub(super) rate_statuses: [Option<RateStatus>; 2],
    pub(super) passes: [Option<Pass>; 2],
    pub(super) adaptive: Option<AdaptiveSlots>,
    /// The statistics by which the service's version is judged, and the verdict that was recorded, if any.
    judged: Option<(Arc<VersionStats>, Option<Verdict>)>,
    /// The time of the request, if its caller has left too little.
    cut: Option<TimeLimit>,
}

/// What the service had received of the client's body when it responded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upload {
    /// How long the service waited for the body.
    pub waited: Duration,
    /// The body broke off or was too large. A failure after that is the client's fault.
    pub broken: bool,
}

/// The adaptive limit, and the slots that it resizes.
#[derive(Debug)]
pub(super) struct AdaptiveSlots {
    pub(super) adaptive: Arc<Adaptive>,
    pub(super) slots: Arc<Concurrency>,
}

/// What the end of a request says of its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The service responded properly.
    Good,
    /// The service failed.
    Failed,
    /// The service used up its time.
    Late,
}

/// Whether the client is at fault for a request that used up its time: the service `waited` for the client's body for
/// at least half of the `elapsed` time. The last moment alone says nothing.
pub fn client_caused_timeout(waited: Duration, elapsed: Duration) -> bool {
    !waited.is_zero() && waited.saturating_mul(2) >= elapsed
}

impl PolicyState {
    pub(super) fn is_needed(&self) -> bool {
        let any = self.rate_statuses.iter().any(Option::is_some) || self.passes.iter().any(Option::is_some);
        any || self.adaptive.is_some()
    }

    fn record(&mut self, verdict: Verdict, began: Instant, took: Duration, now: Instant) {
        for pass in self.passes.iter_mut().flatten() {
            if let Some(change) = pass.record(verdict != Verdict::Good, took, now) {
                log_change(self.name.as_deref().unwrap_or_default(), change);
            }
        }
        if let Some((judged, known)) = &mut self.judged {
            match known.replace(verdict) {
                None => judged.count(verdict != Verdict::Good, took),
                Some(Verdict::Good) if verdict != Verdict::Good => judged.mark_failed(),
                Some(_) => {}
            }
        }
        // A quick failure says nothing about how many requests the service can take.
        if let Some(AdaptiveSlots { adaptive, slots }) = self.adaptive.as_ref().filter(|_| verdict != Verdict::Failed)
            && let Some(limit) = adaptive.record(began, took, now, slots.taken())
        {
            slots.resize(limit);
        }
    }
}

impl Permit {
    pub(super) fn new(service: Slot, host: Slot, state: Option<Box<PolicyState>>, arrived: Instant) -> Self {
        let began = arrived + service.waited + host.waited;
        Self { service, host: Some(host), state: state.map(|state| (began, state)) }
    }

    /// Counts this request's result in `judged`. `arrived` is when the request arrived.
    pub fn judge(&mut self, judged: &Arc<VersionStats>, arrived: Instant) {
        self.state(arrived).judged = Some((Arc::clone(judged), None));
    }

    /// Sets the time of the request, which arrived at `arrived`. A response with a failure that may be due to a caller that leaves too
    /// little is not recorded.
    pub fn limit(&mut self, limit: TimeLimit, arrived: Instant) {
        if limit.is_cut() {
            self.state(arrived).cut = Some(limit);
        }
    }

    /// Whether a failure now may be due to the caller, which has left too little time. `clock` is read only then.
    pub fn excuses(&self, clock: impl FnOnce() -> Instant) -> bool {
        self.cut().is_some_and(|limit| limit.excuses(clock()))
    }

    /// Returns the time until `deadline`, and from when on its end is the doing of the caller.
    pub fn until(&self, deadline: Instant) -> TimeLimit {
        self.cut().map_or(deadline.into(), |limit| TimeLimit { deadline, ..limit })
    }

    fn cut(&self) -> Option<TimeLimit> {
        self.state.as_ref().and_then(|(_, state)| state.cut)
    }

    fn state(&mut self, arrived: Instant) -> &mut PolicyState {
        let began = arrived + self.queue_wait();
        &mut self.state.get_or_insert_with(|| (began, Box::default())).1
    }

    /// Returns how long the request waited in both queues, until [`Self::return_sandbox`].
    pub fn queue_wait(&self) -> Duration {
        self.service.waited + self.host.as_ref().map_or(Duration::ZERO, |host| host.waited)
    }

    /// Returns the slot of `engine.instances`: what responds from now on is no sandbox. The slot of the service is held on.
    pub fn return_sandbox(&mut self) {
        self.host = None;
    }

    /// Records that the head of the response is there. The time in which the service waited for its client's body is
    /// not part of its response time, and a failure after a body that broke off is not counted. `clock` is read only if
    /// some policy needs it.
    pub fn record_response(&mut self, status: StatusCode, upload: Upload, clock: impl FnOnce() -> Instant) {
        let Some((began, state)) = &mut self.state else { return };
        let failed = status.is_server_error();
        if !(failed && upload.broken) {
            let (verdict, now) = (if failed { Verdict::Failed } else { Verdict::Good }, clock());
            if failed && state.cut.is_some_and(|limit| limit.excuses(now)) {
                return;
            }
            state.record(verdict, *began, now.saturating_duration_since(*began).saturating_sub(upload.waited), now);
        }
    }

    /// Appends the `RateLimit-Policy` and `RateLimit` fields of the rate limits that counted the request.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        if let Some((_, state)) = &self.state {
            state.rate_statuses.iter().flatten().for_each(|status| status.write(headers));
        }
    }

    /// Records that there is no response, or that it broke off after its head. `verdict` is `None` if that says nothing
    /// of the service.
    pub fn record_failure(&mut self, verdict: Option<Verdict>, clock: impl FnOnce() -> Instant) {
        if let Some((began, state)) = &mut self.state
            && let Some(verdict) = verdict
        {
            let now = clock();
            state.record(verdict, *began, now.saturating_duration_since(*began), now);
        }
    }
}

pub(super) fn log_change(name: &str, change: Transition) {
    match change {
        Transition::Opened(counts) => tracing::warn!(
            target: CHANGE,
            service = name,
            "{name}: breaker open; of {} calls {} failed, {} were slow",
            counts.calls,
            counts.failed,
            counts.slow
        ),
        Transition::Closed => tracing::info!(target: CHANGE, service = name, "{name}: breaker closed"),
    }
}
