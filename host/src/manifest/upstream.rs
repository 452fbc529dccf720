//! What a manifest's `[upstream]` says, with the defaults filled in.
//!
//! Pure: text in, a [`Spec`] or every problem out, each with its line. The settings are the table [`KEYS`], from which
//! defaults, "did you mean" and the rows of the docs come too.

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
use crate::config::key::nearest;
use crate::manifest::key::RequestKey;
use crate::manifest::upstream::protocol::{Protocol, Scheme};
use crate::manifest::upstream::source::Source;
use crate::manifest::{line_of, misplaced};

/// An upstream as an operator wants it. A comparable value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Where replicas are, or where to ask for them.
    pub replicas: Vec<Source>,
    /// A file beside the manifest that lists more of them, one per line.
    pub replicas_file: Option<String>,
    /// Which of them gets a request.
    pub policy: Policy,
    /// What [`Policy::Hash`] goes by; the others do not look at it.
    pub hash: RequestKey,
    /// What is spoken to replicas.
    pub protocol: Protocol,
    /// How long making a connection may take, TLS included.
    pub connect: Duration,
    /// How long a replica may take to the head of its answer: the time of one try.
    pub read: Duration,
    /// How long a connection that nobody uses is kept.
    pub idle: Duration,
    /// Connections to one replica.
    pub connections: usize,
    /// Whose name replicas see as `Host`.
    pub host: HostName,
    /// How replicas are checked.
    pub health: Check,
    /// When a replica that fails requests is left out.
    pub ejection: Ejection,
    /// Over how long the share of a replica that has just become available grows to its full one. Zero: at once.
    pub slow_start: Duration,
    /// When less than this part of the replicas is available, all of them are used.
    pub panic: Percent,
    /// How often a request is sent again.
    pub retry: Retry,
    /// After how long without an answer a request that changes nothing is sent to a second replica as well.
    pub hedge: Option<Duration>,
    /// Whether a client may switch protocols: WebSocket.
    pub upgrade: bool,
    /// Connections that may have done so at once.
    pub tunnels: usize,
}

/// Which replica gets a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// One after another.
    RoundRobin,
    /// One after another, each as often as its weight says, and evenly spread.
    Weighted,
    /// Any.
    Random,
    /// Any, each as likely as its weight says.
    WeightedRandom,
    /// Of two drawn by weight, the one with fewer requests in flight for its weight.
    LeastInFlight,
    /// The same one for the same key, for as long as it is available.
    Hash,
}

/// Whose name replicas see as `Host`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostName {
    /// The replica's over `https`, where certificates and virtual hosts go by it; the client's over `http`.
    Auto,
    /// The one that the client asked for.
    Client,
    /// The replica's own.
    Replica,
}

/// How replicas are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked for; without it, nothing is checked.
    pub path: Option<String>,
    /// From one check of a replica to the next.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Checks in a row that must pass before a replica that was down is used again.
    pub healthy: usize,
    /// Checks in a row that must fail before a replica is down.
    pub unhealthy: usize,
    /// Lowest and highest status that passes.
    pub status: (u16, u16),
}

/// When a replica that fails requests is left out, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Failures in a row. Zero: never.
    pub failures: usize,
    /// The first time for this long, and longer by as much each time it happens again.
    pub base: Duration,
    /// But never for longer than this.
    pub max: Duration,
    /// Part of the replicas that may be left out at once, rounded down.
    pub share: Percent,
}

/// How often a request is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries after the first.
    pub attempts: usize,
    /// Retries of all requests together, as a part of the requests.
    pub budget: Percent,
    /// Retries in a second that there is always room for.
    pub minimum: usize,
}

/// A part of a hundred, 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(pub u8);

impl Percent {
    /// This part of `whole`, rounded down.
    pub fn of(self, whole: u64) -> u64 {
        whole.saturating_mul(u64::from(self.0)) / 100
    }
}

impl HostName {
    /// Whether replicas of this scheme see the name that the client asked for.
    pub fn keeps_clients(self, scheme: Scheme) -> bool {
        match self {
            Self::Auto => scheme == Scheme::Http,
            Self::Client => true,
            Self::Replica => false,
        }
    }
}

impl Spec {
    /// Whether any of the replicas, or of the places that name them, are those of the other one.
    pub fn shares_replicas(&self, other: &Self) -> bool {
        let file = self.replicas_file.is_some() && self.replicas_file == other.replicas_file;
        file || self.replicas.iter().any(|one| other.replicas.iter().any(|other| one.is_at(other)))
    }

    /// Where replicas are, their file in `directory` among it.
    pub fn sources(&self, directory: &Path) -> Vec<Source> {
        let file = self.replicas_file.iter().map(|file| Source::File(directory.join(file)));
        self.replicas.iter().cloned().chain(file).collect()
    }

    /// Whether replicas may be spoken to by TLS: those that are listed, or any that a file may name.
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
            return Err(vec!["there is no [upstream]".into()]);
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

    /// What an empty section says. It lacks replicas, so no manifest is read as this.
    pub fn defaults() -> Self {
        let mut spec = Self::blank();
        for key in KEYS {
            // A test holds that every default is one that could be written.
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
            return Err(format!("there is no key `upstream.{name}`{hint}"));
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

    /// What is wrong with the values together; `said` tells which are not defaults.
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
            "replicas: the policy does not look at weights; take \"weighted\" or \"weighted-random\"",
        );
        must(
            weighs || self.slow_start.is_zero(),
            "slow_start: the policy does not look at weights; take \"weighted\", \"weighted-random\" or \"least-in-flight\"",
        );
        let hashes = self.policy == Policy::Hash;
        must(hashes || !said("hash"), "hash: only policy = \"hash\" goes by it; set that, or remove this");
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

/// The key that a misspelt one most resembles; of a part such as `retry`, its first.
fn resembled(name: &str) -> Option<&'static str> {
    let whole = KEYS.iter().map(|key| key.name).chain(["replicas"]);
    let heads = whole.clone().map(|key| key.split('.').next().unwrap_or(key));
    let head = nearest(name, heads).filter(|_| !name.contains('.'));
    let first = head.and_then(|head| whole.clone().find(|key| key.split('.').next() == Some(head)));
    first.or_else(|| nearest(name, whole))
}

/// Every value below `table` by its dotted name, and where that is written.
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
