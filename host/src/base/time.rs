//! Times in text.

use std::time::SystemTime;

/// `time` by RFC 3339, in UTC, to the millisecond.
pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
