//! `[rate]`: a rate limit.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use http::header::HeaderName;
use serde_json::json;

use crate::schema;
use crate::section::{Owner, Section};
use crate::written::{Problems, Written, with_defaults};
use lodge_base::config::key::{Key, count, word};

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest time in which a bucket may refill. Rates count in nanoseconds, so this avoids an overflow.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Every key. A key without a default is required, or its help says what holds without it.
const KEYS: &[Key<Settings>] = &[
    Key {
        name: "limit",
        default: "",
        help: "requests per time: `100/s`, `5/m`, `1000/h`, `10/30s`",
        set: |rate, text| limit(text).map(|(count, per)| (rate.count, rate.per) = (count, per)),
    },
    Key {
        name: "burst",
        default: "",
        help: "requests at once; by default as many as `limit` allows per time",
        set: |rate, text| whole(text, 1..=1_000_000).map(|burst| rate.burst = burst),
    },
    Key {
        name: "by",
        default: "client",
        help: "what has a limit of its own: each `client` address (each /64 of IPv6), the `service` as a whole, each value of `header:NAME`; by verified credentials each `identity`, or value of `claim:NAME`",
        set: |rate, text| by(text).map(|by| rate.by = by),
    },
    Key {
        name: "scope",
        default: "host",
        help: "where it holds: on each `host` by itself, or for all hosts of the `cluster` together",
        set: |rate, text| word(text, &SCOPES).map(|scope| rate.scope = scope),
    },
];

const SCOPES: [(&str, Scope); 2] = [("host", Scope::Host), ("cluster", Scope::Cluster)];

/// `[rate]`.
pub(crate) const SECTION: Section = Section {
    name: "rate",
    page: "policies",
    schema: || json!({ "anyOf": [{ "type": "string" }, schema::settings(KEYS, &blank(), &["limit"])] }),
    owner: Owner::Route(|settings, written, problems| settings.policies.rate = read(written, problems)),
    ..Section::DEFAULT
};

/// A rate limit and the key of its buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Requests per `per`.
    pub count: u32,
    /// The period of `count`.
    pub per: Duration,
    /// Requests that may come at once: the size of a bucket.
    pub burst: u32,
    /// The key of the token buckets.
    pub by: By,
    /// The hosts that share the buckets.
    pub scope: Scope,
}

/// The hosts that share the token buckets of a rate limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Each host has buckets of its own.
    #[default]
    Host,
    /// The hosts of a cluster have them together.
    Cluster,
}

/// The key of the token buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// One bucket for all requests.
    Service,
    /// One bucket per client address; for IPv6 per /64, which a single client usually has.
    Client,
    /// One bucket per value of this header; requests without the header share one.
    Header(HeaderName),
    /// One bucket per sender by verified credentials. Requests that need none are counted by client.
    Identity,
    /// One bucket per value of this claim. Requests without the claim are counted by identity.
    Claim(String),
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, per, burst, by, scope } = self;
        let per = humantime::format_duration(*per).to_string();
        write!(f, "{count}/{}, burst {burst}, by {by}", per.strip_prefix('1').unwrap_or(&per))?;
        f.write_str(if *scope == Scope::Cluster { ", of all hosts together" } else { "" })
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service => f.write_str("service"),
            Self::Client => f.write_str("client"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Identity => f.write_str("identity"),
            Self::Claim(name) => write!(f, "claim:{name}"),
        }
    }
}

/// Returns a value for [`KEYS`] to fill in. It is never used as it is.
fn blank() -> Settings {
    Settings { count: 0, per: Duration::ZERO, burst: 0, by: By::Client, scope: Scope::Host }
}

fn read(written: &Written<'_>, problems: &mut Problems) -> Option<Settings> {
    let mut rate = with_defaults(KEYS, blank());
    if written.table().is_none() {
        // `rate = "100/s"` is short for a section with `limit` only.
        let limit = written.named("rate.limit");
        problems.take(limit.set("rate", KEYS, &mut rate))?;
    } else {
        let sound = written.settings(KEYS, &mut rate, problems);
        problems.take(written.require("limit", KEYS))?;
        if !sound {
            return None;
        }
    }
    if rate.burst == 0 {
        rate.burst = rate.count;
    }
    if rate.per.as_nanos() * u128::from(rate.burst) > YEAR.as_nanos() * u128::from(rate.count) {
        let burst = written.table().into_iter().flatten().find(|key| key.name == "rate.burst");
        let burst = burst.unwrap_or_else(|| written.named("rate.burst"));
        problems.push(burst.error("at this rate it would take over a year to refill; lower it"));
    }
    Some(rate)
}

fn limit(text: &str) -> Result<(u32, Duration), String> {
    let wrong = || format!("`{text}` is not a rate; write it like 100/s, 5/m, 1000/h or 10/30s");
    let (count, per) = text.split_once('/').ok_or_else(wrong)?;
    let count = count.trim().parse().map_err(|_| wrong())?;
    let per = per.trim();
    let one = if per.starts_with(|first: char| first.is_ascii_digit()) { "" } else { "1" };
    let per = humantime::parse_duration(&format!("{one}{per}")).map_err(|_| wrong())?;
    if (1..=1_000_000).contains(&count) && (MS..=DAY).contains(&per) {
        Ok((count, per))
    } else {
        Err("must be between 1 and 1000000 requests, in 1ms to 1day".into())
    }
}

fn by(text: &str) -> Result<By, String> {
    let wrong = || {
        format!(
            "`{text}` is not one of `client`, `service`, `identity`, `header:NAME`, `claim:NAME`, as in header:x-user or \
             claim:sub"
        )
    };
    // The name is a part of a quoted text in `RateLimit`.
    let is_name = |name: &&str| {
        (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'))
    };
    match text {
        "client" => Ok(By::Client),
        "service" => Ok(By::Service),
        "identity" => Ok(By::Identity),
        text => match text.split_once(':') {
            Some(("header", name)) => HeaderName::try_from(name).map(By::Header).map_err(|_| wrong()),
            Some(("claim", name)) => Some(name).filter(is_name).map(|name| By::Claim(name.into())).ok_or_else(wrong),
            _ => Err(wrong()),
        },
    }
}

fn whole(text: &str, range: RangeInclusive<usize>) -> Result<u32, String> {
    count(text, range).map(|value| u32::try_from(value).unwrap_or(u32::MAX))
}
