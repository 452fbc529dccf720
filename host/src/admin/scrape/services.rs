//! The metrics of services, one family after another.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::histogram;
use crate::guests::target::Target;
use lodge_base::lock::lock;
use lodge_base::telemetry::metrics::{CacheMetrics, Histogram, MessageBacklog, ServiceMetrics};
use lodge_manifest::blobstore::BlobGrant;
use lodge_manifest::keyvalue::KeyValueGrant;
use lodge_state::blobs::BlobUsage;
use lodge_traffic::service::Service;

/// A service whose metrics are read: its name, its counters and, unless it stands for requests without a service, its target.
pub(super) struct Scraped<'a> {
    name: &'a str,
    metrics: &'a ServiceMetrics,
    target: Option<&'a Target>,
}

/// Reads a value of a service; `None` if the service has no such value.
type Read<T> = fn(&Scraped<'_>) -> Option<T>;

/// Reads a histogram of a service; `None` if the service has none.
type ReadHistogram = for<'a> fn(&Scraped<'a>) -> Option<&'a Histogram>;

const COUNTERS: &[(&str, &str, Read<u64>)] = &[
    ("lodge_request_body_bytes", "Bytes of request bodies that guests have read", |it| {
        Some(it.metrics.received.load(Relaxed))
    }),
    ("lodge_response_body_bytes", "Bytes of response bodies sent", |it| Some(it.metrics.sent.load(Relaxed))),
    ("lodge_upstream_retries", "Requests sent to another replica after one failed", |it| {
        Some(it.target?.backend.upstream()?.counts().retries.load(Relaxed))
    }),
    ("lodge_upstream_retries_denied", "Retries that the budget did not allow", |it| {
        Some(it.target?.backend.upstream()?.counts().unaffordable.load(Relaxed))
    }),
    ("lodge_upstream_ejections", "Ejections of replicas", |it| {
        Some(it.target?.backend.upstream()?.counts().ejections.load(Relaxed))
    }),
    ("lodge_calls", "Calls of guests to other services, of this host or of others of its cluster", |it| {
        Some(it.metrics.calls.load(Relaxed))
    }),
    ("lodge_guest_metrics_dropped", "Exports of metrics by guests, which are not collected", |it| {
        Some(it.metrics.guest_metrics_dropped.load(Relaxed))
    }),
    ("lodge_output_dropped_bytes", "Bytes of stdout and stderr dropped because of a limit", |it| {
        Some(it.metrics.output_dropped.load(Relaxed))
    }),
];

