//! `[adaptive]`: an adaptive concurrency limit.

use std::fmt;
use std::time::Duration;

use crate::schema;
use crate::section::{Owner, Section};
use crate::written::with_defaults;
use lodge_base::config::key::{Key, count, duration};

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Every key.
const KEYS: &[Key<Settings>] = &[
    Key {
        name: "latency",
        default: "",
        help: "the average time to the response head to aim for; time in queues does not count",
        set: |adaptive, text| duration(text, MS..=DAY).map(|latency| adaptive.latency = latency),
    },
    Key {
        name: "floor",
        default: "1",
        help: "the lowest limit that it sets; the highest is `limits.in_flight`",
        set: |adaptive, text| count(text, 1..=1_000_000).map(|floor| adaptive.floor = floor),
    },
];

/// `[adaptive]`.
pub(crate) const SECTION: Section = Section {
    name: "adaptive",
    page: "policies",
    schema: || schema::settings(KEYS, &blank(), &["latency"]),
    owner: Owner::Service(|manifest, written, problems| {
        let mut adaptive = with_defaults(KEYS, blank());
        let sound = written.settings(KEYS, &mut adaptive, problems);
        let complete = problems.take(written.require("latency", KEYS)).is_some();
        manifest.policies.adaptive = (sound && complete).then_some(adaptive);
    }),
    ..Section::DEFAULT
};

/// The target and the floor of an adaptive concurrency limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The target for the average time to the response head.
    pub latency: Duration,
    /// The lowest limit of requests in flight.
    pub floor: usize,
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "latency {}, floor {}", humantime::format_duration(self.latency), self.floor)
    }
}

/// Returns a value for [`KEYS`] to fill in. It is never used as it is.
fn blank() -> Settings {
    Settings { latency: Duration::ZERO, floor: 0 }
}
