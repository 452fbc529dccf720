//! The JSON of the admin API: the types that the host writes and the commands read.
//!
//! `openapi.json` describes the same for other clients; `tests/operate/api_contract.rs` fails if the two differ. Readers
//! ignore fields that they do not know, and a field that is missing has its default, since a host may be of another version.
//! The status of replicas, policies, failed requests and log lines is defined where it is taken, and part of the contract.

mod counts;
mod rollout;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::counts::{CacheCounts, CodePart, LastRefusal, MessageCounts, RemoteCall, StoredCounts};
pub use self::rollout::{ActionResult, Judgement, ManifestComparison, RollbackMargins, VersionShare, VersionStatus};
pub use crate::cluster::{ClusterCall, ClusterMember, ClusterStatus};
pub use crate::data::{
    DeadContent, DeadCount, DeadEntry, DeadList, DeletedKey, EntryPage, ImportCount, KeyList, StoreDetails,
    StoreStatus, StoredEntry, WrittenKey,
};
pub use lodge_base::telemetry::logs::tail::Line;
pub use lodge_traffic::admission::PolicyStatus;
pub use lodge_traffic::service::{FailedRequest, ResponseMismatch};
pub use lodge_traffic::upstreams::status::{ReplicaStatus, SourceStatus, UpstreamCertificate, UpstreamStatus};

/// The states of a service, as [`ServiceActivity::state`] explains them.
pub const STATES: [&str; 6] = ["serving", "failing", "unloaded", "down", "disabled", "withdrawn"];

/// A file of the directory: it serves a service, or it is refused. While a new version of a file is refused and the previous
/// one is still served, there is a report of each.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct FileReport<S = ServiceStatus> {
    /// The name of the file in the directory.
    pub file: String,
    /// The service that it serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<S>,
    /// Why it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedFile>,
}

/// Why a file is refused.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct RefusedFile {
    /// What is wrong with it.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
    /// The SHA-256 of the component that is refused, in hexadecimal; missing if the reason is another one, such as its manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// What is known of a service from its files.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct ServiceInfo {
    /// Its name, with the label of a version: `users`, `users@2`.
    pub name: String,
    /// The SHA-256 of its component, in hexadecimal; of its manifest, for an upstream.
    pub digest: String,
    /// Its version, as in the log: the first 12 digits of `digest` or, with components in front of it, of the digest of all parts.
    pub version: String,
    /// The bytes of its component.
    pub bytes: u64,
    /// Its routes.
    pub routes: Vec<String>,
    /// The host name whose paths all lead to it; empty if a route has policies of its own.
    pub host: String,
    /// The requests of its service that a version gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<VersionShare>,
    /// What sends a client to the same version again, as in the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<String>,
    /// What the sections of its manifest say, by name: those that have a view. This and the fields below are in the
    /// details of a service, and not in the list of all.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sections: BTreeMap<String, Value>,
    /// What requests pass, the outermost component first; empty without `middleware`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<CodePart>,
    /// The names in `calls` that no service has, of this host or of others in its cluster. Such a service may come later.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown_calls: Vec<String>,
    /// The names in `calls` that only services of other hosts of the cluster have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remote_calls: Vec<RemoteCall>,
    /// Why the configuration of the provider of its logins could not be fetched the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login_fails: Option<String>,
    /// When a login failed last by what its provider says, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login_refusal: Option<LastRefusal>,
    /// The settings and sources of an upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamStatus>,
    /// The imports of its component.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<String>,
    /// The exports of its component.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<String>,
    /// The imports that Lodge does not have: their functions fail. Only a component that imports the whole world of an SDK has any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub absent_imports: Vec<String>,
}

/// The state of a service and its traffic. Counters go on when the files of the service change.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct ServiceActivity {
    /// `serving`; `failing` if at least half of the last minute's responses, and at least 5, were errors; `unloaded` until
    /// the next request; `down` if no replica is available; `disabled` by an operator; `withdrawn` for a version that did
    /// worse than its service.
    pub state: Cow<'static, str>,
    /// When this version was published, in RFC 3339.
    pub since: Option<String>,
    /// Whether its machine code is in memory.
    pub loaded: bool,
    /// `baseline` for machine code that was compiled fast and runs slower, until it is `optimised`; only while it is in
    /// memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Cow<'static, str>>,
    /// Responses.
    pub requests: u64,
    /// Responses with a status of 500 and more, and those that broke off.
    pub errors: u64,
    /// Requests in flight.
    pub in_flight: usize,
    /// Requests that wait for a slot.
    pub queued: usize,
    /// The median latency of the last minute, in milliseconds.
    pub p50_ms: Option<f64>,
    /// The 99th percentile of the last minute's latency, in milliseconds.
    pub p99_ms: Option<f64>,
    /// CPU time of guest code, in seconds.
    pub cpu_seconds: f64,
    /// The memory of the largest sandbox so far.
    pub memory_bytes: u64,
    /// Bytes of request bodies.
    pub bytes_in: u64,
    /// Bytes of response bodies.
    pub bytes_out: u64,
    /// Its stored responses; `None` without `[cache]` in its manifest.
    pub cached: Option<CacheCounts>,
    /// What it stores; `None` without `[keyvalue]` in its manifest, or before it was read.
    pub stored: Option<StoredCounts>,
    /// Its messages; `None` without `[consume]` in its manifest, or before they were counted.
    pub messages: Option<MessageCounts>,
    /// The last request that was refused.
    pub last_refusal: Option<LastRefusal>,
    /// Files beside its manifest that cannot be used now, a line each. What they had before is in force.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Why this version was withdrawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<String>,
    /// By how much this version was judged; `None` without `[rollback]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judgement>,
    /// The versions of the service.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<VersionStatus>,
    /// The replicas of an upstream, empty if none is known; `None` for a component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Vec<ReplicaStatus>>,
}