const GAUGES: &[(&str, &str, Read<u64>)] = &[
    ("http_server_active_requests", "Requests in flight", |it| Some(it.target?.admission.in_flight() as u64)),
    ("lodge_queue_length", "Requests that wait for a slot of their service", |it| {
        Some(it.target?.admission.queued() as u64)
    }),
    ("lodge_concurrency_limit", "Slots of the service: limits.in_flight, or the present adaptive limit", |it| {
        Some(it.target?.admission.slots() as u64)
    }),
    ("lodge_breaker_state", "State of the breaker: 0 closed, 1 half open, 2 open; of several, the highest", |it| {
        it.target?.admission.breaker_state(Instant::now()).map(|position| position as u64)
    }),
    ("lodge_rate_limit_keys", "Keys of rate limits that have used some of their burst", |it| {
        it.target?.admission.keys(Instant::now()).map(|keys| keys as u64)
    }),
    ("lodge_guest_memory_max_bytes", "Memory of the largest sandbox so far", |it| {
        it.target.map(|_| it.metrics.memory.load(Relaxed))
    }),
    ("lodge_response_cache_entries", "Stored responses", |it| Some(it.cached()?.entries())),
    ("lodge_response_cache_bytes", "Bytes of stored responses", |it| Some(it.cached()?.bytes())),
    ("lodge_state_keys", "Keys in the store of the service", |it| it.stored().map(|(keys, _)| keys)),
    ("lodge_state_bytes", "Bytes of all keys and values in the store of the service", |it| {
        it.stored().map(|(_, bytes)| bytes)
    }),
    ("lodge_state_keys_limit", "The most keys that the service may store", |it| Some(it.grant()?.keys)),
    ("lodge_state_bytes_limit", "The most bytes that the service may store", |it| Some(it.grant()?.bytes)),
    ("lodge_blob_objects", "Objects of the service", |it| Some(it.blobs()?.0.objects)),
    ("lodge_blob_bytes", "Bytes of all objects of the service, and of those that are being written", |it| {
        Some(it.blobs()?.0.bytes)
    }),
    ("lodge_blob_objects_limit", "The most objects that the service may store", |it| Some(it.blobs()?.1.objects)),
    ("lodge_blob_bytes_limit", "The most bytes of objects that the service may store", |it| Some(it.blobs()?.1.bytes)),
    ("lodge_warm_instances", "Instances ready for the next request", |it| {
        Some(it.target?.backend.guest()?.warm() as u64)
    }),
    ("lodge_service_loaded", "Whether the machine code is in memory", |it| Some(it.target?.backend.is_loaded().into())),
    ("lodge_upstream_replicas_available", "Replicas that are available", |it| {
        let replicas = it.target?.backend.upstream()?.replicas();
        Some(replicas.iter().filter(|replica| replica.state == "available").count() as u64)
    }),
    ("lodge_upstream_replicas", "Replicas that are known", |it| {
        Some(it.target?.backend.upstream()?.replicas().len() as u64)
    }),
    ("lodge_upstream_sources_failing", "Sources of replicas whose last lookup failed", |it| {
        Some(it.target?.backend.upstream()?.failing_sources() as u64)
    }),
    ("lodge_upstream_tunnels", "Connections that have switched protocols", |it| {
        Some(it.target?.backend.upstream()?.open_tunnels() as u64)
    }),
    ("lodge_upstream_connections", "Connections to replicas", |it| {
        let replicas = it.target?.backend.upstream()?.replicas();
        Some(replicas.iter().map(|replica| replica.connections as u64).sum())
    }),
    ("lodge_messages_waiting", "Messages that wait for the service or are being processed", |it| {
        Some(it.consumed()?.messages)
    }),
    ("lodge_messages_waiting_bytes", "Bytes of these messages", |it| Some(it.consumed()?.bytes)),
    ("lodge_messages_oldest_milliseconds", "Age of the oldest message that waits or is being processed", |it| {
        Some(it.consumed()?.oldest)
    }),
    ("lodge_messages_dead", "Dead messages that are kept", |it| Some(it.consumed()?.dead)),
    ("lodge_version_withdrawn", "Whether the version was withdrawn for doing worse than its service", |it| {
        Some(it.target?.deployment().withdrawn().is_some().into())
    }),
    ("lodge_service_disabled", "Whether an operator has disabled the service", |it| {
        Some(it.target?.deployment().service.is_disabled().into())
    }),
];

const HISTOGRAMS: &[(&str, &str, ReadHistogram)] = &[
    ("http_server_request_duration_seconds", "Time from the request head to the last byte of the response", |it| {
        Some(&it.metrics.duration)
    }),
    ("lodge_queue_wait_seconds", "Time in a queue, of requests that had to wait", |it| Some(&it.metrics.waited)),
    ("lodge_instantiation_seconds", "Time to create a sandbox and run its start code", |it| {
        Some(&it.metrics.instantiated)
    }),
    ("lodge_state_operation_seconds", "Time of an operation on the store of a service", |it| {
        it.target?.deployment().spec.manifest.keyvalue.as_ref().map(|_| &it.metrics.state_duration)
    }),
    ("lodge_sql_statement_seconds", "Time of a statement on a database of a service", |it| {
        let manifest = &it.target?.deployment().spec.manifest;
        (manifest.sqlite.is_some() || manifest.postgres.is_some()).then_some(&it.metrics.sql_duration)
    }),
    ("lodge_blob_operation_seconds", "Time of an operation on the objects of a service", |it| {
        it.target?.deployment().spec.manifest.blobstore.as_ref().map(|_| &it.metrics.blob_duration)
    }),
];

