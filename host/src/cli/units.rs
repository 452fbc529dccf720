//! Formats quantities.

use std::time::{Duration, SystemTime};

/// The note to a name in `calls` that no service has.
pub(super) const UNKNOWN_CALL: &str = "no service of this name (it may come later)";

/// Stands for an unknown quantity.
pub(super) const UNKNOWN: &str = "-";

/// Units of an age: the age in seconds from which a unit is used, its length in seconds, and its name.
const AGES: [(u64, u64, &str); 7] = [
    (2 * 365 * 86_400, 365 * 86_400, "year"),
    (2 * 30 * 86_400, 30 * 86_400, "month"),
    (14 * 86_400, 7 * 86_400, "week"),
    (86_400, 86_400, "day"),
    (3_600, 3_600, "hour"),
    (60, 60, "minute"),
    (1, 1, "second"),
];

/// Formats bytes: `163.2 KiB`.
pub(super) fn bytes(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// Formats milliseconds with two significant digits: `0.12ms`, `3.4ms`, `56ms`, `1.2s`.
pub(super) fn millis(ms: Option<f64>) -> String {
    match ms {
        None => UNKNOWN.into(),
        Some(ms) if ms < 1.0 => format!("{ms:.2}ms"),
        Some(ms) if ms < 10.0 => format!("{ms:.1}ms"),
        Some(ms) if ms < 1_000.0 => format!("{ms:.0}ms"),
        Some(ms) => format!("{:.1}s", ms / 1_000.0),
    }
}

/// Formats seconds: `0.42s`, `12.3s`, `3m 20s`, `2days 4h`.
pub(super) fn seconds(seconds: f64) -> String {
    match seconds {
        ..10.0 => format!("{seconds:.2}s"),
        ..60.0 => format!("{seconds:.1}s"),
        _ => {
            let whole = Duration::try_from_secs_f64(seconds.trunc()).unwrap_or(Duration::MAX);
            let text = humantime::format_duration(whole).to_string();
            text.split(' ').take(2).collect::<Vec<_>>().join(" ")
        }
    }
}

/// Formats a count with its noun: `1 connection`, `2 connections`, `2 entries`.
pub(super) fn count(count: u64, name: &str) -> String {
    match (count, name.strip_suffix("ry")) {
        (1, _) => format!("1 {name}"),
        (_, Some(stem)) => format!("{count} {stem}ries"),
        (_, None) => format!("{count} {name}s"),
    }
}

/// Formats the addresses of a service: its routes, and its host name if it has one.
pub(super) fn addresses(routes: &[String], host: &str) -> String {
    let routes = routes.join(", ");
    if routes.is_empty() || host.is_empty() { routes + host } else { format!("{routes} and {host}") }
}

/// Formats a rate per second.
pub(super) fn rate(rate: f64) -> String {
    if rate < 100.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

/// Formats the age of an RFC 3339 time: `3 minutes ago`. Returns the text itself if it is not a time.
pub(super) fn ago(at: &str, now: SystemTime) -> String {
    let Ok(then) = humantime::parse_rfc3339(at) else { return at.to_owned() };
    let age = now.duration_since(then).unwrap_or_default().as_secs();
    let unit = AGES.into_iter().find(|(from, ..)| age >= *from);
    unit.map_or("just now".into(), |(_, unit, name)| format!("{} ago", count(age / unit, name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let then = humantime::parse_rfc3339("2026-11-21T10:00:00.123Z").unwrap();
        let after = |seconds| ago("2026-11-21T10:00:00.123Z", then + Duration::from_secs(seconds));
        assert_eq!([after(0), after(1), after(59)], ["just now", "1 second ago", "59 seconds ago"]);
        assert_eq!([after(60), after(119), after(3_599)], ["1 minute ago", "1 minute ago", "59 minutes ago"]);
        assert_eq!([after(3_600), after(86_399)], ["1 hour ago", "23 hours ago"]);
        assert_eq!([after(86_400), after(13 * 86_400)], ["1 day ago", "13 days ago"]);
        assert_eq!([after(14 * 86_400), after(70 * 86_400)], ["2 weeks ago", "2 months ago"]);
        assert_eq!([after(364 * 86_400), after(800 * 86_400)], ["12 months ago", "2 years ago"]);
        // A clock that is behind, and texts that are not times.
        assert_eq!(ago("2026-11-21T10:00:00Z", SystemTime::UNIX_EPOCH), "just now");
        assert_eq!([ago("", then), ago("yesterday, by and large", then)], ["", "yesterday, by and large"]);
    }

    #[test]
    fn quantities() {
        let ms = [None, Some(0.1234), Some(3.42), Some(56.4), Some(1_234.0)].map(millis);
        assert_eq!(ms, ["-", "0.12ms", "3.4ms", "56ms", "1.2s"]);
        let spans = [0.423, 12.34, 200.4, 187_201.0].map(seconds);
        assert_eq!(spans, ["0.42s", "12.3s", "3m 20s", "2days 4h"]);
        assert_eq!([rate(0.0), rate(99.94), rate(1_234.5)], ["0.0", "99.9", "1234"]);
        assert_eq!(bytes(163 << 10), "163.0 KiB");
        assert_eq!([0, 1, 2].map(|n| count(n, "hit")), ["0 hits", "1 hit", "2 hits"]);
        assert_eq!([0, 1, 2].map(|n| count(n, "entry")), ["0 entries", "1 entry", "2 entries"]);
    }

    #[test]
    fn formats_addresses() {
        let routes = ["/a".to_owned(), "/b".to_owned()];
        assert_eq!(addresses(&routes, "a.localhost"), "/a, /b and a.localhost");
        assert_eq!([addresses(&routes, ""), addresses(&[], "a.localhost")], ["/a, /b", "a.localhost"]);
    }
}
