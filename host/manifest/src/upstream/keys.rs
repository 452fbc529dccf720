//! Every key of `[upstream]` except `replicas`: name, default, help and bounds.

use std::path::PathBuf;
use std::time::Duration;

use super::{Check, Ejection, HostName, Policy, Retry, Spec};
use crate::key::RequestKey;
use crate::percent::Percent;
use crate::target;
use crate::upstream::protocol::Protocol;
use crate::upstream::tls::TlsSpec;
use lodge_base::config::key::{Key, count, duration, word};

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) const POLICIES: [(&str, Policy); 6] = [
    ("round-robin", Policy::RoundRobin),
    ("weighted", Policy::Weighted),
    ("random", Policy::Random),
    ("weighted-random", Policy::WeightedRandom),
    ("least-in-flight", Policy::LeastInFlight),
    ("hash", Policy::Hash),
];

pub(super) const PROTOCOLS: [(&str, Protocol); 4] =
    [("auto", Protocol::Auto), ("http1", Protocol::Http1), ("http2", Protocol::Http2), ("h2c", Protocol::Http2)];

pub(super) const HOSTS: [(&str, HostName); 3] =
    [("auto", HostName::Auto), ("client", HostName::Client), ("replica", HostName::Replica)];

/// Every key except `replicas`, in the order of the docs.
pub(super) const KEYS: &[Key<Spec>] = &[
    Key {
        name: "replicas_file",
        default: "",
        help: "a file beside the manifest with a replica per line, `URL` or `URL weight=N`; read again when it changes, once two looks a second apart find the same content; a file that changes at every look is used after 10 s",
        set: |s, text| file(text).map(|value| s.replicas_file = value),
    },
    Key {
        name: "policy",
        default: "least-in-flight",
        help: "which replica gets a request: `round-robin`, `weighted`, `random`, `weighted-random`, `least-in-flight`, \
               `hash`",
        set: |s, text| {
            // Other proxies call it `least_conn` or `least-request`.
            let other = |wrong: String| match text.starts_with("least") && !wrong.contains("did you mean") {
                true => format!("{wrong}; did you mean `least-in-flight`?"),
                false => wrong,
            };
            word(text, &POLICIES).map(|value| s.policy = value).map_err(other)
        },
    },
    Key {
        name: "hash",
        default: "client",
        help: "the key for `policy = \"hash\"`: `client`, `header:NAME`, `cookie:NAME`",
        set: |s, text| RequestKey::read(text).map(|value| s.hash = value),
    },
    Key {
        name: "protocol",
        default: "auto",
        help: "`http1`, `http2` (also `h2c`; gRPC), or `auto`: HTTP/1.1 over http, and over https what the replica prefers",
        set: |s, text| word(text, &PROTOCOLS).map(|value| s.protocol = value),
    },
    Key {
        name: "connect",
        default: "1s",
        help: "time for making a connection, TLS included",
        set: |s, text| duration(text, MS..=MINUTE).map(|value| s.connect = value),
    },
    Key {
        name: "read",
        default: "10s",
        help: "time for a replica to send the response head; then another one is tried, if the request may be \
               repeated",
        set: |s, text| duration(text, MS..=DAY).map(|value| s.read = value),
    },
    Key {
        name: "idle",
        default: "60s",
        help: "time after which an unused connection is closed",
        set: |s, text| duration(text, MS..=DAY).map(|value| s.idle = value),
    },
    Key {
        name: "connections",
        default: "256",
        help: "connections to one replica",
        set: |s, text| count(text, 1..=100_000).map(|value| s.connections = value),
    },
    Key {
        name: "host",
        default: "auto",
        help: "the `Host` that replicas see: `client`, `replica`, or `auto`: the client's over http, the replica's \
               over https",
        set: |s, text| word(text, &HOSTS).map(|value| s.host = value),
    },
    Key {
        name: "tls.ca",
        default: "",
        help: "file with the authorities (PEM) that sign the certificates of https replicas, in place of the system's; like the files below, relative to the directory of the manifest, and read again when it changes",
        set: |s, text| pem(text).map(|value| s.tls.ca = value),
    },
    Key {
        name: "tls.certificate",
        default: "",
        help: "file with the certificate of this host for the replicas, and its chain (PEM)",
        set: |s, text| pem(text).map(|value| s.tls.certificate = value),
    },
    Key {
        name: "tls.key",
        default: "",
        help: "file with the private key of that certificate (PEM)",
        set: |s, text| pem(text).map(|value| s.tls.key = value),
    },
    Key {
        name: "health.path",
        default: "",
        help: "the path of health checks, with the replica's own name as `Host`; without it there are none. On a Lodge replica use a path of one of its services: `/healthz` exists only on its `admin` listener",
        set: |s, text| path(text).map(|value| s.health.path = value),
    },
    Key {
        name: "health.interval",
        default: "5s",
        help: "time from one check of a replica to the next",
        set: |s, text| duration(text, 100 * MS..=HOUR).map(|value| s.health.interval = value),
    },
    Key {
        name: "health.timeout",
        default: "1s",
        help: "time for the response to a check",
        set: |s, text| duration(text, MS..=MINUTE).map(|value| s.health.timeout = value),
    },
    Key {
        name: "health.healthy",
        default: "2",
        help: "checks in a row that must pass to bring a replica back",
        set: |s, text| count(text, 1..=100).map(|value| s.health.healthy = value),
    },
    Key {
        name: "health.unhealthy",
        default: "3",
        help: "checks in a row that must fail to take a replica out; its first check decides alone",
        set: |s, text| count(text, 1..=100).map(|value| s.health.unhealthy = value),
    },
    Key {
        name: "health.status",
        default: "200-399",
        help: "statuses that pass",
        set: |s, text| statuses(text).map(|value| s.health.status = value),
    },
    Key {
        name: "ejection.failures",
        default: "5",
        help: "failures in a row (no connection, reset, timeout, 502, 503, 504) that eject a replica; 0: never",
        set: |s, text| count(text, 0..=1000).map(|value| s.ejection.failures = value),
    },
    Key {
        name: "ejection.base",
        default: "10s",
        help: "length of the first ejection, and by how much each further one is longer",
        set: |s, text| duration(text, 100 * MS..=DAY).map(|value| s.ejection.base = value),
    },
    Key {
        name: "ejection.max",
        default: "5m",
        help: "the longest ejection",
        set: |s, text| duration(text, 100 * MS..=DAY).map(|value| s.ejection.max = value),
    },
    Key {
        name: "ejection.share",
        default: "50%",
        help: "share of the replicas that may be ejected at once, rounded down: at 50% a single replica never is",
        set: |s, text| percent(text).map(|value| s.ejection.share = value),
    },
    Key {
        name: "slow_start",
        default: "0s",
        help: "how long the share of a replica that is new or comes back grows from a tenth to all of it; like `weight`, it is refused with `round-robin` and `random`, which use neither",
        set: |s, text| duration(text, Duration::ZERO..=HOUR).map(|value| s.slow_start = value),
    },
    Key {
        name: "panic",
        default: "50%",
        help: "when less than this share of the replicas is available, all of them are used; 0%: never",
        set: |s, text| percent(text).map(|value| s.panic = value),
    },
    Key {
        name: "retry.attempts",
        default: "2",
        help: "tries after the first, each at another replica if there is one; 0: none",
        set: |s, text| count(text, 0..=10).map(|value| s.retry.attempts = value),
    },
    Key {
        name: "retry.budget",
        default: "20%",
        help: "retries of all requests together, as a share of the requests of the last ten seconds",
        set: |s, text| percent(text).map(|value| s.retry.budget = value),
    },
    Key {
        name: "retry.minimum",
        default: "10",
        help: "retries per second that are always allowed, on average over ten seconds",
        set: |s, text| count(text, 0..=1000).map(|value| s.retry.minimum = value),
    },
    Key {
        name: "hedge",
        default: "off",
        help: "time without a response after which a second replica is asked as well, if the request is a GET, HEAD, OPTIONS or TRACE without a body",
        set: |s, text| {
            s.hedge = if text == "off" { None } else { Some(duration(text, MS..=MINUTE)?) };
            Ok(())
        },
    },
    Key {
        name: "upgrade",
        default: "false",
        help: "whether clients may switch protocols, for example to WebSocket: to any that they offer, except HTTP and TLS",
        set: |s, text| word(text, &[("true", true), ("false", false)]).map(|value| s.upgrade = value),
    },
    Key {
        name: "tunnels",
        default: "256",
        help: "connections that have switched protocols, at most; they take no slot of `limits.in_flight`, \
               `engine.instances` or `upstream.connections`",
        set: |s, text| count(text, 1..=100_000).map(|value| s.tunnels = value),
    },
];