/// Reads counters of a service by reason or outcome.
type ByReason = fn(&Scraped<'_>) -> Vec<(&'static str, u64)>;

/// The families with a second label: name, help, label and counters.
const BY_REASON: &[(&str, &str, &str, ByReason)] = &[
    ("lodge_requests", "Responses, by the class of their status", "code", |it| {
        let counts = it.metrics.responses.iter().map(|count| count.load(Relaxed));
        ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(counts).collect()
    }),
    ("lodge_refusals", "Requests refused before a guest or a replica handled them", "reason", |it| {
        it.metrics.refused.read()
    }),
    ("lodge_auth_failures", "Requests refused because of their credentials, by cause", "cause", |it| {
        it.metrics.denied.read()
    }),
    ("lodge_guest_failures", "Requests without a response of the guest", "reason", |it| it.metrics.failed.read()),
    ("lodge_transfers_aborted", "Responses that broke off, and clients that disconnected", "reason", |it| {
        it.metrics.aborted.read()
    }),
    ("lodge_upstream_tries", "Requests sent to replicas", "outcome", |it| it.tries()),
    ("lodge_outgoing_requests", "Requests of guests to the world, by outcome", "outcome", |it| {
        it.metrics.outgoing.read()
    }),
    ("lodge_state_operations", "Operations on the store and the locks of a service, by outcome", "outcome", |it| {
        it.metrics.state.read()
    }),
    ("lodge_sql_statements", "Statements on the databases of a service, by outcome", "outcome", |it| {
        it.metrics.sql.read()
    }),
    ("lodge_blob_operations", "Operations on the objects of a service, by outcome", "outcome", |it| {
        it.metrics.blobs.read()
    }),
    ("lodge_messages_published", "Messages that guests have published, by outcome", "outcome", |it| {
        it.metrics.messages.published.read()
    }),
    ("lodge_messages_delivered", "Messages that were delivered to the service, by outcome", "outcome", |it| {
        it.metrics.messages.delivered.read()
    }),
    ("lodge_guest_spans", "Spans that guests have made in recorded requests, by outcome", "outcome", |it| {
        it.metrics.guest_spans.read()
    }),
    ("lodge_schedule_calls", "Calls of the service by its schedule, by outcome", "outcome", |it| {
        it.metrics.messages.scheduled.read()
    }),
    ("lodge_compressed_responses", "Responses that were to be compressed, by coding", "encoding", |it| {
        it.metrics.compressed.responses.read()
    }),
    ("lodge_compression_input_bytes", "Bytes of response bodies before their compression", "encoding", |it| {
        it.metrics.compressed.read.read()
    }),
    ("lodge_compression_output_bytes", "Bytes of response bodies after their compression", "encoding", |it| {
        it.metrics.compressed.written.read()
    }),
    ("lodge_response_cache_requests", "Requests to services with a response cache, by outcome", "outcome", |it| {
        let outcomes = it.cached().into_iter().flat_map(CacheMetrics::outcomes);
        outcomes.map(|(outcome, count)| (outcome.name(), count)).collect()
    }),
];

impl<'a> Scraped<'a> {
    /// Returns the metrics of a served service.
    pub(super) fn of(target: &'a Target) -> Self {
        let service = &*target.deployment().service;
        Self { name: &service.name, metrics: &service.metrics, target: Some(target) }
    }

    /// Returns the metrics of requests that match no service.
    pub(super) fn unmatched(service: &'a Service) -> Self {
        Self { name: &service.name, metrics: &service.metrics, target: None }
    }