/// A service and its traffic.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ServiceStatus {
    /// What is known from its files.
    #[serde(flatten)]
    pub info: ServiceInfo,
    /// Its state and traffic.
    #[serde(flatten)]
    pub activity: ServiceActivity,
}

/// Everything about one service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct ServiceDetails {
    /// The service and its traffic.
    #[serde(flatten)]
    pub status: ServiceStatus,
    /// Newer files of it that are refused while this one is served, a line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
    /// Its limits by name, in the form in which a manifest writes them.
    pub limits: BTreeMap<Cow<'static, str>, String>,
    /// The policies that can refuse its requests, in the order in which they are checked.
    pub policies: Vec<PolicyStatus>,
    /// Its schedules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<ScheduleStatus>,
    /// The last responses that are not as its document describes them, the newest first. Only `lodge dev` looks for them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub response_mismatches: Vec<ResponseMismatch>,
    /// The last failed requests, the newest first.
    pub recent_errors: Vec<FailedRequest>,
}

/// A schedule of a service, and what became of its last call on this host.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct ScheduleStatus {
    /// When it is due, as in the manifest.
    pub cron: String,
    /// The path that is called.
    pub path: String,
    /// When it is due next, in RFC 3339; missing if it never is again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The last call since the host started; missing before it, and where another host of the cluster makes the calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<ScheduledCall>,
    /// How many calls have failed since the last success.
    pub failed: u64,
}

/// A call of a schedule.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct ScheduledCall {
    /// When it ended, in RFC 3339.
    pub at: String,
    /// `ok`, `failed`, `missed` or `overlapped`.
    pub outcome: Cow<'static, str>,
    /// The status of the response, if it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// The host process.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct HostStatus {
    /// The version of Lodge.
    pub version: Cow<'static, str>,
    /// The version of wasmtime.
    pub wasmtime: Cow<'static, str>,
    /// The process id.
    pub pid: u32,
    /// When the host started, in RFC 3339.
    pub started: String,
    /// Seconds since then.
    pub uptime_seconds: f64,
    /// The address that serves guests.
    pub listen: Option<String>,
    /// The path of the served directory, without symbolic links.
    pub directory: String,
    /// Device and inode of the directory when the host started.
    pub directory_id: String,
    /// The number of the current snapshot.
    pub generation: u64,
    /// Whether every file was loaded or refused, the host has joined its cluster, if it is in one, and is not stopping.
    pub ready: bool,
    /// Whether the host is stopping.
    pub stopping: bool,
    /// Open connections of clients.
    pub connections: u64,
    /// The log level, or a filter.
    pub log_level: String,
    /// Resident memory.
    pub memory_bytes: u64,
    /// CPU time, in seconds.
    pub cpu_seconds: f64,
    /// How the memory of sandboxes is reset between requests.
    pub sandbox_reset: String,
    /// Files that settings of the host name, and that cannot be used now, with what is in force.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// The certificates that the host gets from an authority.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateStatus>,
}

/// A certificate that the host gets from an authority by ACME.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct CertificateStatus {
    /// Its names.
    pub names: Vec<String>,
    /// When it expires, in RFC 3339; missing before the first one is issued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// When it is ordered or renewed, in RFC 3339.
    pub renewal: String,
    /// Why the last attempt to get or renew it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The stored responses that a purge has removed.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct PurgeResult {
    /// The service.
    pub service: String,
    /// The normal form of the path.
    pub path: String,
    /// The number of removed responses.
    pub purged: usize,
}

/// The log level.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct LogLevel {
    /// A level, or a filter such as `lodge=debug`.
    pub level: String,
}

/// The request for another log level. A field that the host does not know is an error.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LevelRequest {
    /// A level, or a filter such as `lodge=debug`.
    pub level: String,
}

/// The response to a drain.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct DrainResult {
    /// Always true.
    pub stopping: bool,
}

/// A problem (RFC 9457). Every member is optional, since the sender may be a proxy.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Problem {
    /// A URN of the kind of problem.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What is wrong, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The status of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The explanation of a proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}
