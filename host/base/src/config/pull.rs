//! `[pull]`: components from registries.

use std::path::PathBuf;
use std::time::Duration;

use super::key::{Key, count, duration, size};
use super::keys::words;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Components from registries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pull {
    /// The time between two looks at a tag.
    pub interval: Duration,
    /// The registries that manifests may name; empty for any.
    pub registries: Vec<String>,
    /// The registries without TLS. [`LOOPBACK`] stands for those on this machine.
    pub plain_http: Vec<String>,
    /// A file of certificates (PEM) that are trusted in addition to those of the system.
    pub ca: Option<PathBuf>,
    /// Where credentials are.
    pub credentials: Credentials,
    /// The time that one pull may take.
    pub timeout: Duration,
    /// Pulls at once.
    pub concurrent: usize,
    /// The most bytes of all pulled components on disk, beside those in use.
    pub size: usize,
}

/// The word for the registries on this machine.
pub const LOOPBACK: &str = "loopback";

/// The file with credentials of registries, as docker writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// `config.json` in `$DOCKER_CONFIG` or `~/.docker`, if it exists.
    #[default]
    Auto,
    /// No credentials.
    Off,
    /// This file.
    At(PathBuf),
}

/// Every setting, in the order of the docs.
pub(super) const KEYS: &[Key<Pull>] = &[
    Key {
        name: "interval",
        default: "5m",
        help: "how often a tag in a registry is looked at; a digest never changes",
        set: |c, text| duration(text, SECOND..=DAY * 30).map(|value| c.interval = value),
    },
    Key {
        name: "registries",
        default: "",
        help: "registries (HOST or HOST:PORT), comma-separated, that manifests may name; without any, every registry",
        set: |c, text| registries(text, &[]).map(|value| c.registries = value),
    },
    Key {
        name: "plain_http",
        default: LOOPBACK,
        help: "registries without TLS, comma-separated; `loopback` stands for those on this machine",
        set: |c, text| registries(text, &[LOOPBACK]).map(|value| c.plain_http = value),
    },
    Key {
        name: "ca",
        default: "",
        help: "certificates (PEM) of authorities that registries' certificates may have, beside those of the system",
        set: |c, text| {
            c.ca = (!text.is_empty()).then(|| text.into());
            Ok(())
        },
    },
    Key {
        name: "credentials",
        default: "auto",
        help: "credentials of registries, as docker stores them; `auto` is `config.json` in `$DOCKER_CONFIG` or `~/.docker`, `off` none",
        set: |c, text| {
            c.credentials = match text {
                "auto" => Credentials::Auto,
                "off" => Credentials::Off,
                "" => return Err("must name a file, or be `auto` or `off`".into()),
                path => Credentials::At(path.into()),
            };
            Ok(())
        },
    },
    Key {
        name: "timeout",
        default: "10m",
        help: "the time that one pull may take; what has arrived is kept for the next one",
        set: |c, text| duration(text, SECOND..=DAY).map(|value| c.timeout = value),
    },
    Key {
        name: "concurrent",
        default: "4",
        help: "pulls at once",
        set: |c, text| count(text, 1..=64).map(|value| c.concurrent = value),
    },
    Key {
        name: "size",
        default: "2GiB",
        help: "size of all pulled components on disk; those that no manifest names are removed first, the oldest before others",
        set: |c, text| size(text, 0..=1 << 50).map(|value| c.size = value),
    },
];

/// Reads a list of hosts with optional ports. These words are also allowed.
fn registries(text: &str, allowed: &[&str]) -> Result<Vec<String>, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    words(text)
        .map(|word| {
            // What follows the last colon outside of an IPv6 address.
            let after = word.rsplit(']').next().unwrap_or_default();
            let is_port = |port: &str| port.parse::<u16>().is_ok() && !port.starts_with(['0', '+']);
            let port = after.rsplit_once(':').is_none_or(|(_, port)| is_port(port));
            let wrong = !port || !word.bytes().all(plain) || word == LOOPBACK && !allowed.contains(&word);
            if wrong {
                return Err(format!("`{word}` is not a registry; write a host, as registry.example or 10.0.0.1:5000"));
            }
            Ok(word.to_ascii_lowercase())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_hosts_with_ports() {
        let read = |text: &str| registries(text, &[LOOPBACK]).map(|found| found.join(" "));
        assert_eq!(
            read("R.example, 10.0.0.9:5000, [::1], [::1]:5000, loopback").as_deref(),
            Ok("r.example 10.0.0.9:5000 [::1] [::1]:5000 loopback")
        );
        for wrong in ["10.0.0.9:5000x", "r.example:", "r.example:0", "r.example:+80", "[::1]:x", "https://r.example"] {
            assert!(read(wrong).is_err_and(|why| why.contains(wrong)), "{wrong}");
        }
    }
}
