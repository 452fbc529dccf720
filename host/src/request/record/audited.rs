//! What the audit trail says of a request.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Method;

use super::Record;
use crate::audit::{AuditTrail, Event, RequestEvent};
use lodge_traffic::auth::identity::Identity;
use lodge_traffic::service::Service;

/// What the audit trail says of a request.
pub(super) struct Audited {
    pub(super) audit: Arc<AuditTrail>,
    pub(super) client: IpAddr,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) route: Arc<str>,
    pub(super) identity: Option<Arc<Identity>>,
    /// Whether the request was identified, as far as its route needs that, and admitted.
    pub(super) allowed: bool,
}

impl Audited {
    /// Returns what was decided: nothing, if the request ended before, or was not refused for what it is.
    fn decision(&self, reason: Option<&str>) -> &'static str {
        let is_denial = |reason: &str| {
            reason.starts_with("auth-")
                || reason.starts_with("rule-")
                || ["client-denied", "rate-limited"].contains(&reason)
        };
        match (self.allowed, reason.is_some_and(is_denial)) {
            (true, _) => "allow",
            (false, true) => "deny",
            (false, false) => "none",
        }
    }

    pub(super) fn write(self, record: &Record, service: &Service, took: Duration) {
        let decision = self.decision(record.reason);
        self.audit.record(Event::Request(Box::new(RequestEvent {
            request_id: Arc::clone(&record.request_id),
            service: Arc::clone(&service.name),
            route: self.route,
            auth: self.identity.as_ref().map(|identity| identity.method().name()),
            subject: self.identity.as_ref().map(|identity| identity.subject().to_owned()),
            client: self.client,
            method: self.method.to_string(),
            path: self.path,
            decision,
            status: record.status.map(|status| status.as_u16()),
            reason: record.reason,
            ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        })));
    }
}
