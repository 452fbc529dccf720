//! The section `[upstream]` of a manifest, with the defaults filled in. Its settings are the table `KEYS`.

mod keys;
pub mod kubernetes;
mod list;
pub mod protocol;
mod shown;
pub mod source;
pub mod tls;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use self::keys::KEYS;
pub use self::list::MOST_REPLICAS;
use crate::auth::certificate;
use crate::key::RequestKey;
use crate::percent::Percent;
use crate::schema;
use crate::section::{Owner, Section};
use crate::upstream::protocol::{Protocol, Scheme};
use crate::upstream::source::Source;
use crate::upstream::tls::TlsSpec;
use crate::written::{Problems, Written, with_defaults};

/// `[upstream]`.
pub(crate) const SECTION: Section = Section {
    name: "upstream",
    page: "upstreams",
    schema: upstream_schema,
    owner: Owner::All(|manifest, written, problems| manifest.upstream = Spec::read(written, problems).map(Arc::new)),
    ..Section::DEFAULT
};

fn upstream_schema() -> Value {
    let mut upstream = schema::settings(KEYS, &Spec::defaults(), &[]);
    schema::add(&mut upstream, "replicas", list::replicas_schema());
    schema::add(&mut upstream, "tls.names", schema::described(schema::texts(json!({ "type": "string" })), NAMES));
    upstream
}

/// The help of `tls.names`.
const NAMES: &str = "names of which the certificate of a replica must have one, in place of the host of its URL: `spiffe://example.org/users`, `spiffe://example.org/jobs/*`, `users.example.org`, `*.users.example.org`; one or a list";

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
    /// How the replicas and this host know each other.
    pub tls: TlsSpec,
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

    /// Returns the service whose hosts in the cluster are the replicas, so that this host only forwards what they serve.
    pub fn cluster_service(&self) -> Option<&Arc<str>> {
        self.replicas.iter().find_map(|source| match source {
            Source::Cluster { service, .. } => Some(service),
            _ => None,
        })
    }

    /// Whether a replica of this scheme sees the host of the client's request. Other hosts of the cluster route by it.
    pub fn keeps_host(&self, scheme: Scheme) -> bool {
        let is_auto = self.host == HostName::Auto && self.cluster_service().is_some();
        is_auto || self.host.keeps_clients(scheme)
    }

    /// Whether any replica may use TLS. A file may list such replicas at any time.
    pub fn may_speak_tls(&self) -> bool {
        self.replicas_file.is_some() || self.replicas.iter().any(Source::is_tls)
    }

    /// Reads the section. Returns `None` if there is a problem.
    fn read(written: &Written<'_>, problems: &mut Problems) -> Option<Self> {
        let Some(keys) = written.table() else {
            problems.push(written.error("write a section [upstream], with `replicas` in it"));
            return None;
        };
        let (mut spec, mut sound) = (Self::defaults(), true);
        let leaves: Vec<_> = keys.into_iter().flat_map(Written::leaves).collect();
        for key in &leaves {
            let set = match key.inside(written) {
                "replicas" => list::read(key).map(|replicas| spec.replicas = replicas),
                "tls.names" => certificate::read(key).map(|names| spec.tls.names = names),
                name if KEYS.iter().any(|key| key.name == name) => key.set("upstream", KEYS, &mut spec),
                _ => {
                    let known: Vec<_> = KEYS.iter().map(|key| key.name).chain(["replicas", "tls.names"]).collect();
                    Err(key.unknown("upstream", &known))
                }
            };
            sound &= problems.take(set).is_some();
        }
        if !sound {
            return None;
        }
        let said = |name: &str| leaves.iter().any(|key| key.inside(written) == name);
        let disagreements = spec.disagreements(said);
        for (name, problem) in &disagreements {
            let key = leaves.iter().find(|key| key.inside(written) == *name);
            problems
                .push(key.map_or_else(|| written.at(format!("upstream.{name}: {problem}")), |key| key.error(problem)));
        }
        disagreements.is_empty().then_some(spec)
    }

    /// Returns the defaults. They have no replicas, so they are not valid as they are.
    pub fn defaults() -> Self {
        with_defaults(KEYS, Self::blank())
    }

    /// Returns the conflicts between values, each with its key. `said` returns whether the manifest has a key.
    fn disagreements(&self, said: impl Fn(&str) -> bool) -> Vec<(&'static str, &'static str)> {
        let mut problems = Vec::new();
        let mut must = |holds: bool, key: &'static str, problem: &'static str| {
            if !holds {
                problems.push((key, problem));
            }
        };
        must(
            !self.replicas.is_empty() || self.replicas_file.is_some(),
            "replicas",
            "there are none; write replicas = [\"http://10.0.0.7:8080\"], or name a replicas_file",
        );
        let is_same = |source: &Source| matches!(source, Source::Cluster { service, .. } if Some(service) == self.cluster_service());
        must(
            self.cluster_service().is_none() || self.replicas.iter().all(is_same) && self.replicas_file.is_none(),
            "replicas",
            "hosts of the cluster are the only replicas of an upstream, and of one service; write another upstream for others",
        );
        let weighs = !matches!(self.policy, Policy::RoundRobin | Policy::Random);
        must(
            weighs || self.replicas.iter().all(|source| source.weight() == 1),
            "replicas",
            "the policy ignores weights; use \"weighted\" or \"weighted-random\"",
        );
        must(
            weighs || self.slow_start.is_zero(),
            "slow_start",
            "the policy ignores weights; use \"weighted\", \"weighted-random\" or \"least-in-flight\"",
        );
        let hashes = self.policy == Policy::Hash;
        must(hashes || !said("hash"), "hash", "only policy = \"hash\" uses it; set that, or remove this");
        let checks = self.health.path.is_some();
        let keys = KEYS.iter().map(|key| key.name).filter(|name| name.starts_with("health."));
        must(checks || !keys.into_iter().any(said), "health.path", "is missing; write it like \"/health\"");
        must(self.health.timeout <= self.health.interval, "health.timeout", "is more than health.interval");
        must(self.ejection.base <= self.ejection.max, "ejection.base", "is more than ejection.max");
        must(
            !self.upgrade || self.protocol != Protocol::Http2,
            "upgrade",
            "needs HTTP/1.1; set protocol to \"auto\" or \"http1\"",
        );
        problems.extend(TlsSpec::disagreements(self));
        problems
    }
}

#[cfg(test)]
mod tests;
