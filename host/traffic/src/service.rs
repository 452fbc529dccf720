//! The state of a service that outlives its versions: its CPU share, its counters, its recent failures and the
//! operator's decisions about it.

pub mod deployment;
pub mod schedules;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant, SystemTime};

use http::StatusCode;
use serde::{Deserialize, Serialize};

use self::schedules::ScheduleCalls;
use lodge_base::cpu::scheduler::{CpuScheduler, CpuShare};
use lodge_base::lock::lock;
use lodge_base::telemetry::metrics::ServiceMetrics;
use lodge_base::time::rfc3339;
use lodge_manifest::digest::Digest;

/// The number of failed requests that a service remembers.
const FAILURES: usize = 20;

/// The number of failing requests whose stderr is kept until their failure is recorded.
const FAILING: usize = 8;

/// The number of disabled services whose files are gone that are remembered.
const DISABLED: usize = 1024;

/// The least time between two log lines about an outage of a service's state for the same reason.
const OUTAGE_LINES: Duration = Duration::from_secs(60);

/// The most log lines about outages of a service's state in that time, of any reasons.
const OUTAGE_REASONS: usize = 8;

/// Which outages of a service's state were logged.
#[derive(Debug, Default)]
struct OutageLog {
    /// When, and for which reasons.
    lines: Vec<(Instant, Box<str>)>,
    /// How many failures were not logged since the last line.
    unsaid: u64,
}

/// A service. It lives as long as one of its versions or a request to one.
#[derive(Debug)]
pub struct Service {
    /// The service's name; empty for requests that matched no service.
    pub name: Arc<str>,
    /// The service's CPU share.
    pub share: Arc<CpuShare>,
    /// The service's counters.
    pub metrics: ServiceMetrics,
    /// The last calls of its schedules.
    pub schedules: ScheduleCalls,
    /// Shared with [`Services`], which remember it when the service is gone.
    disabled: Arc<AtomicBool>,
    /// The files of the version that was withdrawn, and the reason.
    withdrawn: Mutex<Option<((Digest, u64), String)>>,
    failures: Mutex<VecDeque<FailedRequest>>,
    /// The stderr lines of failing requests, by request id, until the failure is recorded.
    stderr: Mutex<VecDeque<(Arc<str>, Vec<String>)>>,
    refusal: Mutex<Option<RefusedRequest>>,
    /// Responses that are not as its document describes them.
    mismatches: Mutex<VecDeque<ResponseMismatch>>,
    /// The current second, and the bytes of output that became log lines in it.
    output: Mutex<(u64, usize)>,
    /// Which outages of its state were logged.
    outages: Mutex<OutageLog>,
}

/// A failed request, as operators see it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct FailedRequest {
    /// The time, in the format of RFC 3339.
    pub at: String,
    /// The request id, as the client has it.
    pub request_id: String,
    /// The status that the client got; `None` when the response broke off.
    pub status: Option<u16>,
    /// The short, stable name of the error, as in the log.
    pub reason: Cow<'static, str>,
    /// The cause.
    pub detail: Option<String>,
    /// The file of the component in front of the service that failed, if it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// The guest's backtrace, innermost frame first, if it trapped.
    pub backtrace: Vec<String>,
    /// The last lines that the request wrote to stderr.
    pub stderr: Vec<String>,
}

/// A response that is not as the document of its service describes it. Only `lodge dev` looks for them.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct ResponseMismatch {
    /// The time, in the format of RFC 3339.
    pub at: String,
    /// The request id, as the client has it.
    pub request_id: String,
    /// The method and the path of the request.
    pub operation: String,
    /// The difference.
    pub why: String,
}

/// A request that was refused before its service worked on it.
#[derive(Clone, Debug)]
pub struct RefusedRequest {
    /// When.
    pub at: SystemTime,
    /// The short, stable name of the error.
    pub reason: &'static str,
    /// What was wrong with its credentials, in the same form.
    pub cause: Option<&'static str>,
    /// The name of its API key.
    pub key: Option<Arc<str>>,
}

/// How a service failed on a request.
#[derive(Debug)]
pub struct FailureReport<'a> {
    /// The status that the client got; `None` when the response broke off after its head.
    pub status: Option<StatusCode>,
    /// The short, stable name of the error.
    pub reason: &'static str,
    /// The cause.
    pub detail: Option<Cow<'a, str>>,
    /// The file of the component in front of the service that failed, if it was one.
    pub part: Option<&'a str>,
    /// The guest's backtrace, innermost frame first, if it trapped.
    pub backtrace: &'a [String],
}

