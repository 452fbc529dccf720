//! Reads the policies of a service and of its routes from a manifest.
//!
//! `[rate]`, `[breaker]` and `[adaptive]` are read by tables, from which the JSON Schema derives, too.

use std::time::Duration;

use http::header::HeaderName;
use ipnet::IpNet;
use toml::{Table, Value};

use crate::clients::Clients;
use crate::misplaced;
use crate::policies::PolicySettings;
use crate::policies::Priority;
use crate::rate::By;
use crate::{adaptive, breaker, rate};
use lodge_base::config::key::{Key, count, duration, nearest, network, word};
use lodge_base::config::plain;

/// The most networks of one list. Each of them is compared for every request.
const NETWORKS: usize = 1_000;

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest time in which a bucket may refill. Rates count in nanoseconds, so this avoids an overflow.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The words for a priority.
pub const PRIORITIES: [(&str, Priority); 3] =
    [("low", Priority::Low), ("normal", Priority::Normal), ("high", Priority::High)];

/// Every key of `[rate]`. A key without a default is required, or its help says what holds without it.
pub const RATE: &[Key<rate::Settings>] = &[
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
        help: "what has a limit of its own: each `client` address (each /64 of IPv6), the `service` as a whole, each value of `header:NAME`",
        set: |rate, text| by(text).map(|by| rate.by = by),
    },
];

