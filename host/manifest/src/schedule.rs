//! `[schedule]`, or several as `[[schedule]]`: when a service is called by the host itself.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use croner::Cron;
use serde_json::{Value, json};

use crate::Manifest;
use crate::schema;
use crate::section::{Owner, Section, Subject, View, words};
use crate::target;
use crate::written::{Problems, Written, with_defaults};
use lodge_base::config::key::Key;

/// The most bytes of an expression.
const MOST_BYTES: usize = 256;

/// The most bytes of a path. With the name of the service, it is the name of a lock.
const MOST_PATH_BYTES: usize = 128;

/// The most schedules of a service.
const MOST: usize = 16;

/// The fields of an expression, and what they may be.
const FIELDS: [(&str, &str); 7] = [
    ("second", "0 to 59"),
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of the month", "1 to 31, or L for the last one"),
    ("month", "1 to 12, or JAN to DEC"),
    ("day of the week", "0 to 7, where 0 and 7 are Sunday, or SUN to SAT"),
    ("year", "1 to 5000"),
];

/// The keys of `[schedule]`.
const KEYS: &[Key<Schedule>] = &[
    Key {
        name: "cron",
        default: "",
        help: "when it is called: minute, hour, day of the month, month, day of the week, in UTC",
        set: |schedule, text| {
            schedule.cron = Some(parse(text).map_err(|why| format!("`{}`: {why}", text.escape_debug()))?);
            Ok(())
        },
    },
    Key {
        name: "path",
        default: "/schedule",
        help: "the path that is called with POST",
        set: |schedule, text| {
            target::check(text, "/clean")?;
            if text.len() > MOST_PATH_BYTES {
                return Err(format!("the path is longer than {MOST_PATH_BYTES} bytes"));
            }
            schedule.path = text.to_owned();
            Ok(())
        },
    },
];

/// Keys that other schedulers have, and what stands for them here.
const ELSEWHERE: &[(&[&str], &str)] =
    &[(&["timezone", "time_zone", "tz", "zone"], UTC), (&["every", "interval"], EVERY)];

const UTC: &str = "times are UTC";
const EVERY: &str = "every ten minutes is `cron = \"*/10 * * * *\"`";
const SEVERAL: &str = "several times are a list in a field, like \"0 3,4 * * *\"";

