//! The section `[upstream]` of a manifest, with the defaults filled in.
//!
//! Pure: text in, a [`Spec`] or all problems out, each with its line. The settings are the table [`KEYS`], from which
//! defaults, hints and the rows of the docs derive, too.

mod keys;
mod list;
pub mod protocol;
mod shown;
pub mod source;

use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use self::keys::KEYS;
pub use self::list::MOST_REPLICAS;
use crate::key::RequestKey;
use crate::upstream::protocol::{Protocol, Scheme};
use crate::upstream::source::Source;
use crate::{line_of, misplaced};
use lodge_base::config::key::nearest;

/// The settings of an upstream. A comparable value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The replicas, or the records and files that list them.
    pub replicas: Vec<Source>,
    /// A file beside the manifest with further replicas, one per line.
    pub replicas_file: Option<String>,
    /// The load-balancing policy.
    pub policy: Policy,
    /// The key of [`Policy::Hash`]; other policies ignore it.
    pub hash: RequestKey,
    /// The HTTP version for replicas.
    pub protocol: Protocol,
    /// Time for making a connection, TLS included.
    pub connect: Duration,
    /// Time for one attempt: from sending the request to the response head.
    pub read: Duration,
    /// Time after which an unused connection is closed.
    pub idle: Duration,
    /// The most connections to one replica.
    pub connections: usize,
    /// The `Host` that replicas see.
    pub host: HostName,
    /// Health checks.
    pub health: Check,
    /// Outlier ejection.
    pub ejection: Ejection,
    /// Time over which the share of a replica that becomes available grows to its full share. Zero disables this.
    pub slow_start: Duration,
    /// Panic threshold: if less than this percentage of the replicas is available, all of them are used.
    pub panic: Percent,
    /// Retries.
    pub retry: Retry,
    /// Time without a response after which a safe request is also sent to a second replica.
    pub hedge: Option<Duration>,
    /// Whether a client may switch protocols, for example to WebSocket.
    pub upgrade: bool,
    /// The most connections with switched protocols.
    pub tunnels: usize,
}

/// The load-balancing policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Each replica in turn.
    RoundRobin,
    /// Smooth weighted round robin: in proportion to weights, evenly interleaved.
    Weighted,
    /// A random replica.
    Random,
    /// A random replica, with probabilities in proportion to weights.
    WeightedRandom,
    /// Of two replicas drawn by weight, the one with fewer requests in flight in relation to its weight.
    LeastInFlight,
    /// The same replica for the same key, as long as it is available.
    Hash,
}

/// The `Host` that replicas see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostName {
    /// The replica's own over `https`, where certificates and virtual hosts depend on it; the client's over `http`.
    Auto,
    /// The host of the client's request.
    Client,
    /// The host of the replica.
    Replica,
}

/// Health checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The path of checks; `None` disables them.
    pub path: Option<String>,
    /// Time from one check of a replica to the next.
    pub interval: Duration,
    /// Time for the response to a check.
    pub timeout: Duration,
    /// Checks in a row that must pass before an unhealthy replica is used again.
    pub healthy: usize,
    /// Checks in a row that must fail before a replica is unhealthy.
    pub unhealthy: usize,
    /// The lowest and the highest status that pass.
    pub status: (u16, u16),
}

/// Outlier ejection: when a replica that fails requests is ejected, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Failures in a row that eject a replica. Zero disables ejection.
    pub failures: usize,
    /// Length of the first ejection. Each further one is longer by the same amount.
    pub base: Duration,
    /// The longest ejection.
    pub max: Duration,
    /// Percentage of the replicas that may be ejected at once, rounded down.
    pub share: Percent,
}

/// Retries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts after the first.
    pub attempts: usize,
    /// Retries of all requests together, as a percentage of the requests.
    pub budget: Percent,
    /// Retries per second that are always allowed.
    pub minimum: usize,
}

/// A percentage, 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(pub u8);

impl Percent {
    /// Returns this percentage of `whole`, rounded down.
    pub fn of(self, whole: u64) -> u64 {
        whole.saturating_mul(u64::from(self.0)) / 100
    }
}

impl HostName {
    /// Whether replicas of this scheme see the host of the client's request.
    pub fn keeps_clients(self, scheme: Scheme) -> bool {
        match self {
            Self::Auto => scheme == Scheme::Http,
            Self::Client => true,
            Self::Replica => false,
        }
    }
}

impl Spec {
    /// Whether both have a replica, record or file in common.
    pub fn shares_replicas(&self, other: &Self) -> bool {
        let file = self.replicas_file.is_some() && self.replicas_file == other.replicas_file;
        file || self.replicas.iter().any(|one| other.replicas.iter().any(|other| one.is_at(other)))
    }

    /// Returns all sources of replicas, including the file in `directory`.
    pub fn sources(&self, directory: &Path) -> Vec<Source> {
        let file = self.replicas_file.iter().map(|file| Source::File(directory.join(file)));
        self.replicas.iter().cloned().chain(file).collect()
    }

    /// Whether any replica may use TLS. A file may list such replicas at any time.
    pub fn speaks_tls(&self) -> bool {
        self.replicas_file.is_some() || self.replicas.iter().any(Source::is_tls)
    }