/// All services of a host.
#[derive(Debug)]
pub struct Services {
    cpu: Arc<CpuScheduler>,
    known: Mutex<HashMap<Arc<str>, KnownService>>,
}

/// A service that is there, or was disabled when it was.
#[derive(Debug)]
struct KnownService {
    service: Weak<Service>,
    disabled: Arc<AtomicBool>,
}

impl Services {
    /// Returns an empty set of services.
    pub fn new(cpu: Arc<CpuScheduler>) -> Self {
        Self { cpu, known: Mutex::default() }
    }

    /// Returns the service with this name, and creates it if there is none.
    pub fn get_or_create(&self, name: &str) -> Arc<Service> {
        let mut known = lock(&self.known);
        if let Some(service) = known.get(name).and_then(|known| known.service.upgrade()) {
            return service;
        }
        let mut remembered = DISABLED;
        known.retain(|other, known| {
            let stays = &**other == name || known.disabled.load(Relaxed) && remembered > 0;
            remembered -= usize::from(stays && &**other != name && known.service.strong_count() == 0);
            stays || known.service.strong_count() > 0
        });
        let disabled = known.get(name).map(|known| Arc::clone(&known.disabled)).unwrap_or_default();
        let service = Service { disabled: Arc::clone(&disabled), ..Service::new(name, self.cpu.share()) };
        let service = Arc::new(service);
        known.insert(Arc::clone(&service.name), KnownService { service: Arc::downgrade(&service), disabled });
        service
    }
}

impl Service {
    /// Returns a service without any history.
    pub fn new(name: &str, share: Arc<CpuShare>) -> Self {
        Self {
            name: Arc::from(name),
            share,
            metrics: ServiceMetrics::default(),
            schedules: ScheduleCalls::default(),
            disabled: Arc::default(),
            withdrawn: Mutex::default(),
            failures: Mutex::default(),
            stderr: Mutex::default(),
            refusal: Mutex::default(),
            mismatches: Mutex::default(),
            output: Mutex::default(),
            outages: Mutex::default(),
        }
    }

    /// Whether an operator disabled the service.
    pub fn is_disabled(&self) -> bool {
        self.disabled.load(Relaxed)
    }

    /// Disables or enables the service until the host ends, also if its files are gone meanwhile. A manifest's `enabled` lasts longer.
    pub fn set_disabled(&self, disabled: bool) {
        self.disabled.store(disabled, Relaxed);
    }

    /// Remembers why the version with these files was withdrawn.
    pub fn withdraw(&self, files: (Digest, u64), why: String) {
        *lock(&self.withdrawn) = Some((files, why));
    }

    /// Returns why the version with these files was withdrawn, if it was.
    pub fn withdrawn(&self, files: (Digest, u64)) -> Option<String> {
        lock(&self.withdrawn).as_ref().filter(|(out, _)| *out == files).map(|(_, why)| why.clone())
    }

    /// Returns how many of `wanted` bytes of guest output may become log lines, at most `rate` bytes per second. `now`
    /// counts from any fixed time.
    pub fn take_output(&self, wanted: usize, rate: usize, now: Duration) -> usize {
        let mut output = lock(&self.output);
        if output.0 != now.as_secs() {
            *output = (now.as_secs(), 0);
        }
        let granted = wanted.min(rate.saturating_sub(output.1));
        output.1 += granted;
        granted
    }

    /// Records that the service's state is unavailable at `now`. Returns `None` if that must not be logged, or else how many
    /// failures were not logged since the last line: its guests can cause them as often as they like.
    pub fn record_outage(&self, now: Instant, reason: &str) -> Option<u64> {
        let OutageLog { lines, unsaid } = &mut *lock(&self.outages);
        lines.retain(|(at, _)| now.saturating_duration_since(*at) < OUTAGE_LINES);
        if lines.len() >= OUTAGE_REASONS || lines.iter().any(|(_, said)| **said == *reason) {
            *unsaid += 1;
            return None;
        }
        lines.push((now, reason.into()));
        Some(std::mem::take(unsaid))
    }

    /// Keeps the stderr lines of a failing request until its failure is recorded.
    pub fn record_stderr(&self, request_id: Arc<str>, lines: Vec<String>) {
        if lines.is_empty() {
            return;
        }
        let mut stderr = lock(&self.stderr);
        if stderr.len() == FAILING {
            stderr.pop_front();
        }
        stderr.push_back((request_id, lines));
    }

