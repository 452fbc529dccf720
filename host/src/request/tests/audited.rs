//! What the audit trail says of requests.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::fixture::{Fixture, get};
use crate::audit::AuditTrail;
use lodge_base::config::audit::Audit;

/// `allow` is what was admitted, or got a stored response, and nothing else.
#[tokio::test]
async fn only_what_is_admitted_is_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.log");
    let settings = Audit { file: Some(file.clone()), size: 1 << 20, files: 2, required: false };
    let one = "audit = true\ncache = true\nlimits = { in_flight = 1, queue = 1 }";
    let mut host = Fixture::with(&[
        ("users", one),
        ("closed", "audit = true\ndeny = ['192.0.2.0/24']"),
        ("off", "audit = true"),
        ("ruled", "audit = true\nrules = [{ deny = 404 }]"),
        ("small", "audit = true\nroutes = [{ path = '/outer', strip_prefix = true }]"),
    ])
    .await;
    host.handler.audit = AuditTrail::open(&settings).unwrap();
    host.service("off").set_disabled(true);
    host.store("http://test/users", "max-age=60", "stored").await;
    for path in ["users", "users?other", "closed", "off", "ruled", "outer/x"] {
        host.send(get(&*format!("http://test/{path}"))).await;
    }
    // The client leaves while its request waits for a slot.
    let held = host.target("users").admission.try_admit(Instant::now()).unwrap();
    let left = tokio::time::timeout(Duration::from_millis(20), host.open(get("http://test/users?left"))).await;
    assert!(left.is_err());
    drop(held);
    host.handler.audit.as_ref().unwrap().close(true);
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = lines
        .iter()
        .filter(|line| line["kind"] == "request")
        .map(|line| ["path", "decision", "reason"].map(|name| line[name].as_str().unwrap_or_default()))
        .collect();
    assert_eq!(
        told,
        [
            ["/users", "allow", ""],
            ["/users", "allow", "no-replica"],
            ["/closed", "deny", "client-denied"],
            ["/off", "none", "disabled"],
            ["/ruled", "deny", "rule-denied"],
            ["/outer/x", "allow", "no-replica"],
            ["/users", "none", "client-gone"],
        ]
    );
}
