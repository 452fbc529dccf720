//! A snapshot in words: what became of every file, for `lodge check` and for who asks the admin listener.

mod rollout;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use serde::Serialize;

pub use self::rollout::{Beside, Margins, Part};
use super::snapshot::Snapshot;
use super::target::Target;
use lodge_base::telemetry::metrics::CacheOutcome;
use lodge_base::time::rfc3339;
use lodge_manifest::Isolation;
use lodge_manifest::grants::Grants;
use lodge_manifest::refusal::Refusal;
use lodge_manifest::refusal::file_name;
use lodge_runtime::compile::Interfaces;
use lodge_traffic::admission::PolicyStatus;
use lodge_traffic::service::FailedRequest;
use lodge_traffic::upstreams::{ReplicaStatus, UpstreamStatus};

/// The limits that hold for a service whose replicas are elsewhere: the others are those of a sandbox.
const HELD_FOR_REPLICAS: [&str; 6] = ["wall", "request_body", "in_flight", "queue", "queue_wait", "call_depth"];

/// Errors in the last minute from which on a service may be called failing.
const FEW: u64 = 5;

/// A file, and what became of it: it serves, or it is refused. A file whose last good version goes on serving has
/// one of each.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The file, as it is named in the directory.
    pub file: String,
    /// What it serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
}

/// A service.
#[derive(Debug, Serialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// SHA-256 of its component: its version.
    pub digest: String,
    /// Size of its component.
    pub bytes: u64,
    /// Where it answers.
    pub routes: Vec<String>,
    /// The host whose every path is its own; empty when there is none, because a route has policies of its own.
    pub host: String,
    /// What it gets of its service's requests, when it is a version of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<Part>,
    /// What decides which of its versions a client gets again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<String>,
    /// How it does; only for who asks a host that serves.
    #[serde(flatten)]
    pub live: Option<Live>,
    /// `request` or `service`: whether its instances are used for more than one request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<&'static str>,
    /// Services of this host that its manifest lets it call; `*` is each of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<String>,
    /// Origins of the world that its manifest lets it ask.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<String>,
    /// How its replicas are found, chosen and checked, when it is elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamStatus>,
    /// What its component asks of the host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<String>,
    /// What its component offers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<String>,
}

/// How a service does.
#[derive(Debug, Serialize)]
pub struct Live {
    /// `serving`; `failing` when at least half of the last minute's responses, and at least 5, were errors; `unloaded`
    /// until the next request; `down` when none of its replicas is available; `disabled` by an operator; or
    /// `withdrawn`: a version that did worse than its service.
    pub state: &'static str,
    /// When this version began to serve, as RFC 3339.
    pub since: Option<String>,
    /// Whether its machine code is in memory, or waits on disk for the next request.
    pub loaded: bool,
    /// `baseline` for code that was compiled fast and runs slower, until it is `optimised`; only while it is in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// Answers so far, of all versions.
    pub requests: u64,
    /// Those of 500 and more, and those that broke off.
    pub errors: u64,
    /// Being answered.
    pub in_flight: usize,
    /// Waiting for a place.
    pub queued: usize,
    /// Within this many milliseconds half of the last minute's requests were answered.
    pub p50_ms: Option<f64>,
    /// Within this many milliseconds all but a hundredth of them were.
    pub p99_ms: Option<f64>,
    /// CPU time of guest code.
    pub cpu_seconds: f64,
    /// Memory of the largest sandbox so far.
    pub memory_bytes: u64,
    /// Bytes of request bodies that were read.
    pub bytes_in: u64,
    /// Bytes of answers that were sent.
    pub bytes_out: u64,
    /// What is kept of its answers, if its manifest wants that.
    pub cached: Option<Cached>,
    /// The last request that was turned away.
    pub last_refusal: Option<Turned>,
    /// Why this version was taken out of its service's traffic, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<String>,
    /// The versions beside it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<Beside>,
    /// Where it is, when it is elsewhere: empty when no replica is known, and not there for a component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Vec<ReplicaStatus>>,
}

/// What is kept of a service's answers.
#[derive(Debug, Serialize)]
pub struct Cached {
    /// Answers in memory.
    pub entries: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Requests that were answered without the service.
    pub hits: u64,
    /// Requests that it answered.
    pub misses: u64,
}

/// A request that was turned away.
#[derive(Debug, Serialize)]
pub struct Turned {
    /// When, as RFC 3339.
    pub at: String,
    /// Why, as the caller was told.
    pub reason: &'static str,
}

/// A service, its limits, and what went wrong lately.
#[derive(Debug, Serialize)]
pub struct Whole {
    /// What is known of every service.
    #[serde(flatten)]
    pub service: Service,
    /// Every limit by its name, as it would be written.
    pub limits: BTreeMap<&'static str, String>,
    /// What its requests are asked before they may run, in that order, and how that stands.
    pub policies: Vec<PolicyStatus>,
    /// The last first.
    pub recent_errors: Vec<FailedRequest>,
}

