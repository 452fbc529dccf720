//! The log line of a request.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::Method;
use http::header::HeaderName;
use http::uri::PathAndQuery;

use super::{PHASES, Record};
use lodge_base::telemetry::logs::Logs;
use lodge_base::telemetry::logs::requests::RequestLine;
use lodge_base::telemetry::traces::Phase;
use lodge_traffic::auth::identity::Identity;
use lodge_traffic::service::Service;

/// Further fields of the log line.
pub(super) struct Details {
    pub(super) logs: Arc<Logs>,
    pub(super) began: SystemTime,
    pub(super) client: IpAddr,
    pub(super) method: Method,
    pub(super) target: Option<PathAndQuery>,
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) received: Option<u64>,
    pub(super) version: Option<Arc<str>>,
    pub(super) identity: Option<Arc<Identity>>,
    /// The begin of each phase, and the number of phases that have begun.
    pub(super) phases: [(Phase, Instant); PHASES],
    pub(super) begun: usize,
}

impl Details {
    pub(super) fn write_line(&self, record: &Record, service: &Service, took: Duration) {
        let begun = self.phases.get(..self.begun).unwrap_or_default();
        let ends = begun.iter().skip(1).map(|(_, at)| *at).chain([record.start + took]);
        let mut phases = [("", Duration::ZERO); PHASES];
        for ((written, (phase, at)), end) in phases.iter_mut().zip(begun).zip(ends) {
            *written = (phase.name(), end.saturating_duration_since(*at));
        }
        self.logs.requests.tell(&RequestLine {
            began: self.began,
            request_id: &record.request_id,
            service: &service.name,
            version: self.version.as_deref(),
            method: &self.method,
            target: self.target.as_ref(),
            client: self.client,
            subject: self.identity.as_ref().map(|identity| identity.subject()),
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