/// `[schedule]`.
pub(crate) const SECTION: Section = Section {
    name: "schedule",
    page: "messages",
    schema: || {
        let one = schema::settings(KEYS, &Schedule::default(), &["cron"]);
        let several = json!({ "type": "array", "maxItems": MOST, "items": one.clone() });
        json!({ "anyOf": [one, several] })
    },
    owner: Owner::Service(|manifest, written, problems| manifest.schedules = read(written, problems)),
    subject: Subject::Service,
    view: Some(View { label: "schedule", value: view, text: words }),
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

/// Reads an expression.
///
/// # Errors
/// Why it is none, and what to write instead.
fn parse(text: &str) -> Result<Cron, String> {
    if text.len() > MOST_BYTES {
        return Err(format!("it is longer than {MOST_BYTES} bytes"));
    }
    match text.trim() {
        zone if zone.contains("TZ=") => return Err(format!("{UTC}; write the expression alone")),
        every if every.starts_with("@every") => return Err(EVERY.to_owned()),
        _ => {}
    }
    let cron = Cron::from_str(text).map_err(|error| {
        let error = error.to_string();
        let error = wrong_field(text).unwrap_or_else(|| error.trim_end_matches('.').to_owned());
        format!("{error}; write it like \"0 3 * * *\", for 3:00 UTC")
    })?;
    if cron.find_next_occurrence(&DateTime::UNIX_EPOCH, true).is_err() {
        return Err("it never comes: no month has that day".to_owned());
    }
    Ok(cron)
}

/// Returns what is wrong with the first field of an expression that is wrong by itself.
fn wrong_field(text: &str) -> Option<String> {
    let parts: Vec<_> = text.split_whitespace().collect();
    let fields = match parts.len() {
        5 => FIELDS.get(1..6)?,
        6 => FIELDS.get(..6)?,
        7 => &FIELDS,
        _ => return None,
    };
    let is_wrong = |at: usize| {
        let alone = parts.iter().enumerate().map(|(n, part)| if n == at { part } else { "*" });
        Cron::from_str(&alone.collect::<Vec<_>>().join(" ")).is_err()
    };
    let at = (0..parts.len()).find(|at| is_wrong(*at))?;
    let (part, (name, values)) = (parts.get(at)?, fields.get(at)?);
    Some(format!("`{}` is no {name}; use {values}, `*`, or ranges, lists and steps of these", part.escape_debug()))
}

/// Returns the expression, and of several schedules each with its path.
fn view(manifest: &Manifest) -> Option<Value> {
    match manifest.schedules.as_slice() {
        [] => None,
        [one] => Some(one.expression().into()),
        several => Some(several.iter().map(|it| format!("{} {}", it.expression(), it.path)).collect()),
    }
}

fn read(written: &Written<'_>, problems: &mut Problems) -> Vec<Schedule> {
    let Some(list) = written.list() else { return Vec::from_iter(schedule(written, problems)) };
    if list.len() > MOST {
        problems.push(written.error(format!("{} schedules are more than {MOST}", list.len())));
        return Vec::new();
    }
    let items = problems.take(written.items("[[schedule]]")).unwrap_or_default();
    let mut schedules: Vec<Schedule> = Vec::new();
    for item in &items {
        let Some(schedule) = schedule(item, problems) else { continue };
        // The path tells them apart in the state that hosts share, whatever their order in the file is.
        if schedules.iter().any(|known| known.path == schedule.path) {
            let path = &schedule.path;
            problems.push(item.at(format!(
                "two schedules call {path}; write both in one expression, as {SEVERAL}, or give each a path, like \
                 {path}{}",
                if path.contains('?') { "&1" } else { "?1" }
            )));
        }
        schedules.push(schedule);
    }
    schedules
}

fn schedule(written: &Written<'_>, problems: &mut Problems) -> Option<Schedule> {
    let mut schedule = with_defaults(KEYS, Schedule::default());
    if let Some(wrong) = elsewhere(written) {
        problems.push(wrong);
        return None;
    }
    let complete = problems.take(written.require("cron", KEYS)).is_some();
    let sound = written.settings(KEYS, &mut schedule, problems);
    (complete && sound).then_some(schedule)
}

/// Returns the problem of a key that is one of other schedulers, or of a list of expressions.
fn elsewhere(written: &Written<'_>) -> Option<String> {
    written.table()?.iter().find_map(|key| {
        let name = key.inside(written);
        if name == "cron" && key.list().is_some() {
            return Some(key.error(format!("write one expression; {SEVERAL}")));
        }
        let (_, hint) = ELSEWHERE.iter().find(|(names, _)| names.contains(&name))?;
        Some(key.unknown_with(Some((*hint).to_owned()), &[]))
    })
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
        let read = |text: &str| manifest(text).unwrap().schedules.remove(0);
        let schedule = read("[schedule]\ncron = '30 3 * * 1'\npath = '/clean'");
        assert_eq!((schedule.expression(), schedule.path.as_str()), ("30 3 * * 1", "/clean"));
        // Monday, 1970-01-05.
        let first = 4 * 86_400 + 3 * 3600 + 1800;
        assert_eq!(schedule.next(at(0)), Some(at(first)));
        assert_eq!(schedule.next(at(first - 1)), Some(at(first)));
        assert_eq!(schedule.next(at(first)), Some(at(first + 7 * 86_400)));
        let seconds = read("schedule.cron = '*/2 * * * * *'");
        assert_eq!((seconds.next(at(1)), seconds.next(at(2))), (Some(at(2)), Some(at(4))));
        assert_eq!(seconds.path, "/schedule");
        assert_eq!(manifest("").unwrap().schedules, []);
        let leap = read("schedule.cron = '0 0 29 2 *'");
        assert_eq!(leap.next(at(0)), Some(at(789 * 86_400)), "1972");
        // Either day suffices, or both with `+`: the first Monday is the 5th.
        let either = read("schedule.cron = '0 0 3 * MON'");
        assert_eq!([either.next(at(0)), either.next(at(2 * 86_400))], [Some(at(2 * 86_400)), Some(at(4 * 86_400))]);
        for both in ["0 0 1-7 * +MON", "0 0 * * MON#1"] {
            assert_eq!(read(&format!("schedule.cron = '{both}'")).next(at(0)), Some(at(4 * 86_400)), "{both}");
        }
        let once = read("schedule.cron = '0 0 3 1 1 * 1971'");
        assert_eq!(once.next(at(400 * 86_400)), None, "over");
    }

    #[test]
    fn several_have_paths_of_their_own() {
        let text = "[[schedule]]\ncron = '0 3 * * *'\npath = '/clean'\n[[schedule]]\ncron = '* * * * *'\n";
        let read = manifest(text).unwrap();
        let paths: Vec<_> = read.schedules.iter().map(|schedule| schedule.path.as_str()).collect();
        assert_eq!(paths, ["/clean", "/schedule"]);
        assert_eq!(view(&read), Some(json!(["0 3 * * * /clean", "* * * * * /schedule"])));
        let problem = |text: &str| manifest(text).unwrap_err();
        let twice = problem(&text.replace("/clean", "/schedule"));
        assert!(twice.contains("line 4: two schedules call /schedule; "), "{twice}");
        assert!(twice.contains("like \"0 3,4 * * *\", or give each a path, like /schedule?1"), "{twice}");
        assert!(problem("[[schedule]]\npath = '/x'").contains("schedule.cron is missing"));
        assert!(problem("schedule = ['* * * * *']").contains("write a section [schedule]"));
        let many = "[[schedule]]\ncron = '* * * * *'\n".repeat(MOST + 1);
        assert!(problem(&many).contains("17 schedules are more than 16"), "{}", problem(&many));
    }

    #[test]
    fn problems_name_the_key() {
        let problem = |text: &str| manifest(text).unwrap_err();
        assert!(problem("[schedule]").contains("schedule.cron is missing"), "{}", problem("[schedule]"));
        for text in ["", "* * *", "61 * * * *", "* * * * x", &"*".repeat(300)] {
            let problem = problem(&format!("[schedule]\ncron = '{text}'"));
            assert!(problem.starts_with("line 2: schedule.cron: `") && !problem.contains(".;"), "{problem}");
        }
        for (cron, said) in [
            ("0 25 * * *", "`25` is no hour; use 0 to 23, `*`, or ranges"),
            ("0 3 * * SUNDAY", "`SUNDAY` is no day of the week; use 0 to 7, where 0 and 7 are Sunday, or SUN to SAT"),
            ("0 3 * * 8", "`8` is no day of the week"),
            ("61 0 3 * * 1", "`61` is no second"),
            ("0 61 3 * * 1", "`61` is no minute"),
            ("*/0 * * * *", "`*/0` is no minute"),
            ("0 3 32 * *", "`32` is no day of the month; use 1 to 31"),
            ("0 3 * JANUARY *", "`JANUARY` is no month"),
            ("0 0 3 1 1 * 99999", "`99999` is no year; use 1 to 5000"),
            ("0 5-1 * * *", "`5-1` is no hour"),
            ("* * *", "must have between 5 and 7 fields; write it like \"0 3 * * *\""),
        ] {
            let problem = problem(&format!("schedule.cron = '{cron}'"));
            assert!(problem.contains(said) && problem.contains("write it like"), "{problem}");
        }
        for (keys, said) in [
            ("cron = '0 0 30 2 *'", "schedule.cron: `0 0 30 2 *`: it never comes"),
            ("cron = '0 0 31 4,6 *'", "it never comes"),
            ("cron = 'TZ=Europe/Berlin 0 3 * * *'", "times are UTC; write the expression alone"),
            ("cron = '@every 10m'", "every ten minutes is `cron = \"*/10 * * * *\"`"),
            (
                "cron = ['0 3 * * *', '0 4 * * *']",
                "schedule.cron: write one expression; several times are a list in a field",
            ),
            (
                "cron = '0 3 * * *'\ntimezone = 'Europe/Berlin'",
                "line 3: unknown key `schedule.timezone`; times are UTC",
            ),
            ("every = '10m'", "line 2: unknown key `schedule.every`; every ten minutes is `cron = "),
            ("cron = '* * * * *'\npath = '/a b'", "line 3: schedule.path: `/a b` is not a path; write /a%20b"),
            ("cron = '* * * * *'\npath = '/a#b'", "`/a#b` has a fragment, which is never sent"),
        ] {
            let problem = problem(&format!("[schedule]\n{keys}"));
            assert!(problem.contains(said) && problem.lines().count() == 1, "{problem}");
        }
        for taken in ["@daily", "@hourly", "0 3 * * 7", "0 0 3 * * * 2030", "0 3 * JAN MON-FRI", "0 0 L * *"] {
            assert!(manifest(&format!("schedule.cron = '{taken}'")).is_ok(), "{taken}");
        }
        let long = problem(&format!("[schedule]\ncron = '* * * * *'\npath = '/{}'", "x".repeat(128)));
        assert!(long.contains("schedule.path: the path is longer than 128 bytes"), "{long}");
        assert!(
            problem("[schedule]\ncron = '* * * * *'\npath = 'x'").contains("line 3: schedule.path: `x` is not a path")
        );
    }
}
