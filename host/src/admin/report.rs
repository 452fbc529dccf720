//! Describes a snapshot: the state of every file, for `lodge check` and for the admin API.

mod rollout;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::contract::{
    CacheCounts, FileReport, LastRefusal, RefusedFile, ServiceActivity, ServiceDetails, ServiceInfo, ServiceStatus,
    StoredCounts,
};
use crate::guests::snapshot::Snapshot;
use crate::guests::target::Target;
use lodge_base::lock::lock;
use lodge_base::telemetry::metrics::CacheOutcome;
use lodge_base::time::rfc3339;
use lodge_manifest::limits::OF_COMPONENTS;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::section;
use lodge_manifest::spec::host_of;
use lodge_runtime::compile::Interfaces;

/// The errors in the last minute from which a service can be failing.
const MIN_ERRORS: u64 = 5;

/// Returns a report of each file, in the order of file names, with grants, imports and exports and without traffic.
pub(crate) fn files(snapshot: &Snapshot) -> Vec<FileReport<ServiceInfo>> {
    reports(snapshot, |target| full_info(snapshot, target))
}

/// Returns a report of each file, in the order of file names, with traffic and without grants, imports and exports: these
/// are most of a report, and only change with the file.
pub(super) fn statuses(snapshot: &Snapshot) -> Vec<FileReport> {
    reports(snapshot, |target| ServiceStatus { info: info(target), activity: activity(target) })
}

fn reports<S>(snapshot: &Snapshot, service: impl Fn(&Target) -> S) -> Vec<FileReport<S>> {
    let file = |target: &Target| file_name(&target.deployment().spec.path);
    let serves =
        |target: &Arc<Target>| FileReport { file: file(target), service: Some(service(target)), refused: None };
    let mut reports: Vec<_> = snapshot.targets.iter().map(serves).collect();
    reports.extend(snapshot.refusals.iter().map(refuses));
    reports.sort_by(|a, b| a.file.cmp(&b.file));
    reports
}

fn refuses<S>(refusal: &Refusal) -> FileReport<S> {
    let digest = refusal.digest.as_ref().map(ToString::to_string);
    let refused = RefusedFile { reason: refusal.reason.clone(), remedy: refusal.remedy.clone(), digest };
    FileReport { file: refusal.file.clone(), service: None, refused: Some(refused) }
}

/// Returns everything about one service.
pub(super) fn details(snapshot: &Snapshot, target: &Target) -> ServiceDetails {
    let mut limits = target.deployment().limits().shown();
    if target.backend.guest().is_none() {
        limits.retain(|name, _| !OF_COMPONENTS.contains(name));
    }
    ServiceDetails {
        status: ServiceStatus { info: full_info(snapshot, target), activity: activity(target) },
        limits: limits.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)).collect(),
        policies: target.admission.policies(Instant::now()),
        recent_errors: target.deployment().service.failures(),
    }
}

/// Describes a service from its files, with the imports of its component and the grants of its manifest or, for an
/// upstream, with its settings.
fn full_info(snapshot: &Snapshot, target: &Target) -> ServiceInfo {
    let upstream = target.backend.upstream().map(|upstream| upstream.status());
    let sections = section::views(&target.deployment().spec.manifest);
    let info = ServiceInfo { upstream, sections, ..info(target) };
    let Some(guest) = target.backend.guest() else { return info };
    let Interfaces { imports, exports, absent } = (*guest.interfaces).clone();
    let unknown_calls = unknown_calls(snapshot, target);
    ServiceInfo { imports, exports, absent_imports: absent, unknown_calls, ..info }
}

/// Returns the names in `calls` that no service has, whether or not it can serve at present.
fn unknown_calls(snapshot: &Snapshot, target: &Target) -> Vec<String> {
    let is_known = |name: &str| {
        let host = host_of(name);
        let is_refused = |file: &str| file.rsplit_once('.').is_some_and(|(stem, _)| host_of(stem) == host);
        snapshot.hosts.contains_key(&host)
            || snapshot.absent.called(&host).is_some()
            || snapshot.refusals.iter().any(|refusal| is_refused(&refusal.file))
    };
    let names = target.deployment().spec.manifest.grants.calls.names();
    names.into_iter().filter(|name| name != "*" && !is_known(name)).collect()
}

