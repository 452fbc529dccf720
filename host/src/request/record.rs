//! The record of one request. It travels with the response. When the response ends (complete, aborted, or dropped by
//! its client), the record updates the metrics, writes the log line and ends the span.

mod audited;
mod details;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{HeaderName, HeaderValue};
use http::{StatusCode, request};

use self::audited::Audited;
use self::details::Details;
use super::front::ClientFront;
use crate::audit::AuditTrail;
use crate::request::error::RequestError;
use lodge_base::telemetry::logs::Logs;
use lodge_base::telemetry::metrics::{CLIENT_GONE, CLIENT_STALLED};
use lodge_base::telemetry::traces::{Outcome, Phase, Trace};
use lodge_traffic::admission::Permit;
use lodge_traffic::auth::identity::Identity;
use lodge_traffic::cache;
use lodge_traffic::service::Service;
use lodge_traffic::service::deployment::Deployment;

/// The number of phases: route, queue, instantiate, guest, body.
const PHASES: usize = 5;

/// One request, from its head to the last byte of its response.
pub struct Record {
    start: Instant,
    request_id: Arc<str>,
    /// The time that it waited for the response to another request.
    waited: Duration,
    /// The service, once it is known.
    service: Option<Arc<Service>>,
    /// The status of the response.
    status: Option<StatusCode>,
    /// The bytes of the response body so far.
    sent: u64,
    complete: bool,
    /// The client read too little of the response.
    stalled: bool,
    reason: Option<&'static str>,
    /// What the manifest says of the heads of the request and its response.
    pub(super) front: Option<Box<ClientFront>>,
    /// The cookie of the client's session, which the response renews.
    pub(super) renewed: Option<Box<HeaderValue>>,
    /// Present only on routes with `audit = true`.
    audited: Option<Box<Audited>>,
    /// Present only if request lines are logged.
    details: Option<Box<Details>>,
    trace: Trace,
}

