//! Failed requests, and responses that are not as their document says, as lines.

use std::time::SystemTime;

use crate::admin::contract::{FailedRequest, ResponseMismatch};
use crate::cli::units::ago;

/// Formats a failed request, with the guest's backtrace and stderr.
pub(super) fn failed(error: &FailedRequest, now: SystemTime) -> Vec<String> {
    let status = error.status.map_or("aborted".into(), |status| status.to_string());
    let detail = error.detail.as_ref().map_or(String::new(), |detail| format!(": {detail}"));
    let part = error.part.as_ref().map_or(String::new(), |part| format!(" in {part}"));
    let (at, reason) = (ago(&error.at, now), &error.reason);
    let mut lines = vec![format!("{at}  {status} {reason}{part}{detail} request_id={}", error.request_id)];
    lines.extend(error.backtrace.iter().map(|frame| format!("  {frame}")));
    lines.extend(error.stderr.iter().map(|line| format!("  stderr: {line}")));
    lines
}

/// Formats a response that is not as its document says.
pub(super) fn mismatch(of: &ResponseMismatch, now: SystemTime) -> String {
    format!("{}  {}: {} request_id={}", ago(&of.at, now), of.operation, of.why, of.request_id)
}
