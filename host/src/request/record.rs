//! What is known of one request. It travels with the answer, and tells once, when that is over: complete, broken off, or
//! left behind by a client that went away.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::HeaderName;
use http::uri::PathAndQuery;
use http::{Method, StatusCode, request};

use lodge_base::telemetry::logs::Logs;
use lodge_base::telemetry::logs::requests::RequestLine;
use lodge_base::telemetry::metrics::{CLIENT_GONE, CLIENT_STALLED};
use lodge_base::telemetry::traces::{Outcome, Phase, Trace};
use lodge_traffic::admission::Permit;
use lodge_traffic::cache;
use lodge_traffic::error::RequestError;
use lodge_traffic::service::Service;
use lodge_traffic::service::deployment::Deployment;

/// Route, queue, instantiate, guest, body.
const PHASES: usize = 5;

/// One request, from its head to the last byte of its answer.
pub struct Record {
    start: Instant,
    request_id: Arc<str>,
    /// For what another request was to bring.
    waited: Duration,
    /// Who answers, once that is known.
    service: Option<Arc<Service>>,
    /// Of the head that was sent.
    status: Option<StatusCode>,
    /// Bytes of the answer's body so far.
    sent: u64,
    complete: bool,
    /// Its client took too little of the response.
    stalled: bool,
    reason: Option<&'static str>,
    /// Only when somebody wants to know.
    details: Option<Box<Details>>,
    trace: Trace,
}

/// What the line of a request needs, and counting does not.
struct Details {
    logs: Arc<Logs>,
    began: SystemTime,
    client: IpAddr,
    method: Method,
    target: Option<PathAndQuery>,
    headers: Vec<(HeaderName, String)>,
    received: Option<u64>,
    version: Option<Arc<str>>,
    /// When each phase began, and how many have.
    phases: [(Phase, Instant); PHASES],
    begun: usize,
}

impl Record {
    /// A request whose head is here.
    pub fn new(request_id: Arc<str>, trace: Trace) -> Self {
        Self {
            start: Instant::now(),
            request_id,
            waited: Duration::ZERO,
            service: None,
            status: None,
            sent: 0,
            complete: false,
            stalled: false,
            reason: None,
            details: None,
            trace,
        }
    }

    /// Somebody wants to know more of it.
    pub fn detail(&mut self, logs: &Arc<Logs>, client: IpAddr, head: &request::Parts) {
        let length = head.headers.get(http::header::CONTENT_LENGTH);
        self.details = Some(Box::new(Details {
            logs: Arc::clone(logs),
            began: SystemTime::now(),
            client,
            method: head.method.clone(),
            target: head.uri.path_and_query().cloned(),
            headers: logs.requests.chosen(&head.headers),
            received: length.and_then(|length| length.to_str().ok()?.parse().ok()),
            version: None,
            phases: [(Phase::Route, self.start); PHASES],
            begun: 0,
        }));
    }

    /// When its head was here, or what another request was to bring had not come.
    pub fn start(&self) -> Instant {
        self.start + self.waited
    }

    /// As the caller and the log have it.
    pub fn request_id(&self) -> &Arc<str> {
        &self.request_id
    }

    /// Its head is what the guest is to see.
    pub fn asked(&mut self, head: &request::Parts, client: IpAddr) {
        if let Some(details) = &mut self.details {
            details.target = head.uri.path_and_query().cloned();
        }
        self.trace.set_request(head, client, &self.request_id);
    }

    /// The host answers it itself, which counts as `nobody`'s.
    pub fn is_the_hosts(&mut self, nobody: &Arc<Service>) {
        self.service = Some(Arc::clone(nobody));
    }

    /// Whether it is recorded for a trace.
    pub fn is_traced(&self) -> bool {
        self.trace.id().is_some()
    }

    /// It is for this version of a service, by this route.
    pub fn found(&mut self, found: &Deployment, route: &Arc<str>) {
        self.trace.set_service(&found.name, &found.version, route);
        self.service = Some(Arc::clone(&found.service));
        if let Some(details) = &mut self.details {
            details.version = Some(Arc::clone(&found.version));
        }
    }

    /// It may run, from the time that is returned on.
    pub fn admitted(&mut self, permit: &Permit) -> Instant {
        let waited = permit.queue_wait();
        if let Some(service) = self.service.as_ref().filter(|_| !waited.is_zero()) {
            service.figures.waited.record(waited);
        }
        self.start + self.waited + waited
    }

