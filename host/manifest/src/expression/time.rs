//! Times in expressions, in microseconds: timestamps since 1970, from the year 1 to 9999 as in CEL, and time spans.

use chrono::{DateTime, Datelike, FixedOffset, Timelike};

/// The first timestamp: the begin of the year 1.
pub const FIRST: i64 = -62_135_596_800_000_000;

/// The last timestamp: the end of the year 9999.
pub const LAST: i64 = 253_402_300_799_999_999;

/// A part of a timestamp or of a time span. Weekdays, months and days of a year begin with 0, as in CEL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimePart {
    /// The year.
    Year,
    /// The month, from 0 for January.
    Month,
    /// The day of the month, from 1.
    Date,
    /// The day of the month, from 0.
    DayOfMonth,
    /// The day of the week, from 0 for Sunday.
    DayOfWeek,
    /// The day of the year, from 0.
    DayOfYear,
    /// The hour of the day; all hours of a time span.
    Hours,
    /// The minute of the hour; all minutes of a time span.
    Minutes,
    /// The second of the minute; all seconds of a time span.
    Seconds,
    /// The millisecond of the second.
    Milliseconds,
}

impl TimePart {
    /// Returns the part of a timestamp in the time zone that is `offset` seconds east of UTC; `None` if it is out of range.
    pub fn of(self, timestamp: i64, offset: i32) -> Option<i64> {
        let at = DateTime::from_timestamp_micros(timestamp)?.with_timezone(&FixedOffset::east_opt(offset)?);
        Some(match self {
            Self::Year => at.year().into(),
            Self::Month => at.month0().into(),
            Self::Date => at.day().into(),
            Self::DayOfMonth => at.day0().into(),
            Self::DayOfWeek => at.weekday().num_days_from_sunday().into(),
            Self::DayOfYear => at.ordinal0().into(),
            Self::Hours => at.hour().into(),
            Self::Minutes => at.minute().into(),
            Self::Seconds => at.second().into(),
            Self::Milliseconds => at.timestamp_subsec_millis().into(),
        })
    }

    /// Returns the part of a time span; `None` if it has none.
    pub fn of_span(self, microseconds: i64) -> Option<i64> {
        Some(match self {
            Self::Hours => microseconds / 3_600_000_000,
            Self::Minutes => microseconds / 60_000_000,
            Self::Seconds => microseconds / 1_000_000,
            Self::Milliseconds => microseconds / 1_000 % 1_000,
            _ => return None,
        })
    }
}

/// Reads a timestamp in the form of RFC 3339.
pub(super) fn timestamp(text: &str) -> Option<i64> {
    let at = DateTime::parse_from_rfc3339(text).ok()?.timestamp_micros();
    (FIRST..=LAST).contains(&at).then_some(at)
}

/// Reads a time span such as `1h30m`, `500ms` or `-5s`.
pub(super) fn span(text: &str) -> Option<i64> {
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    // Years, months and days differ in length, and CEL has none.
    if text.is_empty() || text.contains(|unit: char| !unit.is_ascii_digit() && !"hmsun".contains(unit)) {
        return None;
    }
    let span = humantime::parse_duration(text).ok()?;
    i64::try_from(span.as_micros()).ok()?.checked_mul(sign)
}

/// Reads a time zone without a name: `UTC`, or hours and minutes such as `+02:00`. Returns the seconds east of UTC.
pub(super) fn zone(text: &str) -> Option<i32> {
    if text == "UTC" || text == "Z" {
        return Some(0);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let number = |text: &str, most: i32| {
        let plain = text.len() == 2 && text.bytes().all(|digit| digit.is_ascii_digit());
        text.parse::<i32>().ok().filter(|number| plain && *number <= most)
    };
    Some(sign * (number(hours, 14)? * 3_600 + number(minutes, 59)? * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(timestamp("1970-01-01T00:00:01+00:00"), Some(1_000_000));
        assert_eq!(timestamp("0001-01-01T00:00:00Z"), Some(FIRST));
        assert_eq!(timestamp("9999-12-31T23:59:59.999999Z"), Some(LAST));
        for wrong in ["", "2026-01-01", "2026-13-01T00:00:00Z", "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z"] {
            assert_eq!(timestamp(wrong), None, "{wrong}");
        }
        assert_eq!((span("1h30m"), span("-500ms")), (Some(5_400_000_000), Some(-500_000)));
        for wrong in ["", "-", "1", "h", "1d", "1 h", "99999999999999999999h", "--1s"] {
            assert_eq!(span(wrong), None, "{wrong}");
        }
        assert_eq!((zone("UTC"), zone("+02:00"), zone("-03:30")), (Some(0), Some(7_200), Some(-12_600)));
        for wrong in ["", "Europe/Paris", "+2:00", "+15:00", "+02:60", "02:00", "+02", "+\u{e9}:00"] {
            assert_eq!(zone(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn parts() {
        // A Saturday.
        let at = timestamp("2026-02-28T23:30:15.250Z").unwrap();
        let part = |part: TimePart, offset| part.of(at, offset).unwrap();
        assert_eq!([part(TimePart::Year, 0), part(TimePart::Month, 0), part(TimePart::Date, 0)], [2026, 1, 28]);
        assert_eq!([part(TimePart::DayOfWeek, 0), part(TimePart::DayOfWeek, 3_600)], [6, 0]);
        assert_eq!([part(TimePart::Hours, 3_600), part(TimePart::DayOfMonth, 3_600)], [0, 0]);
        assert_eq!([part(TimePart::Seconds, 0), part(TimePart::Milliseconds, 0)], [15, 250]);
        assert_eq!(part(TimePart::DayOfYear, 0), 58);
        for out in [i64::MIN, i64::MAX] {
            assert!(TimePart::Year.of(out, 50_400).is_none_or(|year| !(1..=9_999).contains(&year)));
        }
        assert_eq!(TimePart::Minutes.of_span(5_400_000_000), Some(90));
        assert_eq!(TimePart::Year.of_span(0), None);
    }
}