    /// Returns the requests to replicas by outcome, for an upstream.
    fn tries(&self) -> Vec<(&'static str, u64)> {
        let Some(upstream) = self.target.and_then(|target| target.backend.upstream()) else { return Vec::new() };
        let counts = upstream.counts();
        let mut tries = counts.failed.read();
        tries.push(("answered", counts.responded.load(Relaxed)));
        tries
    }

    /// Returns the state of its messages, if the service consumes some.
    fn consumed(&self) -> Option<MessageBacklog> {
        let manifest = &self.target.filter(|target| target.of.is_none())?.deployment().spec.manifest;
        manifest.consume.as_ref().map(|_| (*lock(&self.metrics.messages.backlog)).unwrap_or_default())
    }

    /// Returns the grant of a store. Versions have the store of their service.
    fn grant(&self) -> Option<&'a KeyValueGrant> {
        let target = self.target.filter(|target| target.of.is_none())?;
        target.deployment().spec.manifest.keyvalue.as_ref()
    }

    /// Returns how many objects the service has and may have. Versions have those of their service.
    fn blobs(&self) -> Option<(BlobUsage, &'a BlobGrant)> {
        let target = self.target.filter(|target| target.of.is_none())?;
        let usage = target.backend.guest()?.blobs()?.space.usage();
        Some((usage, target.deployment().spec.manifest.blobstore.as_ref()?))
    }

    /// Returns keys and bytes in the store of the service, if it has one and they are known.
    fn stored(&self) -> Option<(u64, u64)> {
        self.grant()?;
        *lock(&self.metrics.stored)
    }

    /// Returns the counters of stored responses, if the service has a response cache.
    fn cached(&self) -> Option<&'a CacheMetrics> {
        self.target?.deployment().spec.manifest.cache.map(|_| &self.metrics.cached)
    }
}

/// Writes every family, always in the same order.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, all: &[Scraped<'_>]) -> fmt::Result {
    for (name, help, label, read) in BY_REASON {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for it in all {
            for (reason, count) in read(it) {
                counter(&mut family, &[("service", it.name), (label, reason)], &count)?;
            }
        }
    }
    for (name, help, read) in COUNTERS {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for it in all {
            if let Some(count) = read(it) {
                counter(&mut family, &[("service", it.name)], &count)?;
            }
        }
    }
    cpu(encoder, all)?;
    for (name, help, read) in GAUGES {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for it in all {
            if let Some(value) = read(it) {
                family.encode_family(&[("service", it.name)])?.encode_gauge(&value)?;
            }
        }
    }
    for (name, help, read) in HISTOGRAMS {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for it in all {
            if let Some(durations) = read(it) {
                histogram(&mut family.encode_family(&[("service", it.name)])?, durations)?;
            }
        }
    }
    versions(encoder, all)
}

fn cpu(encoder: &mut DescriptorEncoder<'_>, all: &[Scraped<'_>]) -> fmt::Result {
    let mut family =
        encoder.encode_descriptor("lodge_guest_cpu_seconds", "CPU time of guest code", None, MetricType::Counter)?;
    for (name, target) in all.iter().filter_map(|it| Some((it.name, it.target?))) {
        let (labels, seconds) = ([("service", name)], target.deployment().cpu().as_secs_f64());
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&seconds, None)?;
    }
    Ok(())
}

fn versions(encoder: &mut DescriptorEncoder<'_>, all: &[Scraped<'_>]) -> fmt::Result {
    let mut family = encoder.encode_descriptor("lodge_service", "The version that serves", None, MetricType::Info)?;
    for target in all.iter().filter_map(|it| it.target) {
        let (deployment, digest) = (target.deployment(), target.deployment().digest().to_string());
        let labels = [("service", &*deployment.name), ("digest", &digest), ("version", &deployment.version)];
        family.encode_info(&labels)?;
    }
    Ok(())
}

fn counter(family: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, value: &u64) -> fmt::Result {
    family.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(value, None)
}