fn info(target: &Target) -> ServiceInfo {
    let deployment = target.deployment();
    ServiceInfo {
        name: deployment.name.to_string(),
        digest: deployment.digest().to_string(),
        bytes: deployment.spec.size,
        routes: deployment.routes().iter().map(ToString::to_string).collect(),
        host: deployment.spec.host().unwrap_or_default(),
        share: deployment.spec.manifest.share.as_ref().map(rollout::share),
        sticky: deployment.spec.manifest.sticky.as_ref().map(ToString::to_string),
        ..ServiceInfo::default()
    }
}

/// Returns the state of a service, as [`ServiceActivity::state`] explains it.
pub(super) fn state(target: &Target) -> &'static str {
    let (backend, deployment) = (&target.backend, target.deployment());
    if deployment.service.is_disabled() {
        "disabled"
    } else if deployment.withdrawn().is_some() {
        "withdrawn"
    } else if backend.upstream().is_some_and(|upstream| upstream.is_down()) {
        "down"
    } else if !backend.is_loaded() {
        "unloaded"
    } else if is_failing(deployment.service.metrics.minute()) {
        "failing"
    } else {
        "serving"
    }
}

fn is_failing((requests, errors): (u64, u64)) -> bool {
    errors >= MIN_ERRORS && errors.saturating_mul(2) >= requests
}

fn activity(target: &Target) -> ServiceActivity {
    let (backend, deployment) = (&target.backend, target.deployment());
    let metrics = &deployment.service.metrics;
    let quantile_ms = |part| metrics.quantile(part).map(|took| (took.as_secs_f64() * 1e6).round() / 1e3);
    let refusal = deployment.service.last_refusal();
    ServiceActivity {
        state: state(target).into(),
        since: deployment.since().map(rfc3339),
        loaded: backend.is_loaded(),
        code: backend.guest().and_then(|guest| guest.tier()).map(Cow::Borrowed),
        requests: metrics.requests(),
        errors: metrics.errors(),
        in_flight: target.admission.in_flight(),
        queued: target.admission.queued(),
        p50_ms: quantile_ms(0.5),
        p99_ms: quantile_ms(0.99),
        cpu_seconds: deployment.cpu().as_secs_f64(),
        memory_bytes: metrics.memory.load(Relaxed),
        bytes_in: metrics.received.load(Relaxed),
        bytes_out: metrics.sent.load(Relaxed),
        cached: cache_counts(target),
        stored: stored_counts(target),
        last_refusal: refusal.map(|(at, reason)| LastRefusal { at: rfc3339(at), reason: reason.into() }),
        withdrawn: deployment.withdrawn().map(str::to_owned),
        judged: rollout::judgement(deployment),
        versions: rollout::versions(target),
        replicas: backend.upstream().map(|upstream| upstream.replicas()),
    }
}

fn cache_counts(target: &Target) -> Option<CacheCounts> {
    target.deployment().spec.manifest.cache?;
    let cached = &target.deployment().service.metrics.cached;
    let (hits, misses) = cached.outcomes().partition::<Vec<_>, _>(|(outcome, _)| outcome.is_served_by_cache());
    let sum = |counts: Vec<(CacheOutcome, u64)>| counts.into_iter().map(|(_, count)| count).sum();
    Some(CacheCounts { entries: cached.entries(), bytes: cached.bytes(), hits: sum(hits), misses: sum(misses) })
}

fn stored_counts(target: &Target) -> Option<StoredCounts> {
    let grant = target.deployment().spec.manifest.keyvalue.as_ref().filter(|_| target.of.is_none())?;
    let (keys, bytes) = (*lock(&target.deployment().service.metrics.stored))?;
    Some(StoredCounts { keys, bytes, most_keys: grant.keys, most_bytes: grant.bytes })
}