    /// Reads the `[upstream]` of a manifest that has one.
    ///
    /// # Errors
    /// Every problem, each with its line where it has one.
    pub fn read(text: &str) -> Result<Self, Vec<String>> {
        let file = DeTable::parse(text).map_err(|error| vec![error.message().to_owned()])?;
        let Some((_, upstream)) = file.get_ref().iter().find(|(key, _)| key.get_ref() == "upstream") else {
            return Err(vec!["the section [upstream] is missing".into()]);
        };
        let Some(table) = upstream.get_ref().as_table() else {
            let line = line_of(text, upstream.span().start);
            return Err(vec![format!("{line}upstream: write a section [upstream], with `replicas` in it")]);
        };
        let (mut spec, mut problems) = (Self::defaults(), Vec::new());
        let mut written = Vec::new();
        flatten("", table, &mut written);
        written.sort_by_key(|(_, at, _)| *at);
        for (name, at, value) in &written {
            if let Err(problem) = spec.set(name, value) {
                problems.push(format!("{}{problem}", line_of(text, *at)));
            }
        }
        if problems.is_empty() {
            let said = |name: &str| written.iter().any(|(key, ..)| key == name);
            problems.extend(spec.disagreements(said));
        }
        if problems.is_empty() { Ok(spec) } else { Err(problems) }
    }

    /// Returns the defaults. They have no replicas, so they are not valid as they are.
    pub fn defaults() -> Self {
        let mut spec = Self::blank();
        for key in KEYS {
            // A test ensures that every default is valid.
            let _ = (key.set)(&mut spec, key.default);
        }
        spec
    }

    fn set(&mut self, name: &str, value: &DeValue<'_>) -> Result<(), String> {
        if name == "replicas" {
            self.replicas = list::read(value)?;
            return Ok(());
        }
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            let hint = misplaced(name).or_else(|| Some(format!("did you mean `upstream.{}`?", resembled(name)?)));
            let hint = hint.map_or(String::new(), |hint| format!("; {hint}"));
            return Err(format!("unknown key `upstream.{name}`{hint}"));
        };
        let text = match value {
            DeValue::String(text) => text.as_ref(),
            DeValue::Integer(number) => number.as_str(),
            DeValue::Float(number) => number.as_str(),
            DeValue::Boolean(true) => "true",
            DeValue::Boolean(false) => "false",
            other => return Err(format!("upstream.{name}: must be one value, not {}", other.type_str())),
        };
        (key.set)(self, text).map_err(|expected| format!("upstream.{name}: {expected}"))
    }

    /// Returns the conflicts between values. `said` tells whether a key is explicit.
    fn disagreements(&self, said: impl Fn(&str) -> bool) -> Vec<String> {
        let mut problems = Vec::new();
        let mut must = |holds: bool, problem: &str| {
            if !holds {
                problems.push(format!("upstream.{problem}"));
            }
        };
        must(
            !self.replicas.is_empty() || self.replicas_file.is_some(),
            "replicas: there are none; write replicas = [\"http://10.0.0.7:8080\"], or name a replicas_file",
        );
        let weighs = !matches!(self.policy, Policy::RoundRobin | Policy::Random);
        must(
            weighs || self.replicas.iter().all(|source| source.weight() == 1),
            "replicas: the policy ignores weights; use \"weighted\" or \"weighted-random\"",
        );
        must(
            weighs || self.slow_start.is_zero(),
            "slow_start: the policy ignores weights; use \"weighted\", \"weighted-random\" or \"least-in-flight\"",
        );
        let hashes = self.policy == Policy::Hash;
        must(hashes || !said("hash"), "hash: only policy = \"hash\" uses it; set that, or remove this");
        let checks = self.health.path.is_some();
        let keys = KEYS.iter().map(|key| key.name).filter(|name| name.starts_with("health."));
        must(checks || !keys.into_iter().any(said), "health.path: is missing; write it like \"/health\"");
        must(self.health.timeout <= self.health.interval, "health.timeout: is more than health.interval");
        must(self.ejection.base <= self.ejection.max, "ejection.base: is more than ejection.max");
        must(
            !self.upgrade || self.protocol != Protocol::Http2,
            "upgrade: needs HTTP/1.1; set protocol to \"auto\" or \"http1\"",
        );
        problems
    }
}

/// Returns the key most similar to a misspelt one; for a group such as `retry`, its first key.
fn resembled(name: &str) -> Option<&'static str> {
    let whole = KEYS.iter().map(|key| key.name).chain(["replicas"]);
    let heads = whole.clone().map(|key| key.split('.').next().unwrap_or(key));
    let head = nearest(name, heads).filter(|_| !name.contains('.'));
    let first = head.and_then(|head| whole.clone().find(|key| key.split('.').next() == Some(head)));
    first.or_else(|| nearest(name, whole))
}

/// Collects every value below `table` with its dotted name and offset.
fn flatten<'a>(prefix: &str, table: &'a DeTable<'_>, into: &mut Vec<(String, usize, &'a DeValue<'a>)>) {
    for (key, value) in table {
        let name = format!("{prefix}{}", key.get_ref());
        match Spanned::get_ref(value) {
            DeValue::Table(inner) => flatten(&format!("{name}."), inner, into),
            value => into.push((name, key.span().start, value)),
        }
    }
}

#[cfg(test)]
mod tests;
