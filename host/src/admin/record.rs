//! What the audit trail says of an operator's request.

use std::net::IpAddr;
use std::sync::Arc;

use http::{Method, StatusCode};
use lodge_manifest::digest::Digest;

use super::access::Requester;
use crate::audit::{AuditTrail, Event, OperatorEvent};

/// Whether the trail has every request of this method and path: those that change something, those that read data of services,
/// and comparisons with manifests, which say something of these.
pub(super) fn is_recorded(method: &Method, path: &str) -> bool {
    let mut parts = path.strip_prefix("/v1/").unwrap_or_default().split('/');
    let reads_data = match parts.next() {
        Some("data") => true,
        Some("services") => parts.nth(1) == Some("data"),
        _ => false,
    };
    reads_data || !matches!(*method, Method::GET | Method::HEAD)
}

/// A line of the audit trail, which is written when this is dropped: also if the client left before the response, or the task panicked.
/// Of other requests, only those with a refused client have one.
pub(super) struct OperatorRecord {
    line: Option<(Arc<AuditTrail>, OperatorEvent)>,
    always: bool,
}

impl OperatorRecord {
    /// Begins the record of a request; nothing is written without a trail.
    pub(super) fn new(audit: Option<Arc<AuditTrail>>, client: IpAddr, method: &Method, path: &str) -> Self {
        let always = is_recorded(method, path);
        let line = audit.map(|audit| {
            let (method, path) = (method.to_string(), path.to_owned());
            (audit, OperatorEvent { client, auth: None, subject: None, method, path, digest: None, status: None })
        });
        if let Some((audit, _)) = line.as_ref().filter(|_| always) {
            audit.expect();
        }
        Self { line, always }
    }

    /// Sets who sends it.
    pub(super) fn set_operator(&mut self, operator: &Requester) {
        if let Some((_, event)) = &mut self.line {
            event.auth = Some(operator.auth());
            event.subject = operator.subject().map(str::to_owned);
        }
    }

    /// Sets the component that it brought.
    pub(super) fn set_digest(&mut self, digest: Digest) {
        if let Some((_, event)) = &mut self.line {
            event.digest = Some(digest.to_string());
        }
    }

    /// Sets the status of the response.
    pub(super) fn end(mut self, status: StatusCode) {
        if let Some((_, event)) = &mut self.line {
            event.status = Some(status.as_u16());
        }
    }
}

impl Drop for OperatorRecord {
    fn drop(&mut self) {
        let Some((audit, event)) = self.line.take() else { return };
        let refused = matches!(event.status, Some(401 | 403 | 429));
        match (refused, self.always) {
            (true, _) => audit.record_attempt(Event::Operator(Box::new(event))),
            (false, true) => audit.record(Event::Operator(Box::new(event))),
            (false, false) => {}
        }
        if self.always {
            audit.settle();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::Value;

    use super::*;

    #[test]
    fn changes_and_reads_of_data_are_recorded() {
        for (method, path, recorded) in [
            (Method::POST, "/v1/services/a/disable", true),
            (Method::PUT, "/v1/log-level", true),
            (Method::DELETE, "/", true),
            (Method::GET, "/v1/services/a/data", true),
            (Method::HEAD, "/v1/services/a/data/entry", true),
            (Method::GET, "/v1/services/a%40b/data/keys", true),
            (Method::GET, "/v1/data", true),
            (Method::GET, "/v1/data/backup", true),
            (Method::POST, "/v1/services/a/compare", true),
            (Method::POST, "/v1/services/compare/disable", true),
            (Method::GET, "/v1/services/data", false),
            (Method::GET, "/v1/services", false),
            (Method::GET, "/metrics", false),
            (Method::GET, "/data", false),
        ] {
            assert_eq!(is_recorded(&method, path), recorded, "{method} {path}");
        }
    }

    /// A request is in the trail however it ends: with a response, or with a client that leaves.
    #[test]
    fn changes_of_clients_that_leave_are_in_the_trail() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("audit.log");
        let settings =
            lodge_base::config::audit::Audit { file: Some(file.clone()), size: 1 << 20, files: 2, required: false };
        let trail = AuditTrail::open(&settings).unwrap();
        let path = "/v1/services/users/component";
        let begun = || OperatorRecord::new(trail.clone(), [192, 0, 2, 7].into(), &Method::PUT, path);
        let mut record = begun();
        record.set_operator(&Requester::Token);
        record.set_digest(Digest::of(b"abc"));
        drop(record);
        begun().end(StatusCode::FORBIDDEN);
        trail.unwrap().close(true);
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [left, refused, _] = &*lines else { panic!("{text}") };
        let digest = Digest::of(b"abc").to_string();
        assert_eq!((&left["auth"], &left["digest"]), (&"admin-token".into(), &digest.as_str().into()), "{text}");
        assert_eq!((left.get("status"), &left["path"]), (None, &"/v1/services/users/component".into()), "{text}");
        assert_eq!((&refused["status"], refused.get("auth")), (&403.into(), None), "{text}");
    }
}