    fn take_stderr(&self, request_id: &str) -> Vec<String> {
        let mut stderr = lock(&self.stderr);
        let at = stderr.iter().rposition(|(id, _)| **id == *request_id);
        at.and_then(|at| stderr.remove(at)).map(|(_, lines)| lines).unwrap_or_default()
    }

    /// Counts a request that was refused before the service worked on it.
    pub fn record_refusal(&self, reason: &'static str, cause: Option<&'static str>, key: Option<Arc<str>>) {
        self.metrics.refused.count(reason);
        *lock(&self.refusal) = Some(RefusedRequest { at: SystemTime::now(), reason, cause, key });
    }

    /// Remembers a response that is not as the document of the service describes it.
    pub fn record_mismatch(&self, mismatch: ResponseMismatch) {
        let mut mismatches = lock(&self.mismatches);
        mismatches.truncate(FAILURES - 1);
        mismatches.push_front(mismatch);
    }

    /// Returns the last of these responses, the newest first.
    pub fn mismatches(&self) -> Vec<ResponseMismatch> {
        lock(&self.mismatches).iter().cloned().collect()
    }

    /// Counts a request on which the service failed, and remembers it with the lines that it wrote to stderr.
    pub fn record_failure(&self, request_id: &str, report: FailureReport<'_>) {
        let FailureReport { status, reason, detail, part, backtrace } = report;
        let tally = if status.is_none() { &self.metrics.aborted } else { &self.metrics.failed };
        tally.count(reason);
        let failure = FailedRequest {
            at: rfc3339(SystemTime::now()),
            request_id: request_id.to_owned(),
            status: status.map(|status| status.as_u16()),
            reason: reason.into(),
            detail: detail.map(Cow::into_owned),
            part: part.map(str::to_owned),
            backtrace: backtrace.to_vec(),
            stderr: self.take_stderr(request_id),
        };
        let mut failures = lock(&self.failures);
        if failures.len() == FAILURES {
            failures.pop_back();
        }
        failures.push_front(failure);
    }

    /// Returns the recent failures, the newest first.
    pub fn failures(&self) -> Vec<FailedRequest> {
        lock(&self.failures).iter().cloned().collect()
    }

    /// Returns the last request that was refused.
    pub fn last_refusal(&self) -> Option<RefusedRequest> {
        lock(&self.refusal).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However often its files go and come back, until it is enabled.
    #[test]
    fn a_disabled_service_returns_disabled() {
        let services = Services::new(CpuScheduler::new(1));
        services.get_or_create("a").set_disabled(true);
        for _ in 0..2 {
            services.get_or_create("b");
            assert!(services.get_or_create("a").is_disabled());
        }
        services.get_or_create("a").set_disabled(false);
        services.get_or_create("b");
        assert!(!services.get_or_create("a").is_disabled() && !services.get_or_create("b").is_disabled());
        let served = services.get_or_create("served");
        served.set_disabled(true);
        for number in 0..DISABLED + 9 {
            services.get_or_create(&number.to_string()).set_disabled(true);
        }
        assert!(services.get_or_create("served").is_disabled());
        assert_eq!(lock(&services.known).len(), DISABLED + 2, "with the one that is there, and the last");
    }

    #[test]
    fn outages_are_logged_once_a_minute() {
        let (services, start) = (Services::new(CpuScheduler::new(1)), Instant::now());
        let (one, other) = (services.get_or_create("one"), services.get_or_create("other"));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(one.record_outage(at(0), "down"), Some(0));
        assert_eq!((1..60).filter_map(|second| one.record_outage(at(second), "down")).count(), 0);
        assert_eq!(one.record_outage(at(60), "down"), Some(59), "the next line says how many there were");
        assert_eq!(one.record_outage(at(61), "down"), None);
        assert_eq!(other.record_outage(at(61), "down"), Some(0), "each service has lines of its own");
        assert_eq!(one.record_outage(at(62), "the password is wrong"), Some(1), "another reason is said at once");
        assert_eq!(one.record_outage(at(63), "down"), None, "and no reason twice in a minute");
        let reasons = (0..100).filter_map(|number| one.record_outage(at(64), &number.to_string()));
        assert_eq!(reasons.count(), OUTAGE_REASONS - 2, "reasons that are always new are not logged without end");
    }
}
