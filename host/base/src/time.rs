//! Times as text.

use std::time::SystemTime;

/// Formats `time` by RFC 3339, in UTC, with milliseconds.
pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