/// Every key of `[breaker]`.
pub const BREAKER: &[Key<breaker::Settings>] = &[
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

/// Every key of `[adaptive]`.
pub const ADAPTIVE: &[Key<adaptive::Settings>] = &[
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

/// The values of a service or of a route, before they are parsed.
pub(crate) struct Written {
    pub(crate) allow: Option<Value>,
    pub(crate) deny: Option<Value>,
    pub(crate) priority: Option<Value>,
    pub(crate) rate: Option<Value>,
    pub(crate) breaker: Option<Table>,
}

/// Returns the position of a key such as `rate.limit`, with which messages about it begin.
pub(crate) type Place<'a> = &'a dyn Fn(&str) -> String;

/// Parses policies. Every problem goes to `note`.
pub(crate) fn read(written: &Written, place: Place<'_>, note: &mut dyn FnMut(String)) -> PolicySettings {
    let Written { allow, deny, priority, rate, breaker } = written;
    let priority = priority.as_ref().and_then(|value| {
        let read = word(&plain(value), &PRIORITIES);
        read.map_err(|problem| note(format!("{}priority: {problem}", place("priority")))).ok()
    });
    let rate = rate.as_ref().and_then(|written| {
        // `rate = "100/s"` is short for a section with `limit` only.
        let short = || Table::from_iter([("limit".to_owned(), written.clone())]);
        let written = written.as_table().cloned().unwrap_or_else(short);
        let mut rate = section("rate", &written, RATE, &["limit"], blank_rate(), place, note)?;
        if rate.burst == 0 {
            rate.burst = rate.count;
        }
        if rate.per.as_nanos() * u128::from(rate.burst) > YEAR.as_nanos() * u128::from(rate.count) {
            let place = place("rate.burst");
            note(format!("{place}rate.burst: at this rate it would take over a year to refill; lower it"));
        }
        Some(rate)
    });
    let breaker = breaker.as_ref().and_then(|written| {
        let breaker = section("breaker", written, BREAKER, &[], blank_breaker(), place, note)?;
        if breaker.slow.is_none() && written.contains_key("slow_calls") {
            let place = place("breaker.slow_calls");
            note(format!("{place}breaker.slow_calls: no call is slow without `slow`; write it like slow = \"1s\""));
        }
        Some(breaker)
    });
    let clients = Clients { allow: nets("allow", allow, place, note), deny: nets("deny", deny, place, note) };
    PolicySettings { clients, rate, breaker, priority }
}

/// Parses `[adaptive]`. Every problem goes to `note`.
pub(crate) fn read_adaptive(
    written: &Table,
    place: Place<'_>,
    note: &mut dyn FnMut(String),
) -> Option<adaptive::Settings> {
    section("adaptive", written, ADAPTIVE, &["latency"], blank_adaptive(), place, note)
}

/// Returns a value for [`RATE`] to fill in. It is never used as it is.
pub fn blank_rate() -> rate::Settings {
    rate::Settings { count: 0, per: Duration::ZERO, burst: 0, by: By::Client }
}

/// Returns a value for [`BREAKER`] to fill in. It is never used as it is.
pub fn blank_breaker() -> breaker::Settings {
    let zero = Duration::ZERO;
    breaker::Settings { failures: 0, slow: None, slow_calls: 0, calls: 0, window: zero, open: zero, probes: 0 }
}

/// Returns a value for [`ADAPTIVE`] to fill in. It is never used as it is.
pub fn blank_adaptive() -> adaptive::Settings {
    adaptive::Settings { latency: Duration::ZERO, floor: 0 }
}

/// Parses a table by its keys. Returns `None` if there is a problem.
fn section<T>(
    name: &str,
    written: &Table,
    keys: &[Key<T>],
    required: &[&str],
    mut blank: T,
    place: Place<'_>,
    note: &mut dyn FnMut(String),
) -> Option<T> {
    let mut sound = true;
    let mut problem = |at: &str, problem: String| {
        sound = false;
        note(format!("{}{problem}", place(at)));
    };
    for key in keys {
        let at = format!("{name}.{}", key.name);
        let text = written.get(key.name).map(plain);
        let text = text.or_else(|| (!key.default.is_empty()).then(|| key.default.to_owned()));
        match text.map(|text| (key.set)(&mut blank, &text)) {
            Some(Err(expected)) => problem(&at, format!("{at}: {expected}")),
            None if required.contains(&key.name) => problem(name, format!("{at} is missing: {}", key.help)),
            _ => {}
        }
    }
    for unknown in written.keys().filter(|unknown| !keys.iter().any(|key| key.name == *unknown)) {
        let near = || nearest(unknown, keys.iter().map(|key| key.name));
        let hint = misplaced(unknown).or_else(|| Some(format!("did you mean `{}`?", near()?)));
        let hint = hint.map_or(String::new(), |hint| format!("; {hint}"));
        problem(&format!("{name}.{unknown}"), format!("unknown key `{name}.{unknown}`{hint}"));
    }
    sound.then_some(blank)
}

fn nets(name: &str, written: &Option<Value>, place: Place<'_>, note: &mut dyn FnMut(String)) -> Vec<IpNet> {
    let Some(written) = written else { return Vec::new() };
    let mut problem = |problem: String| note(format!("{}{name}: {problem}", place(name)));
    let Some(items) = written.as_array() else {
        problem("write it as a list, like [\"10.0.0.0/8\"]".into());
        return Vec::new();
    };
    if items.is_empty() && name == "allow" {
        problem("it is empty, so no client would be allowed; list networks, or remove it".into());
    }
    if items.len() > NETWORKS {
        problem(format!("{} networks are more than {NETWORKS}", items.len()));
    }
    let mut nets = Vec::new();
    for item in items.iter().map(plain) {
        match network(&item) {
            Ok(net) => nets.push(net),
            Err(wrong) => problem(wrong),
        }
    }
    nets
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
    let wrong = || format!("`{text}` is not one of `client`, `service`, `header:NAME`, as in header:x-api-key");
    match text {
        "client" => Ok(By::Client),
        "service" => Ok(By::Service),
        text => {
            let name = text.strip_prefix("header:").ok_or_else(wrong)?;
            HeaderName::try_from(name).map(By::Header).map_err(|_| wrong())
        }
    }
}

fn percent(text: &str) -> Result<u32, String> {
    let part = text.strip_suffix('%').and_then(|part| part.parse().ok()).filter(|part| (1..=100).contains(part));
    part.ok_or_else(|| format!("`{text}` is not a percentage of calls; write it like 50%, from 1% to 100%"))
}

fn whole(text: &str, range: std::ops::RangeInclusive<usize>) -> Result<u32, String> {
    count(text, range).map(|value| u32::try_from(value).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