impl Record {
    /// Returns the record of a request whose head has arrived now.
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
            front: None,
            renewed: None,
            audited: None,
            details: None,
            trace,
        }
    }

    /// Records what the log line of the request needs.
    pub fn set_details(&mut self, logs: &Arc<Logs>, client: IpAddr, head: &request::Parts) {
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
            identity: None,
            phases: [(Phase::Route, self.start); PHASES],
            begun: 0,
        }));
    }

    /// Records that the audit trail has this request.
    pub(super) fn set_audit(
        &mut self,
        audit: &Arc<AuditTrail>,
        client: IpAddr,
        head: &request::Parts,
        route: &Arc<str>,
    ) {
        self.audited = Some(Box::new(Audited {
            audit: Arc::clone(audit),
            client,
            method: head.method.clone(),
            path: head.uri.path().to_owned(),
            route: Arc::clone(route),
            identity: None,
            allowed: false,
        }));
    }

    /// Records that nothing denies the request any more.
    pub(super) fn set_allowed(&mut self) {
        if let Some(audited) = &mut self.audited {
            audited.allowed = true;
        }
    }

    /// Leaves a header out of the log line: it has a credential.
    pub fn hide_header(&mut self, name: &HeaderName) {
        if let Some(details) = &mut self.details {
            details.headers.retain(|(logged, _)| logged != name);
        }
    }

    /// Returns when the head arrived. If the request waited in vain for the response to another one, returns when that
    /// wait ended.
    pub fn start(&self) -> Instant {
        self.start + self.waited
    }

    /// Returns the request id, as in the response and in the log.
    pub fn request_id(&self) -> &Arc<str> {
        &self.request_id
    }

    /// Records the head in the form that the guest sees.
    pub fn set_request(&mut self, head: &request::Parts, client: IpAddr) {
        if let Some(details) = &mut self.details {
            details.target = head.uri.path_and_query().cloned();
        }
        self.trace.set_request(head, client, &self.request_id);
    }

    /// Returns the service, once it is known.
    pub(super) fn service(&self) -> Option<&Arc<Service>> {
        self.service.as_ref()
    }

    /// Records that the host itself responds. The request counts for `unmatched`.
    pub fn set_host_response(&mut self, unmatched: &Arc<Service>) {
        self.service = Some(Arc::clone(unmatched));
    }

    /// Whether the request is recorded for a trace.
    pub fn is_traced(&self) -> bool {
        self.trace.id().is_some()
    }

    /// Records the version that the request goes to, and the route.
    pub fn set_route(&mut self, deployment: &Deployment, route: &Arc<str>) {
        self.trace.set_service(&deployment.name, &deployment.version, route);
        self.service = Some(Arc::clone(&deployment.service));
        if let Some(details) = &mut self.details {
            details.version = Some(Arc::clone(&deployment.version));
        }
    }

    /// Records whose request it is.
    pub fn set_identity(&mut self, identity: &Arc<Identity>) {
        if let Some(audited) = &mut self.audited {
            audited.identity = Some(Arc::clone(identity));
        }
        if let Some(details) = &mut self.details {
            details.identity = Some(Arc::clone(identity));
        }
    }

    /// Records that the request was admitted. Returns when its time limit begins.
    pub fn record_admission(&mut self, permit: &Permit) -> Instant {
        self.set_allowed();
        let waited = permit.queue_wait();
        if let Some(service) = self.service.as_ref().filter(|_| !waited.is_zero()) {
            service.metrics.waited.record(waited);
        }
        self.start + self.waited + waited
    }

    /// Begins a phase, unless the request is in it already: there are two queues.
    pub fn begin_phase(&mut self, phase: Phase) {
        self.trace.phase(phase);
        if let Some(details) = &mut self.details
            && details.begun.checked_sub(1).and_then(|last| details.phases.get(last)).is_none_or(|last| last.0 != phase)
            && let Some(next) = details.phases.get_mut(details.begun)
        {
            *next = (phase, Instant::now());
            details.begun += 1;
        }
    }

    /// Records the status of the response, whose body follows.
    pub fn set_status(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.trace.set_status(status);
        self.begin_phase(Phase::Body);
    }

    /// Records the refusal of a mirrored copy, for which there is no response.
    pub fn dismiss(mut self, error: &RequestError) {
        self.record_failure(error);
        self.complete = true;
    }

    /// Records the error that replaces the service's response.
    pub fn record_failure(&mut self, error: &RequestError) {
        self.reason = Some(error.reason());
        if let Some(service) = &self.service {
            error.record(service, &self.request_id, false);
        }
    }

    /// Records and logs the error that replaces the service's response. The failure counts for `unmatched` if no service
    /// is known.
    pub fn report_failure(&mut self, error: &RequestError, unmatched: &Arc<Service>, client: IpAddr) {
        self.service.get_or_insert_with(|| Arc::clone(unmatched));
        self.record_failure(error);
        let name = self.service.as_ref().map(|service| &*service.name).filter(|name| !name.is_empty());
        let (request_id, reason, detail) = (&*self.request_id, error.reason(), error.detail());
        let (detail, part) = (detail.as_deref(), error.part());
        let (status, ms) = (error.status().as_u16(), self.start.elapsed().as_millis());
        let client = tracing::field::display(client);
        if error.status().is_server_error() && !error.is_policy() {
            tracing::warn!(service = name, request_id, status, reason, part, detail, ms, client, "{error}");
        } else {
            tracing::debug!(service = name, request_id, status, reason, detail, ms, "{error}");
        }
    }

    /// Counts bytes of the response body.
    pub fn add_sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// Records that every byte of the response was sent.
    pub fn set_complete(&mut self) {
        self.complete = true;
    }

    /// Records that the client reads too slowly, which is then the reason if the response is cut off.
    pub fn set_stalled(&mut self) {
        self.stalled = true;
    }

    /// Records that the response is aborted, unless it is complete.
    pub fn record_abort(&mut self, error: &RequestError) {
        if self.complete {
            return;
        }
        (self.complete, self.reason) = (true, Some(error.reason()));
        if let Some(service) = &self.service {
            let (request_id, reason, detail) = (&*self.request_id, error.reason(), error.detail());
            let (detail, part) = (detail.as_deref(), error.part());
            if error.is_policy() {
                tracing::debug!(service = &*service.name, request_id, reason, detail, "transfer aborted: {error}");
            } else {
                tracing::warn!(service = &*service.name, request_id, reason, part, detail, "transfer aborted: {error}");
            }
            error.record(service, request_id, true);
        }
    }
}

impl cache::WaitObserver for Record {
    fn begin_waiting(&mut self) {
        self.begin_phase(Phase::Queue);
    }

    fn waited(&mut self, time: Duration) {
        self.waited = time;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Some(service) = self.service.clone() else { return };
        let service = &*service;
        let took = self.start.elapsed();
        if !self.complete {
            let reason = if self.stalled { CLIENT_STALLED } else { CLIENT_GONE };
            self.reason = Some(reason);
            service.metrics.aborted.count(reason);
        }
        if let Some(status) = self.status {
            service.metrics.record_response(status, took, self.sent);
        }
        if let Some(details) = &self.details {
            details.write_line(self, service, took);
        }
        if let Some(audited) = self.audited.take() {
            audited.write(self, service, took);
        }
        // A trace that is dropped without an outcome reports that the request was cancelled.
        if self.complete {
            let (error, bytes_out) = (self.reason, self.sent);
            std::mem::take(&mut self.trace).finish(Outcome { error, bytes_out, ..Outcome::default() });
        }
    }
}
