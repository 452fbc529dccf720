//! `[cluster]`: the hosts that know each other by the server of their state.

use std::time::Duration;

use http::Uri;

use super::key::{Key, duration, word};
use crate::canonical;

/// The most bytes of the name of a cluster or of a zone.
pub const MOST_NAME: usize = 63;

/// The most bytes of the name of a host.
pub const MOST_HOST: usize = 253;

/// The most bytes of the address of a host.
pub const MOST_ADDRESS: usize = 300;

/// How often a host renews its record within the time that the record lasts, at least.
const RENEWALS: u32 = 3;

/// What a host says of itself to the others of its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The name of the cluster; `None` if the host is in none.
    pub name: Option<String>,
    /// The name of this host; `None` for that of the machine.
    pub host: Option<String>,
    /// Where other hosts reach the services of this one: scheme, host and port.
    pub advertise: Option<Uri>,
    /// The zone in which this host runs, if it is known.
    pub zone: Option<String>,
    /// The time between two renewals of the record of this host, and two readings of those of the others.
    pub interval: Duration,
    /// How long the record of a host lasts without a renewal, and its lease as leader.
    pub ttl: Duration,
    /// How long the others stay known while the server is away.
    pub keep: Duration,
    /// Which other hosts get the calls of guests to services that this one does not have.
    pub calls: RemoteCalls,
}

/// Which other hosts of a cluster get calls of guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RemoteCalls {
    /// None.
    #[default]
    Off,
    /// Those with an address that is https.
    Https,
    /// All.
    Any,
}

/// Every setting, in the order of the docs.
pub(super) const KEYS: &[Key<Membership>] = &[
    Key {
        name: "name",
        default: "",
        help: "the cluster that the host is in: hosts with this name and one `state.url` know each other; empty for none",
        set: |c, text| optional(text, MOST_NAME, "a cluster, such as shop").map(|name| c.name = name),
    },
    Key {
        name: "host",
        default: "auto",
        help: "the name of this host in its cluster, which no other host has; `auto` is that of the machine",
        set: |c, text| {
            c.host = match text {
                "auto" => None,
                name => Some(plain(name, MOST_HOST, "a host, such as shop-1")?),
            };
            Ok(())
        },
    },
    Key {
        name: "advertise",
        default: "",
        help: "URL at which other hosts reach the services of this one, such as `https://10.0.0.3:8443`; empty if they cannot",
        set: |c, text| {
            c.advertise = if text.is_empty() { None } else { Some(address(text)?) };
            Ok(())
        },
    },
    Key {
        name: "zone",
        default: "",
        help: "the zone of the host, such as `eu-west-1a`; empty for `kubernetes.zone`",
        set: |c, text| optional(text, MOST_NAME, "a zone, such as eu-west-1a").map(|zone| c.zone = zone),
    },
    Key {
        name: "interval",
        default: "3s",
        help: "time between two renewals of the record of this host, and two readings of those of the others; a tenth of it is random",
        set: |c, text| {
            duration(text, Duration::from_millis(50)..=Duration::from_secs(60)).map(|value| c.interval = value)
        },
    },
    Key {
        name: "ttl",
        default: "15s",
        help: "how long the record of a host lasts that does not renew it, and its lease as leader; at least three times the interval",
        set: |c, text| duration(text, Duration::from_millis(150)..=Duration::from_secs(600)).map(|value| c.ttl = value),
    },
    Key {
        name: "keep",
        default: "10m",
        help: "how long the other hosts stay known while the server of `state.url` is away",
        set: |c, text| duration(text, Duration::ZERO..=Duration::from_secs(24 * 60 * 60)).map(|value| c.keep = value),
    },
    Key {
        name: "calls",
        default: "off",
        help: "where calls of guests to services go that only other hosts have: `off` for nowhere, `https` to hosts whose address is https, \
               `any` to all",
        set: |c, text| {
            let words = [("off", RemoteCalls::Off), ("https", RemoteCalls::Https), ("any", RemoteCalls::Any)];
            word(text, &words).map(|value| c.calls = value)
        },
    },
];

