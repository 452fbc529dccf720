//! `[breaker]`: a circuit breaker.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::percent::Percent;
use crate::schema;
use crate::section::{Owner, Section};
use crate::written::{Problems, Written, with_defaults};
use lodge_base::config::key::{Key, count, duration};

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Every key.
const KEYS: &[Key<Settings>] = &[
    Key {
        name: "failures",
        default: "50%",
        help: "share of calls that failed, at which it opens",
        set: |breaker, text| percent(text).map(|part| breaker.failures = part),
    },
    Key {
        name: "slow",
        default: "",
        help: "time to the response head from which a call is slow; without it no call is",
        set: |breaker, text| duration(text, MS..=DAY).map(|slow| breaker.slow = Some(slow)),
    },
    Key {
        name: "slow_calls",
        default: "50%",
        help: "share of calls that were slow, at which it opens",
        set: |breaker, text| percent(text).map(|part| breaker.slow_calls = part),
    },
    Key {
        name: "calls",
        default: "20",
        help: "calls in the window, below which it does not open",
        set: |breaker, text| whole(text, 1..=1_000_000).map(|calls| breaker.calls = calls),
    },
    Key {
        name: "window",
        default: "10s",
        help: "time for which calls count",
        set: |breaker, text| duration(text, 100 * MS..=DAY).map(|window| breaker.window = window),
    },
    Key {
        name: "open",
        default: "5s",
        help: "time that it stays open before it lets a few probes through",
        set: |breaker, text| duration(text, MS..=DAY).map(|open| breaker.open = open),
    },
    Key {
        name: "probes",
        default: "3",
        help: "good probes that close it; the first bad one opens it again",
        set: |breaker, text| whole(text, 1..=1_000).map(|probes| breaker.probes = probes),
    },
];

/// `[breaker]`.
pub(crate) const SECTION: Section = Section {
    name: "breaker",
    page: "policies",
    schema: || schema::settings(KEYS, &blank(), &[]),
    owner: Owner::Route(|settings, written, problems| settings.policies.breaker = read(written, problems)),
    ..Section::DEFAULT
};

/// When a circuit breaker opens, for how long, and what closes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Percentage of failed calls at which the breaker opens.
    pub failures: Percent,
    /// Time to the response head above which a call is slow; `None` if no call is.
    pub slow: Option<Duration>,
    /// Percentage of slow calls at which the breaker opens.
    pub slow_calls: Percent,
    /// Number of calls in the window below which the breaker does not open.
    pub calls: u32,
    /// Period over which calls are counted.
    pub window: Duration,
    /// Time that the breaker stays open before it admits probes.
    pub open: Duration,
    /// Number of successful probes that close the breaker.
    pub probes: u32,
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = humantime::format_duration;
        write!(f, "{} failures", self.failures)?;
        if let Some(slow) = self.slow {
            write!(f, " or {} over {}", self.slow_calls, time(slow))?;
        }
        write!(f, " of {} calls or more in {}, ", self.calls, time(self.window))?;
        write!(f, "open for {}, {} probes", time(self.open), self.probes)
    }
}

/// Returns a value for [`KEYS`] to fill in. It is never used as it is.
fn blank() -> Settings {
    let zero = Duration::ZERO;
    Settings { failures: Percent(0), slow: None, slow_calls: Percent(0), calls: 0, window: zero, open: zero, probes: 0 }
}

fn read(written: &Written<'_>, problems: &mut Problems) -> Option<Settings> {
    let mut breaker = with_defaults(KEYS, blank());
    if !written.settings(KEYS, &mut breaker, problems) {
        return None;
    }
    let slow_calls = written.table().into_iter().flatten().find(|key| key.name == "breaker.slow_calls");
    if let Some(slow_calls) = slow_calls.filter(|_| breaker.slow.is_none()) {
        problems.push(slow_calls.error("no call is slow without `slow`; write it like slow = \"1s\""));
    }
    Some(breaker)
}

fn percent(text: &str) -> Result<Percent, String> {
    let part = text
        .strip_suffix('%')
        .and_then(|part| part.parse().ok())
        .filter(|part| (1..=100).contains(part))
        .map(Percent::whole);
    part.ok_or_else(|| format!("`{text}` is not a percentage of calls; write it like 50%, from 1% to 100%"))
}

fn whole(text: &str, range: RangeInclusive<usize>) -> Result<u32, String> {
    count(text, range).map(|value| u32::try_from(value).unwrap_or(u32::MAX))
}