/// Why a file is not served.
#[derive(Debug, Serialize)]
pub struct Refused {
    /// What is wrong with it.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

/// Everything that is served or refused, in the order of file names.
pub fn of(snapshot: &Snapshot) -> Vec<Report> {
    reports(snapshot, described)
}

/// The same with how every service does, and without grants, imports and exports, which are most of it and never
/// change.
pub fn live(snapshot: &Snapshot) -> Vec<Report> {
    reports(snapshot, |target| Service { live: Some(does(target)), ..service(target) })
}

fn reports(snapshot: &Snapshot, service: impl Fn(&Target) -> Service) -> Vec<Report> {
    let file = |target: &Target| file_name(&target.backend.spec.path);
    let serves = |target: &Arc<Target>| Report { file: file(target), service: Some(service(target)), refused: None };
    let mut reports: Vec<_> = snapshot.targets.iter().map(serves).collect();
    reports.extend(snapshot.refusals.iter().map(refuses));
    reports.sort_by(|a, b| a.file.cmp(&b.file));
    reports
}

/// Everything about one service.
pub fn whole(target: &Target) -> Whole {
    let mut limits = target.backend.limits().shown();
    if target.backend.upstream().is_some() {
        limits.retain(|name, _| HELD_FOR_REPLICAS.contains(name));
    }
    Whole {
        service: Service { live: Some(does(target)), ..described(target) },
        limits,
        policies: target.admission.policies(Instant::now()),
        recent_errors: target.backend.service.failures(),
    }
}

/// A service with what its component wants, and what of that its manifest grants; or where it is, if that is elsewhere.
fn described(target: &Target) -> Service {
    let upstream = target.backend.upstream().map(|upstream| upstream.status());
    let Some(guest) = target.backend.guest() else { return Service { upstream, ..service(target) } };
    let Interfaces { imports, exports } = (*guest.interfaces).clone();
    let Grants { calls, http } = &guest.spec.manifest.grants;
    let http = http.iter().map(ToString::to_string).collect();
    let isolation = Some(match guest.spec.manifest.isolation {
        Isolation::Request => "request",
        Isolation::Service => "service",
    });
    Service { imports, exports, isolation, calls: calls.names(), http, ..service(target) }
}

/// The state of a service, as [`Live::state`] documents it.
pub fn state(target: &Target) -> &'static str {
    let backend = &target.backend;
    if backend.service.is_disabled() {
        "disabled"
    } else if backend.withdrawn().is_some() {
        "withdrawn"
    } else if backend.upstream().is_some_and(|upstream| upstream.is_down()) {
        "down"
    } else if !backend.is_loaded() {
        "unloaded"
    } else if is_failing(backend.service.figures.minute()) {
        "failing"
    } else {
        "serving"
    }
}

/// Fewer errors than [`FEW`] in a minute say little about a service.
fn is_failing((requests, errors): (u64, u64)) -> bool {
    errors >= FEW && errors.saturating_mul(2) >= requests
}

fn service(target: &Target) -> Service {
    let backend = &target.backend;
    Service {
        name: backend.name.to_string(),
        digest: backend.digest().to_string(),
        bytes: backend.spec.size,
        routes: backend.routes().iter().map(ToString::to_string).collect(),
        host: backend.spec.host().unwrap_or_default(),
        share: backend.spec.manifest.share.as_ref().map(Part::of),
        sticky: backend.spec.manifest.sticky.as_ref().map(ToString::to_string),
        live: None,
        upstream: None,
        isolation: None,
        calls: Vec::new(),
        http: Vec::new(),
        imports: Vec::new(),
        exports: Vec::new(),
    }
}

fn does(target: &Target) -> Live {
    let backend = &target.backend;
    let figures = &backend.service.figures;
    let ms = |part| figures.quantile(part).map(|took| (took.as_secs_f64() * 1e6).round() / 1e3);
    Live {
        state: state(target),
        since: backend.since().map(rfc3339),
        loaded: backend.is_loaded(),
        code: backend.guest().and_then(|guest| guest.tier()),
        requests: figures.requests(),
        errors: figures.errors(),
        in_flight: target.admission.in_flight(),
        queued: target.admission.queued(),
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
        cpu_seconds: backend.cpu().as_secs_f64(),
        memory_bytes: figures.memory.load(Relaxed),
        bytes_in: figures.received.load(Relaxed),
        bytes_out: figures.sent.load(Relaxed),
        withdrawn: backend.withdrawn().map(str::to_owned),
        versions: rollout::beside(target),
        replicas: backend.upstream().map(|upstream| upstream.replicas()),
        cached: cached(target),
        last_refusal: backend.service.last_refusal().map(|(at, reason)| Turned { at: rfc3339(at), reason }),
    }
}

fn cached(target: &Target) -> Option<Cached> {
    target.backend.spec.manifest.cache?;
    let cached = &target.backend.service.figures.cached;
    let (hits, misses) = cached.outcomes().partition::<Vec<_>, _>(|(outcome, _)| outcome.is_served_by_cache());
    let sum = |counts: Vec<(CacheOutcome, u64)>| counts.into_iter().map(|(_, count)| count).sum();
    Some(Cached { entries: cached.entries(), bytes: cached.bytes(), hits: sum(hits), misses: sum(misses) })
}

fn refuses(refusal: &Refusal) -> Report {
    let refused = Refused { reason: refusal.reason.clone(), remedy: refusal.remedy.clone() };
    Report { file: refusal.file.clone(), service: None, refused: Some(refused) }
}