impl Membership {
    /// Returns what is contradictory among the settings. `server` says whether the state is in a server.
    pub(super) fn disagreements(&self, server: bool) -> Vec<String> {
        let mut problems = Vec::new();
        if self.name.is_some() && !server {
            problems.push(
                "cluster.name: hosts know each other by the server of their state, and there is none; set `state.url`, or \
                 remove `cluster.name`"
                    .into(),
            );
        }
        if self.ttl < self.interval.saturating_mul(RENEWALS) {
            let least = humantime::format_duration(self.interval.saturating_mul(RENEWALS));
            problems.push(format!("cluster.ttl: must be at least {RENEWALS} times cluster.interval, which is {least}"));
        }
        problems
    }
}

/// Whether this is the name of a cluster, a host or a zone, with at most `most` bytes.
pub fn is_plain(text: &str, most: usize) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let begins = text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
    begins && text.len() <= most && text.bytes().all(inner)
}

/// Parses the address of a host, and returns its canonical form.
///
/// # Errors
/// What was expected.
pub fn address(text: &str) -> Result<Uri, String> {
    let form = || format!("`{text}` is not the URL of a host; write it like https://10.0.0.3:8443");
    let url = text.parse::<Uri>().ok().filter(|_| text.len() <= MOST_ADDRESS).ok_or_else(form)?;
    let (Some(scheme), Some(authority)) = (url.scheme(), url.authority()) else { return Err(form()) };
    let is_http = ["http", "https"].contains(&scheme.as_str());
    if !is_http || authority.as_str().contains('@') || url.query().is_some() || url.path() != "/" {
        return Err(form());
    }
    let canonical = canonical::authority(authority.as_str().as_bytes(), scheme).ok_or_else(form)?;
    if canonical.port_u16() == Some(0) {
        return Err(format!(
            "`{text}` has the port 0, at which nothing can be reached; write the port of the listener"
        ));
    }
    Uri::builder().scheme(scheme.clone()).authority(canonical).path_and_query("/").build().map_err(|_| form())
}

fn plain(text: &str, most: usize, example: &str) -> Result<String, String> {
    if is_plain(text, most) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is not the name of {example}: up to {most} letters, digits, `-`, `_` and `.`"))
}

fn optional(text: &str, most: usize, example: &str) -> Result<Option<String>, String> {
    if text.is_empty() { Ok(None) } else { plain(text, most, example).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["a", "shop-1", "10.0.0.3", "A_b.c", &"x".repeat(MOST_NAME)] {
            assert!(is_plain(good, MOST_NAME), "{good}");
        }
        for wrong in ["", "-a", ".", "a b", "a/b", "a\nb", "\u{e4}", "a\u{202e}b", &"x".repeat(MOST_NAME + 1)] {
            assert!(!is_plain(wrong, MOST_NAME), "{wrong}");
        }
    }

    #[test]
    fn addresses_are_hosts() {
        for good in ["https://10.0.0.3:8443", "http://[fd00::1]:8080", "https://a.example/"] {
            assert!(address(good).is_ok(), "{good}");
        }
        for (text, canonical) in [
            ("HTTPS://A.Example:443", "https://a.example/"),
            ("http://a.example:080/", "http://a.example/"),
            ("http://[FD00:0::1]:8080", "http://[fd00::1]:8080/"),
        ] {
            assert_eq!(address(text).unwrap().to_string(), canonical);
        }
        assert!(address("http://a.example:0").is_err_and(|why| why.contains("port 0")));
        let long = format!("https://{}.example", "a".repeat(MOST_ADDRESS));
        for wrong in
            ["", "a", "10.0.0.3:8443", "ftp://a", "https://a/b", "https://a?b", "https://u@a", "https://", &long]
        {
            assert!(address(wrong).is_err_and(|why| why.contains("is not the URL of a host")), "{wrong}");
        }
    }

    #[test]
    fn a_cluster_needs_a_server_and_time_to_renew() {
        let settings = |name: Option<&str>, seconds| Membership {
            name: name.map(Into::into),
            interval: Duration::from_secs(3),
            ttl: Duration::from_secs(seconds),
            ..Membership::default()
        };
        assert_eq!(settings(None, 9).disagreements(false), Vec::<String>::new());
        assert_eq!(settings(Some("a"), 9).disagreements(true), Vec::<String>::new());
        assert!(settings(Some("a"), 9).disagreements(false)[0].contains("set `state.url`"));
        assert_eq!(
            settings(Some("a"), 8).disagreements(true),
            ["cluster.ttl: must be at least 3 times cluster.interval, which is 9s"]
        );
    }
}
