//! The share of its service's traffic that a version gets: `users@2.toml` beside `users@2.wasm`.

use http::HeaderMap;
use serde::Deserialize;

use crate::key::RequestKey;

/// A percentage in hundredths of a percent, 0 to 10,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u32);

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

/// The keys that only a version can set.
pub(super) struct Written {
    pub(super) percent: Option<toml::Value>,
    pub(super) rules: Vec<String>,
    pub(super) mirror: Option<toml::Value>,
    pub(super) rollback: Option<WrittenRollback>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenRollback {
    errors: Option<toml::Value>,
    p99: Option<f64>,
    minimum: Option<u64>,
}

impl Default for Rollback {
    fn default() -> Self {
        Self { errors: Percent(100), p99: 150, minimum: 100 }
    }
}

impl Percent {
    /// 100 %.
    pub const ALL: Self = Self(10_000);

    /// Parses `10`, `2.5` or `"10%"`.
    ///
    /// # Errors
    /// What was expected.
    pub fn read(value: &toml::Value) -> Result<Self, String> {
        let number = match value {
            toml::Value::Integer(whole) => Some(*whole as f64),
            toml::Value::Float(number) => Some(*number),
            toml::Value::String(text) => return Self::parse(text),
            _ => None,
        };
        number.and_then(Self::of).ok_or_else(|| format!("{value} is not a percentage; write it like 10 or \"2.5%\""))
    }

    /// Parses `10%`, `10` or `2.5%`.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let number = text.trim_end_matches('%').trim().parse().ok().and_then(Self::of);
        number.ok_or_else(|| format!("`{text}` is not a percentage; write it like 10% or 2.5%"))
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be between 0 and 100")]
    fn of(number: f64) -> Option<Self> {
        (0.0..=100.0).contains(&number).then(|| Self((number * 100.0).round() as u32))
    }

    /// Returns this as a fraction of one.
    pub fn part(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

impl std::fmt::Display for Percent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 100.0)
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

    fn read(text: &str) -> Result<Self, String> {
        let wrong = || format!("match: `{text}`: write it like \"header:x-version=2\" or \"cookie:version=2\"");
        let (place, value) = text.split_once('=').ok_or_else(wrong)?;
        let place = RequestKey::read(place).ok().filter(|place| *place != RequestKey::Client).ok_or_else(wrong)?;
        Ok(Self { place, value: value.to_owned() })
    }
}

impl Written {
    /// Returns the names of the keys that are present, to refuse them in the manifest of a service.
    pub(super) fn given(&self) -> impl Iterator<Item = &'static str> {
        let given = [
            ("percent", self.percent.is_some()),
            ("match", !self.rules.is_empty()),
            ("mirror", self.mirror.is_some()),
            ("rollback", self.rollback.is_some()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name)
    }

    pub(super) fn share(self, note: &mut impl FnMut(String)) -> TrafficShare {
        let mut percent = |name: &str, value: Option<toml::Value>| {
            let read = value.as_ref().map_or(Ok(Percent::default()), Percent::read);
            read.map_err(|problem| note(format!("{name}: {problem}"))).unwrap_or_default()
        };
        let (part, mirror) = (percent("percent", self.percent), percent("mirror", self.mirror));
        let rollback = self.rollback.map(|written| {
            let usual = Rollback::default();
            let errors = written.errors.map_or(usual.errors, |value| percent("rollback.errors", Some(value)));
            let p99 = written.p99.map_or(usual.p99, |times| times_hundred(times).unwrap_or(0));
            (Rollback { errors, p99, minimum: written.minimum.unwrap_or(usual.minimum).max(1) }, written.p99)
        });
        if let Some((Rollback { p99: 0, .. }, Some(times))) = rollback {
            note(format!("rollback.p99: {times} is not between 1 and 100; 1.5 allows 50 % more"));
        }
        let mut rules = Vec::new();
        for text in &self.rules {
            match Rule::read(text) {
                Ok(rule) => rules.push(rule),
                Err(problem) => note(problem),
            }
        }
        TrafficShare { percent: part, rules, mirror, rollback: rollback.map(|(rollback, _)| rollback), text: 0 }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be between 1 and 100")]
fn times_hundred(times: f64) -> Option<u32> {
    (1.0..=100.0).contains(&times).then(|| (times * 100.0).round() as u32)
}
