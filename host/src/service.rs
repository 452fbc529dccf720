//! What a service is across its versions: its part of the CPU, what was counted of it, what went wrong lately, and what
//! an operator has said of it.

pub mod deployment;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::base::lock::lock;
use crate::base::time::rfc3339;
use crate::cpu::scheduler::{CpuScheduler, CpuShare};
use crate::error::RequestError;
use crate::manifest::digest::Digest;
use crate::telemetry::metrics::ServiceMetrics;

/// Failures of a service that are remembered.
const FAILURES: usize = 20;

/// Requests whose failure is to be recorded soon, and of which stderr is kept until then.
const FAILING: usize = 8;

/// A service. Lives as long as one of its versions does, or a request to one.
#[derive(Debug)]
pub struct Service {
    /// Its name; empty for requests that found no service.
    pub name: Arc<str>,
    /// Its part of the CPU.
    pub share: Arc<CpuShare>,
    /// What was counted of it.
    pub figures: ServiceMetrics,
    disabled: AtomicBool,
    /// The files of the version that was taken out, and why.
    withdrawn: Mutex<Option<((Digest, u64), String)>>,
    failures: Mutex<VecDeque<FailedRequest>>,
    /// What failed requests have written to stderr, by their ids, until the failure is recorded.
    stderr: Mutex<VecDeque<(Arc<str>, Vec<String>)>>,
    refusal: Mutex<Option<(SystemTime, &'static str)>>,
    /// The second that it is, and bytes of output that became log lines in it.
    output: Mutex<(u64, usize)>,
}

/// A request that failed, in the operator's words.
#[derive(Clone, Debug, Serialize)]
pub struct FailedRequest {
    /// When, as RFC 3339.
    pub at: String,
    /// As the caller has it.
    pub request_id: String,
    /// What the caller got; none when it was an answer that broke off.
    pub status: Option<u16>,
    /// Short and unchanging, as in the log.
    pub reason: &'static str,
    /// The cause.
    pub detail: Option<String>,
    /// Where in the guest, innermost first, when it trapped.
    pub backtrace: Vec<String>,
    /// The last lines that the request has written to stderr.
    pub stderr: Vec<String>,
}

/// Every service there is.
#[derive(Debug)]
pub struct Services {
    turns: Arc<CpuScheduler>,
    known: Mutex<HashMap<Arc<str>, Weak<Service>>>,
}

impl Services {
    /// None yet.
    pub fn new(turns: Arc<CpuScheduler>) -> Self {
        Self { turns, known: Mutex::default() }
    }

    /// The service of this name: the one that lives, or a new one.
    pub fn get_or_create(&self, name: &str) -> Arc<Service> {
        let mut known = lock(&self.known);
        if let Some(service) = known.get(name).and_then(Weak::upgrade) {
            return service;
        }
        known.retain(|_, service| service.strong_count() > 0);
        let service = Arc::new(Service::new(name, self.turns.share()));
        known.insert(Arc::clone(&service.name), Arc::downgrade(&service));
        service
    }
}

impl Service {
    /// A service that nothing is known of yet.
    pub fn new(name: &str, share: Arc<CpuShare>) -> Self {
        Self {
            name: Arc::from(name),
            share,
            figures: ServiceMetrics::default(),
            disabled: AtomicBool::new(false),
            withdrawn: Mutex::default(),
            failures: Mutex::default(),
            stderr: Mutex::default(),
            refusal: Mutex::default(),
            output: Mutex::default(),
        }
    }

    /// Whether an operator has said that it is not to be asked.
    pub fn is_disabled(&self) -> bool {
        self.disabled.load(Relaxed)
    }

    /// Says whether it may be asked. Forgotten when the host ends; a manifest's `enabled` is not.
    pub fn set_disabled(&self, disabled: bool) {
        self.disabled.store(disabled, Relaxed);
    }

    /// Remembers why the version of these files was taken out.
    pub fn withdraw(&self, files: (Digest, u64), why: String) {
        *lock(&self.withdrawn) = Some((files, why));
    }

    /// Why the version of these files was taken out, if it was.
    pub fn withdrawn(&self, files: (Digest, u64)) -> Option<String> {
        lock(&self.withdrawn).as_ref().filter(|(out, _)| *out == files).map(|(_, why)| why.clone())
    }

    /// How much of `wanted` bytes of its guests' output may become log lines, at `rate` bytes a second.
    pub fn take_output(&self, wanted: usize, rate: usize, now: Duration) -> usize {
        let mut output = lock(&self.output);
        if output.0 != now.as_secs() {
            *output = (now.as_secs(), 0);
        }
        let granted = wanted.min(rate.saturating_sub(output.1));
        output.1 += granted;
        granted
    }

    /// A request that fails has written these lines to stderr.
    pub(crate) fn record_stderr(&self, request_id: Arc<str>, lines: Vec<String>) {
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

    /// Counts a request that got no answer from a guest, or one whose answer broke off after its head.
    pub fn record_failure(&self, error: &RequestError, request_id: &str, headed: bool) {
        let reason = error.reason();
        if !headed && !error.reached_backend() {
            self.figures.refused.count(reason);
            *lock(&self.refusal) = Some((SystemTime::now(), reason));
            return;
        }
        let tally = if headed { &self.figures.aborted } else { &self.figures.failed };
        tally.count(reason);
        let failure = FailedRequest {
            at: rfc3339(SystemTime::now()),
            request_id: request_id.to_owned(),
            status: (!headed).then(|| error.status().as_u16()),
            reason,
            detail: error.detail(),
            backtrace: error.backtrace().to_vec(),
            stderr: self.take_stderr(request_id),
        };
        let mut failures = lock(&self.failures);
        if failures.len() == FAILURES {
            failures.pop_back();
        }
        failures.push_front(failure);
    }

    /// What failed lately, the last first.
    pub fn failures(&self) -> Vec<FailedRequest> {
        lock(&self.failures).iter().cloned().collect()
    }

    /// When a request was turned away the last time, and why.
    pub fn last_refusal(&self) -> Option<(SystemTime, &'static str)> {
        *lock(&self.refusal)
    }
}
