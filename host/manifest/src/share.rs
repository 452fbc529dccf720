//! The sections about versions: the share of its service's traffic that a version gets, and `sticky`.

use http::HeaderMap;
use serde_json::json;

use crate::Manifest;
use crate::key::RequestKey;
use crate::percent::Percent;
use crate::schema;
use crate::section::{Owner, Section};
use crate::written::{Problems, Written};

/// The share of its service's requests that a version gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficShare {
    /// The percentage of the requests that no rule decides.
    pub percent: Percent,
    /// Rules that select requests for this version, whatever the percentage. One match is enough.
    pub rules: Vec<Rule>,
    /// The percentage of requests to other versions of which this one gets a copy. Its responses to copies are
    /// discarded.
    pub mirror: Percent,
    /// When the version is withdrawn automatically.
    pub rollback: Option<Rollback>,
    /// A hash of the manifest's text. A changed text lets a withdrawn version start again.
    pub text: u64,
}

/// A rule that matches requests with a certain value of a header or cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The header or cookie.
    pub place: RequestKey,
    /// The value, compared exactly.
    pub value: String,
}

/// The bounds beyond which a version is withdrawn, compared with its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollback {
    /// Percentage points by which its share of failed requests may be higher.
    pub errors: Percent,
    /// Hundredths of the service's p99 that its own p99 may reach; at least 100.
    pub p99: u32,
    /// Requests that both must have handled in the last minute before they are compared.
    pub minimum: u64,
}

/// `percent`.
pub(crate) const PERCENT: Section = Section {
    name: "percent",
    page: "versions",
    schema: || schema::percent("of a version such as NAME@2: its share of the service's requests", 0),
    owner: Owner::Version(|manifest, written, problems| {
        own(manifest).percent = problems.take(Percent::read(written)).unwrap_or_default();
    }),
    ..Section::DEFAULT
};

/// `match`.
pub(crate) const MATCH: Section = Section {
    name: "match",
    page: "versions",
    schema: || {
        let rule = json!({ "type": "string", "pattern": "^(header|cookie):[^=]+=" });
        schema::described(
            schema::texts(rule),
            "of a version: requests that it always gets, whatever its percentage; one or a list",
        )
    },
    owner: Owner::Version(|manifest, written, problems| {
        let rules = problems.take(written.items("[\"header:x-version=2\"]")).unwrap_or_default();
        own(manifest).rules = rules.iter().filter_map(|rule| problems.take(Rule::read(rule))).collect();
    }),
    ..Section::DEFAULT
};

/// `mirror`.
pub(crate) const MIRROR: Section = Section {
    name: "mirror",
    page: "versions",
    schema: || {
        let help = "of a version: the percentage of requests that are copied to it; its responses are discarded";
        schema::percent(help, 0)
    },
    owner: Owner::Version(|manifest, written, problems| {
        own(manifest).mirror = problems.take(Percent::read(written)).unwrap_or_default();
    }),
    ..Section::DEFAULT
};

/// `[rollback]`.
pub(crate) const ROLLBACK: Section = Section {
    name: "rollback",
    page: "versions",
    schema: rollback_schema,
    owner: Owner::Version(|manifest, written, problems| {
        own(manifest).rollback = Rollback::read(written, problems);
    }),
    ..Section::DEFAULT
};

/// `sticky`.
pub(crate) const STICKY: Section = Section {
    name: "sticky",
    page: "versions",
    schema: || {
        json!({
            "type": "string",
            "pattern": "^(client|header:.+|cookie:.+)$",
            "description": "the property of a client that decides which version it gets",
        })
    },
    owner: Owner::Service(|manifest, written, problems| {
        let text = written.string("write \"client\", \"header:NAME\" or \"cookie:NAME\"");
        let read = text.and_then(|text| RequestKey::read(text).map_err(|wrong| written.error(wrong)));
        manifest.sticky = problems.take(read);
    }),
    ..Section::DEFAULT
};

/// The share of a version. Sections of versions are read for versions only, which have one.
fn own(manifest: &mut Manifest) -> &mut TrafficShare {
    manifest.share.get_or_insert_default()
}

fn rollback_schema() -> serde_json::Value {
    let properties = json!({
        "errors": schema::percent("how many more percent of its requests may fail than of the service's", 1),
        "p99": {
            "type": "number",
            "minimum": 1,
            "maximum": 100,
            "default": 1.5,
            "description": "its 99th percentile may be this many times the service's",
        },
        "minimum": {
            "type": "integer",
            "minimum": 1,
            "default": 100,
            "description": "requests that both need in the last minute before they are compared",
        },
    });
    let help = "of a version: it is withdrawn when it does worse than the service";
    schema::described(schema::table(&[], properties), help)
}

impl Default for Rollback {
    fn default() -> Self {
        Self { errors: Percent(100), p99: 150, minimum: 100 }
    }
}

/// The form of a manifest.
impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.place, self.value)
    }
}

impl Rule {
    /// Returns whether a request with these headers has the value.
    pub fn matches(&self, headers: &HeaderMap) -> bool {
        self.place.value(headers) == Some(self.value.as_bytes())
    }

    fn read(written: &Written<'_>) -> Result<Self, String> {
        const FORM: &str = "write it like \"header:x-version=2\" or \"cookie:version=2\"";
        let text = written.string(FORM)?;
        let wrong = || written.error(format!("`{text}`: {FORM}"));
        let (place, value) = text.split_once('=').ok_or_else(wrong)?;
        let place = RequestKey::read(place).ok().filter(|place| *place != RequestKey::Client).ok_or_else(wrong)?;
        Ok(Self { place, value: value.to_owned() })
    }
}

impl Rollback {
    fn read(written: &Written<'_>, problems: &mut Problems) -> Option<Self> {
        let mut rollback = Self::default();
        for key in written.section(&["errors", "p99", "minimum"], problems)? {
            match key.inside(written) {
                "errors" => rollback.errors = problems.take(Percent::read(&key))?,
                "p99" => {
                    let times = problems.take(key.plain())?;
                    let wrong = || key.error(format!("{times} is not between 1 and 100; 1.5 allows 50 % more"));
                    rollback.p99 = problems.take(times.parse().ok().and_then(times_hundred).ok_or_else(wrong))?;
                }
                _ => rollback.minimum = problems.take(key.number(0..=u32::MAX))?.max(1).into(),
            }
        }
        Some(rollback)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be between 1 and 100")]
fn times_hundred(times: f64) -> Option<u32> {
    (1.0..=100.0).contains(&times).then(|| (times * 100.0).round() as u32)
}