fn file(text: &str) -> Result<Option<String>, String> {
    if text.contains(['/', '\\', '\0']) || text.ends_with(".toml") || text.ends_with(".wasm") {
        return Err(format!("`{text}` must be the name of a file in the same directory, like \"users.replicas\""));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// Parses the path of a file.
fn pem(text: &str) -> Result<Option<PathBuf>, String> {
    if text.contains('\0') {
        Err("write the path of a file".into())
    } else {
        Ok((!text.is_empty()).then(|| text.into()))
    }
}

fn path(text: &str) -> Result<Option<String>, String> {
    match text {
        "" => Ok(None),
        _ => target::check(text, "\"/health\"").map(|()| Some(text.to_owned())),
    }
}

/// Parses `200-399` or a single status.
fn statuses(text: &str) -> Result<(u16, u16), String> {
    let status = |text: &str| text.trim().parse().ok().filter(|status| (100..=599).contains(status));
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let range = status(low).zip(status(high)).filter(|(low, high)| low <= high);
    range.ok_or_else(|| format!("`{text}` is not a range of statuses; write it like \"200-399\" or \"204\""))
}

fn percent(text: &str) -> Result<Percent, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse().ok());
    let percent = number.filter(|number| *number <= 100).map(Percent::whole);
    percent.ok_or_else(|| format!("`{text}` is not between 0% and 100%; write it like \"20%\""))
}

impl Spec {
    /// Returns a value for [`KEYS`] to fill in. It is never used as it is.
    pub(super) fn blank() -> Self {
        Self {
            replicas: Vec::new(),
            replicas_file: None,
            policy: Policy::LeastInFlight,
            hash: RequestKey::Client,
            protocol: Protocol::Auto,
            connect: Duration::ZERO,
            read: Duration::ZERO,
            idle: Duration::ZERO,
            connections: 0,
            host: HostName::Auto,
            tls: TlsSpec::default(),
            health: Check {
                path: None,
                interval: Duration::ZERO,
                timeout: Duration::ZERO,
                healthy: 0,
                unhealthy: 0,
                status: (0, 0),
            },
            ejection: Ejection { failures: 0, base: Duration::ZERO, max: Duration::ZERO, share: Percent(0) },
            slow_start: Duration::ZERO,
            panic: Percent(0),
            retry: Retry { attempts: 0, budget: Percent(0), minimum: 0 },
            hedge: None,
            upgrade: false,
            tunnels: 0,
        }
    }
}
