//! Describes a snapshot: the state of every file, for `lodge check` and for the admin API.

mod rollout;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, SystemTime};

use super::contract::{
    CacheCounts, CodePart, FileReport, LastRefusal, MessageCounts, RefusedFile, RemoteCall, ScheduleStatus,
    ScheduledCall, ServiceActivity, ServiceDetails, ServiceInfo, ServiceStatus, StoredCounts,
};
use super::problems;
use crate::guests::remote::ServicesElsewhere;
use crate::guests::snapshot::Snapshot;
use crate::guests::target::Target;
use lodge_base::lock::lock;
use lodge_base::telemetry::metrics::{CacheOutcome, MessageBacklog};
use lodge_base::time::rfc3339;
use lodge_manifest::digest::Digest;
use lodge_manifest::limits::OF_COMPONENTS;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::schedule::Schedule;
use lodge_manifest::section;
use lodge_manifest::spec::{GuestSpec, host_of};
use lodge_runtime::compile::Interfaces;
use lodge_traffic::service::RefusedRequest;
use lodge_traffic::service::schedules::LastCall;

/// The errors in the last minute from which a service can be failing.
const MIN_ERRORS: u64 = 5;

/// Returns a report of each file, in the order of file names, with grants, imports and exports and without traffic.
pub(crate) fn files(snapshot: &Snapshot) -> Vec<FileReport<ServiceInfo>> {
    reports(snapshot, |target| full_info(snapshot, target, None))
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
pub(super) fn details(snapshot: &Snapshot, target: &Target, elsewhere: &ServicesElsewhere) -> ServiceDetails {
    let mut limits = target.deployment().limits().shown();
    if target.backend.guest().is_none() {
        limits.retain(|name, _| !OF_COMPONENTS.contains(name));
    }
    ServiceDetails {
        status: ServiceStatus { info: full_info(snapshot, target, Some(elsewhere)), activity: activity(target) },
        refused: newer_refused(snapshot, &target.deployment().name),
        limits: limits.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)).collect(),
        policies: target.admission.policies(Instant::now()),
        schedules: schedules(target, SystemTime::now()),
        response_mismatches: target.deployment().service.mismatches(),
        recent_errors: target.deployment().service.failures(),
    }
}

/// Returns which files of a service are refused, and why.
fn newer_refused(snapshot: &Snapshot, name: &str) -> Vec<String> {
    let is_of = |refusal: &&Refusal| refusal.file.rsplit_once('.').is_some_and(|(stem, _)| stem == name);
    snapshot.refusals.iter().filter(is_of).map(ToString::to_string).collect()
}

/// Returns the schedules of a service. Those of a version are not run.
fn schedules(target: &Target, now: SystemTime) -> Vec<ScheduleStatus> {
    let deployment = target.deployment();
    let schedules = deployment.spec.manifest.schedules.iter().filter(|_| target.of.is_none());
    let status = |schedule: &Schedule| {
        let last = deployment.service.schedules.last(&schedule.path);
        ScheduleStatus {
            cron: schedule.expression().to_owned(),
            path: schedule.path.clone(),
            next: schedule.next(now).map(|next| humantime::format_rfc3339_seconds(next).to_string()),
            failed: last.map_or(0, |last| last.failed),
            last: last.map(|LastCall { at, outcome, .. }| ScheduledCall {
                at: rfc3339(at),
                outcome: outcome.name().into(),
                status: outcome.status(),
            }),
        }
    };
    schedules.map(status).collect()
}

/// Describes a service from its files, with the imports of its component and the grants of its manifest or, for an
/// upstream, with its settings. `elsewhere` is `None` for a host that does not run.
fn full_info(snapshot: &Snapshot, target: &Target, elsewhere: Option<&ServicesElsewhere>) -> ServiceInfo {
    let upstream = target.backend.upstream().map(|upstream| upstream.status());
    let sections = section::views(&target.deployment().spec.manifest);
    let logins = target.auth().and_then(|checks| checks.logins());
    let login_fails = logins.and_then(|logins| logins.problem());
    let login_refusal = logins.and_then(|logins| logins.refusal());
    let login_refusal =
        login_refusal.map(|(at, why)| LastRefusal { at: rfc3339(at), reason: why.into(), detail: None });
    let parts = parts(&target.deployment().spec);
    let info = ServiceInfo { upstream, sections, parts, login_fails, login_refusal, ..info(target) };
    let Some(guest) = target.backend.guest() else { return info };
    let Interfaces { imports, exports, absent } = (*guest.interfaces).clone();
    let (mut unknown_calls, mut remote_calls) = (Vec::new(), Vec::new());
    for name in absent_calls(snapshot, target) {
        match elsewhere.and_then(|elsewhere| elsewhere.find(&host_of(&name))) {
            Some(found) => remote_calls.push(RemoteCall { state: found.to_string(), name }),
            None => unknown_calls.push(name),
        }
    }
    ServiceInfo { imports, exports, absent_imports: absent, unknown_calls, remote_calls, ..info }
}

/// Returns the components of a service with others in front of it.
fn parts(spec: &GuestSpec) -> Vec<CodePart> {
    let digests = spec.middleware.iter().map(|part| part.digest).chain([spec.digest]);
    let files = spec.manifest.middleware.iter().cloned().chain([file_name(&spec.path)]);
    let part = |(file, digest): (String, Digest)| CodePart { file, digest: digest.to_string() };
    if spec.middleware.is_empty() { Vec::new() } else { files.zip(digests).map(part).collect() }
}

/// Returns the names in `calls` that no service of this host has, whether or not it can serve at present.
fn absent_calls(snapshot: &Snapshot, target: &Target) -> Vec<String> {
    let is_known = |name: &str| {
        let host = host_of(name);
        let is_refused = |file: &str| file.rsplit_once('.').is_some_and(|(stem, _)| host_of(stem) == host);
        snapshot.hosts.contains_key(&host)
            || snapshot.absent.has(&host)
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
        version: deployment.version.to_string(),
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
        messages: message_counts(target),
        last_refusal: refusal.map(last_refusal),
        problems: problems::of_service(target),
        withdrawn: deployment.withdrawn().map(str::to_owned),
        judged: rollout::judgement(deployment),
        versions: rollout::versions(target),
        replicas: backend.upstream().map(|upstream| upstream.replicas()),
    }
}

fn last_refusal(RefusedRequest { at, reason, cause, key }: RefusedRequest) -> LastRefusal {
    let detail = cause.map(|cause| key.map_or_else(|| cause.to_owned(), |key| format!("{cause}, key {key}")));
    LastRefusal { at: rfc3339(at), reason: reason.into(), detail }
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

fn message_counts(target: &Target) -> Option<MessageCounts> {
    target.deployment().spec.manifest.consume.as_ref().filter(|_| target.of.is_none())?;
    let MessageBacklog { messages, leased, bytes, dead, oldest } =
        (*lock(&target.deployment().service.metrics.messages.backlog))?;
    Some(MessageCounts { waiting: messages.saturating_sub(leased), in_flight: leased, dead, bytes, oldest_ms: oldest })
}
