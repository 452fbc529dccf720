//! `[schedule]`: when a service is called by the host itself.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use croner::Cron;

use crate::schema;
use crate::section::{Owner, Section, Subject, View, words};
use crate::written::{Problems, Written, with_defaults};
use lodge_base::config::key::Key;

/// The most bytes of an expression.
const MOST_BYTES: usize = 256;

/// The keys of `[schedule]`.
const KEYS: &[Key<Schedule>] = &[
    Key {
        name: "cron",
        default: "",
        help: "when it is called: minute, hour, day of the month, month, day of the week, in UTC",
        set: |schedule, text| {
            let wrong =
                |why: String| format!("`{}`: {why}; write it like \"0 3 * * *\", for 3:00 UTC", text.escape_debug());
            if text.len() > MOST_BYTES {
                return Err(wrong(format!("it is longer than {MOST_BYTES} bytes")));
            }
            schedule.cron = Some(Cron::from_str(text).map_err(|error| wrong(error.to_string()))?);
            Ok(())
        },
    },
    Key {
        name: "path",
        default: "/schedule",
        help: "the path that is called with POST",
        set: |schedule, text| {
            let path = http::uri::PathAndQuery::try_from(text).ok().filter(|_| text.starts_with('/'));
            let path = path.ok_or_else(|| format!("`{}` is not a path; write it like /clean", text.escape_debug()))?;
            schedule.path = path.as_str().to_owned();
            Ok(())
        },
    },
];

/// `[schedule]`.
pub(crate) const SECTION: Section = Section {
    name: "schedule",
    page: "messages",
    schema: || schema::settings(KEYS, &Schedule::default(), &["cron"]),
    owner: Owner::Service(|manifest, written, problems| manifest.schedule = read(written, problems)),
    subject: Subject::Service,
    view: Some(View {
        label: "schedule",
        value: |manifest| Some(manifest.schedule.as_ref()?.expression().into()),
        text: words,
    }),
    capability: None,
};

/// When a service is called, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    cron: Option<Cron>,
    /// The path that is called.
    pub path: String,
}

impl Schedule {
    /// The cron expression.
    pub fn expression(&self) -> &str {
        self.cron.as_ref().map_or("", Cron::as_str)
    }

    /// Returns the next time after `after` at which the service is called, if there is one.
    pub fn next(&self, after: SystemTime) -> Option<SystemTime> {
        let since = after.duration_since(UNIX_EPOCH).ok()?;
        let after = DateTime::<Utc>::from_timestamp(since.as_secs().try_into().ok()?, 0)?;
        let next = self.cron.as_ref()?.find_next_occurrence(&after, false).ok()?;
        Some(UNIX_EPOCH + Duration::from_secs(next.timestamp().try_into().ok()?))
    }
}

fn read(written: &Written<'_>, problems: &mut Problems) -> Option<Schedule> {
    let mut schedule = with_defaults(KEYS, Schedule::default());
    let complete = problems.take(written.require("cron", KEYS)).is_some();
    let sound = written.settings(KEYS, &mut schedule, problems);
    (complete && sound).then_some(schedule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::read as manifest;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn occurrences_are_in_utc() {
        let schedule = manifest("[schedule]\ncron = '30 3 * * 1'\npath = '/clean'").unwrap().schedule.unwrap();
        assert_eq!((schedule.expression(), schedule.path.as_str()), ("30 3 * * 1", "/clean"));
        // Monday, 1970-01-05.
        let first = 4 * 86_400 + 3 * 3600 + 1800;
        assert_eq!(schedule.next(at(0)), Some(at(first)));
        assert_eq!(schedule.next(at(first - 1)), Some(at(first)));
        assert_eq!(schedule.next(at(first)), Some(at(first + 7 * 86_400)));
        let seconds = manifest("schedule.cron = '*/2 * * * * *'").unwrap().schedule.unwrap();
        assert_eq!((seconds.next(at(1)), seconds.next(at(2))), (Some(at(2)), Some(at(4))));
        assert_eq!(seconds.path, "/schedule");
        assert_eq!(manifest("").unwrap().schedule, None);
        // It never comes.
        let never = manifest("schedule.cron = '0 0 30 2 *'").unwrap().schedule.unwrap();
        assert_eq!(never.next(at(0)), None);
    }

    #[test]
    fn problems_name_the_key() {
        let problem = |text: &str| manifest(text).unwrap_err();
        assert!(problem("[schedule]").contains("schedule.cron is missing"), "{}", problem("[schedule]"));
        for text in ["", "* * *", "61 * * * *", "* * * * x", &"*".repeat(300)] {
            let problem = problem(&format!("[schedule]\ncron = '{text}'"));
            assert!(problem.starts_with("line 2: schedule.cron: `"), "{problem}");
        }
        assert!(
            problem("[schedule]\ncron = '* * * * *'\npath = 'x'").contains("line 3: schedule.path: `x` is not a path")
        );
    }
}