    /// This phase begins, unless it is the one that goes on: there are two places to queue at.
    pub fn begins(&mut self, phase: Phase) {
        self.trace.phase(phase);
        if let Some(details) = &mut self.details
            && details.begun.checked_sub(1).and_then(|last| details.phases.get(last)).is_none_or(|last| last.0 != phase)
            && let Some(next) = details.phases.get_mut(details.begun)
        {
            *next = (phase, Instant::now());
            details.begun += 1;
        }
    }

    /// The head of the answer is made.
    pub fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.trace.set_status(status);
        self.begins(Phase::Body);
    }

    /// It was turned away, and nobody waits for an answer: none is counted.
    pub fn dismissed(mut self, error: &RequestError) {
        self.counted(error);
        self.complete = true;
    }

    /// No guest has answered, for this reason, and nobody waits for an answer.
    pub fn counted(&mut self, error: &RequestError) {
        self.reason = Some(error.reason());
        if let Some(service) = &self.service {
            service.record_failure(error, &self.request_id, false);
        }
    }

    /// No guest has answered, for this reason; `nobody` counts what no service does.
    pub fn failed(&mut self, error: &RequestError, nobody: &Arc<Service>, client: IpAddr) {
        self.reason = Some(error.reason());
        let service = self.service.get_or_insert_with(|| Arc::clone(nobody));
        service.record_failure(error, &self.request_id, false);
        let name = Some(&*service.name).filter(|name| !name.is_empty());
        let (request_id, reason, detail) = (&*self.request_id, error.reason(), error.detail());
        let (status, ms) = (error.status().as_u16(), self.start.elapsed().as_millis());
        let client = tracing::field::display(client);
        if error.status().is_server_error() && !error.is_policy() {
            tracing::warn!(service = name, request_id, status, reason, detail, ms, client, "{error}");
        } else {
            tracing::debug!(service = name, request_id, status, reason, ms, "{error}");
        }
    }

    /// So many bytes more of the answer's body are on their way.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// Every byte of the answer is on its way.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// If the response is cut off now, it is because its client took too little of it.
    pub fn stalled(&mut self) {
        self.stalled = true;
    }

    /// The answer breaks off.
    pub fn aborted(&mut self, error: &RequestError) {
        if self.complete {
            return;
        }
        (self.complete, self.reason) = (true, Some(error.reason()));
        if let Some(service) = &self.service {
            let (request_id, reason, detail) = (&*self.request_id, error.reason(), error.detail());
            tracing::warn!(service = &*service.name, request_id, reason, detail, "transfer aborted: {error}");
            service.record_failure(error, request_id, true);
        }
    }
}

impl cache::Waiting for Record {
    fn begin_waiting(&mut self) {
        self.begins(Phase::Queue);
    }

    fn waited(&mut self, time: Duration) {
        self.waited = time;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Some(service) = &self.service else { return };
        let took = self.start.elapsed();
        if !self.complete {
            let reason = if self.stalled { CLIENT_STALLED } else { CLIENT_GONE };
            self.reason = Some(reason);
            service.figures.aborted.count(reason);
        }
        if let Some(status) = self.status {
            service.figures.answered(status, took, self.sent);
        }
        if let Some(details) = &self.details {
            details.tell(self, service, took);
        }
        // One that is not finished says by itself that it was cancelled.
        if self.complete {
            let (error, bytes_out) = (self.reason, self.sent);
            std::mem::take(&mut self.trace).finish(Outcome { error, bytes_out, ..Outcome::default() });
        }
    }
}

impl Details {
    fn tell(&self, record: &Record, service: &Service, took: Duration) {
        let begun = self.phases.get(..self.begun).unwrap_or_default();
        let ends = begun.iter().skip(1).map(|(_, at)| *at).chain([record.start + took]);
        let mut phases = [("", Duration::ZERO); PHASES];
        for ((told, (phase, at)), end) in phases.iter_mut().zip(begun).zip(ends) {
            *told = (phase.name(), end.saturating_duration_since(*at));
        }
        self.logs.requests.tell(&RequestLine {
            began: self.began,
            request_id: &record.request_id,
            service: &service.name,
            version: self.version.as_deref(),
            method: &self.method,
            target: self.target.as_ref(),
            client: self.client,
            status: record.status,
            reason: record.reason,
            phases: phases.get(..self.begun).unwrap_or_default(),
            took,
            received: self.received,
            sent: record.sent,
            trace_id: record.trace.id(),
            headers: &self.headers,
        });
    }
}
