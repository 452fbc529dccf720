//! One setting: its name, default, meaning, and how its text becomes a value.
//!
//! Every source (flag, environment, file, manifest) delivers text, and every setting is read from text in
//! one place, so a bad value reads the same wherever it was written.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;

/// A setting of a `T`, as data: the flag, the variable, the key, the row of the docs and the default all come from here.
pub struct Key<T> {
    /// Dotted name as in `lodge.toml`, e.g. `listener.idle`.
    pub name: &'static str,
    /// Text of the default, read exactly as if a person had written it.
    pub default: &'static str,
    /// What it bounds or does, in one line.
    pub help: &'static str,
    /// Reads the text into its place. The error says what was expected, not where the text came from.
    pub set: fn(&mut T, &str) -> Result<(), String>,
}

/// The key that a misspelt one most resembles, for "did you mean".
pub fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (strsim::jaro_winkler(wrong, name), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// A time span such as `30s` or `1m 30s`, within `range`.
pub fn duration(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let value = humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is not a time span; write it like 500ms, 30s or 5m"))?;
    let (low, high) = (*range.start(), *range.end());
    let show = humantime::format_duration;
    within(value, range, || format!("{} and {}", show(low), show(high)))
}

/// A size such as `64KiB` or `10MB`, in bytes, within `range`.
pub fn size(text: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    let value = text
        .parse::<bytesize::ByteSize>()
        .ok()
        .and_then(|size| usize::try_from(size.as_u64()).ok())
        .ok_or_else(|| format!("`{text}` is not a size; write it like 64KiB or 10MiB"))?;
    let show = |bytes: usize| bytesize::ByteSize(bytes as u64).display().iec().to_string();
    let (low, high) = (*range.start(), *range.end());
    within(value, range, || format!("{} and {}", show(low), show(high)))
}

/// A whole number within `range`.
pub fn count(text: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    let value = text.parse().map_err(|_| format!("`{text}` is not a whole number"))?;
    let (low, high) = (*range.start(), *range.end());
    within(value, range, || format!("{low} and {high}"))
}

/// One of a few words.
pub fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let near = nearest(text, words.iter().map(|(word, _)| *word));
        let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        let words: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        format!("`{text}` is not one of {}{hint}", words.join(", "))
    })
}

/// A network such as `10.0.0.0/8`, or the network of one address. What is written as a network of IPv4-mapped addresses is one
/// of IPv4 (RFC 4291 2.5.5.2), as the addresses of clients are.
pub fn network(text: &str) -> Result<IpNet, String> {
    let wrong = || format!("`{text}` is not a network; write it like 10.0.0.0/8, 2001:db8::/32 or 192.0.2.7");
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse().map_err(|_| wrong())?,
    };
    match (net.addr().to_canonical(), net.prefix_len().checked_sub(MAPPED)) {
        (IpAddr::V4(address), Some(bits)) if matches!(net, IpNet::V6(_)) => {
            IpNet::new(address.into(), bits).map(|net| net.trunc()).map_err(|_| wrong())
        }
        (IpAddr::V4(_), None) if matches!(net, IpNet::V6(_)) => {
            Err(format!("`{text}` has IPv4-mapped addresses and others; write the network of IPv4, and others apart"))
        }
        _ => Ok(net.trunc()),
    }
}

/// Bits before the IPv4 address in an IPv4-mapped one.
const MAPPED: u8 = 96;

fn within<V: PartialOrd, D: Display>(
    value: V,
    range: RangeInclusive<V>,
    bounds: impl FnOnce() -> D,
) -> Result<V, String> {
    if range.contains(&value) { Ok(value) } else { Err(format!("must be between {}", bounds())) }
}
