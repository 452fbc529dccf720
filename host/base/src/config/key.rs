//! A setting as data: its name, default, help text and parser.
//!
//! Every source (flag, environment, file, manifest) provides text, and one function parses each setting, so an invalid
//! value has the same message in every source.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;

/// A setting of a `T`. Flags, variables, keys, defaults and the rows of the docs derive from it.
pub struct Key<T> {
    /// Dotted name as in `lodge.toml`, for example `listener.idle`.
    pub name: &'static str,
    /// The default as text, parsed like any other value.
    pub default: &'static str,
    /// What the setting bounds or does, in one line.
    pub help: &'static str,
    /// Parses the text and stores the value. The error says what was expected, not where the text came from.
    pub set: fn(&mut T, &str) -> Result<(), String>,
}

/// Returns the name most similar to `wrong` (Jaro-Winkler above 0.75), for "did you mean".
pub fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (strsim::jaro_winkler(wrong, name), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// Returns the name of which `wrong` is a slip: with at most two letters missing, added, changed or swapped, and at most a third of
/// it. Says less than [`nearest`], for names that may also be of others.
pub fn misspelt<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (strsim::osa_distance(wrong, name), name))
        .filter(|(slips, name)| *slips <= 2.min(name.len() / 3))
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, name)| name)
}

/// Parses a time span such as `30s` or `1m 30s`, within `range`.
pub fn duration(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let value = humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is not a time span; write it like 500ms, 30s or 5m"))?;
    let (low, high) = (*range.start(), *range.end());
    let show = humantime::format_duration;
    within(value, range, || format!("{} and {}", show(low), show(high)))
}

/// Parses a size such as `64KiB` or `10MB` into bytes, within `range`.
pub fn size(text: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    let value = text
        .parse::<bytesize::ByteSize>()
        .ok()
        .and_then(|size| usize::try_from(size.as_u64()).ok())
        .ok_or_else(|| format!("`{text}` is not a size; write it like 64KiB or 10MiB"))?;
    let show = |bytes: usize| bytesize::ByteSize(bytes as u64).display().iec().to_string();
    let (low, high) = (*range.start(), *range.end());
    // A number without a unit is bytes, which is rarely meant where it is out of range.
    let unit = [("MiB", 20), ("KiB", 10), ("GiB", 30)].into_iter().find(|(_, shift)| {
        value.checked_shl(*shift).is_some_and(|bytes| bytes >> shift == value && range.contains(&bytes))
    });
    if let Some((unit, _)) = unit.filter(|_| value < low && text.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(format!("`{text}` is {value} bytes; did you mean {text}{unit}?"));
    }
    within(value, range, || format!("{} and {}", show(low), show(high)))
}

/// Parses a whole number within `range`.
pub fn count(text: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    let value = text.parse().map_err(|_| format!("`{text}` is not a whole number"))?;
    let (low, high) = (*range.start(), *range.end());
    within(value, range, || format!("{low} and {high}"))
}

/// Parses one of `words`.
pub fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let near = nearest(text, words.iter().map(|(word, _)| *word));
        let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        let words: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        format!("`{text}` is not one of {}{hint}", words.join(", "))
    })
}

/// Parses a network such as `10.0.0.0/8`, or the network of a single address. A network of IPv4-mapped addresses
/// becomes an IPv4 network (RFC 4291 2.5.5.2), because client addresses have that form.
///
/// # Errors
/// What was expected. An address with bits after its prefix is an error: it may be meant as an address or as a network.
pub fn network(text: &str) -> Result<IpNet, String> {
    let wrong = || format!("`{text}` is not a network; write it like 10.0.0.0/8, 2001:db8::/32 or 192.0.2.7");
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse().map_err(|_| wrong())?,
    };
    let net = match (net.addr().to_canonical(), net.prefix_len().checked_sub(MAPPED)) {
        (IpAddr::V4(address), Some(bits)) if matches!(net, IpNet::V6(_)) => {
            IpNet::new(address.into(), bits).map_err(|_| wrong())?
        }
        (IpAddr::V4(_), None) if matches!(net, IpNet::V6(_)) => {
            return Err(format!(
                "`{text}` contains IPv4-mapped addresses and others; write an IPv4 and an IPv6 network instead"
            ));
        }
        _ => net,
    };
    match net.trunc() {
        whole if whole == net => Ok(net),
        whole => Err(format!("`{text}` is a part of the network {whole}; write that, or {}", net.addr())),
    }
}

/// Bits before the IPv4 address in an IPv4-mapped address.
const MAPPED: u8 = 96;

fn within<V: PartialOrd, D: Display>(
    value: V,
    range: RangeInclusive<V>,
    bounds: impl FnOnce() -> D,
) -> Result<V, String> {
    if range.contains(&value) { Ok(value) } else { Err(format!("must be between {}", bounds())) }
}
