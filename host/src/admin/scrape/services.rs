//! What is counted of each service, family by family.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::histogram;
use crate::guests::target::Target;
use lodge_base::telemetry::metrics::{CacheMetrics, Histogram, ServiceMetrics};
use lodge_traffic::service::Service;

/// One service as the metrics see it: its name, what was counted of it and, if there is one, what stands before it.
pub(super) struct Seen<'a> {
    name: &'a str,
    figures: &'a ServiceMetrics,
    target: Option<&'a Target>,
}

/// Reads a number of a service; `None` where it has none.
type Read<T> = fn(&Seen<'_>) -> Option<T>;

/// Finds what is counted of a service.
type Of<T> = fn(&ServiceMetrics) -> &T;

const COUNTERS: &[(&str, &str, Read<u64>)] = &[
    ("lodge_request_body_bytes", "Bytes of request bodies that guests have read", |it| {
        Some(it.figures.received.load(Relaxed))
    }),
    ("lodge_response_body_bytes", "Bytes of answers sent, without heads", |it| Some(it.figures.sent.load(Relaxed))),
    ("lodge_upstream_retries", "Requests sent to another replica after one failed", |it| {
        Some(it.target?.backend.upstream()?.counts().retries.load(Relaxed))
    }),
    ("lodge_upstream_retries_denied", "Retries that there was no room for in the budget", |it| {
        Some(it.target?.backend.upstream()?.counts().unaffordable.load(Relaxed))
    }),
    ("lodge_upstream_ejections", "Times that a replica was left out for failing", |it| {
        Some(it.target?.backend.upstream()?.counts().ejections.load(Relaxed))
    }),
    ("lodge_calls", "Calls of its guests to other services of the host", |it| Some(it.figures.calls.load(Relaxed))),
    ("lodge_output_dropped_bytes", "Bytes of stdout and stderr over a limit", |it| {
        Some(it.figures.output_dropped.load(Relaxed))
    }),
];

const GAUGES: &[(&str, &str, Read<u64>)] = &[
    ("http_server_active_requests", "Requests being answered", |it| Some(it.target?.admission.in_flight() as u64)),
    ("lodge_queue_length", "Requests waiting for a place of their service", |it| {
        Some(it.target?.admission.queued() as u64)
    }),
    (
        "lodge_concurrency_limit",
        "Places of the service: limits.in_flight, or what its adaptive limit has found",
        |it| Some(it.target?.admission.slots() as u64),
    ),
    ("lodge_breaker_state", "Its worst breaker: 0 closed, 1 half open, 2 open", |it| {
        it.target?.admission.breaker_state(Instant::now()).map(|position| position as u64)
    }),
    ("lodge_rate_limit_keys", "Keys of its rate limits that have used some of their burst", |it| {
        it.target?.admission.keys(Instant::now()).map(|keys| keys as u64)
    }),
    ("lodge_guest_memory_max_bytes", "Memory of the largest sandbox so far", |it| {
        it.target.map(|_| it.figures.memory.load(Relaxed))
    }),
    ("lodge_response_cache_entries", "Answers that are kept in memory", |it| Some(it.cached()?.entries())),
    ("lodge_response_cache_bytes", "Bytes of answers that are kept in memory", |it| Some(it.cached()?.bytes())),
    ("lodge_warm_instances", "Instances ready for the next request", |it| {
        Some(it.target?.backend.guest()?.warm() as u64)
    }),
    ("lodge_service_loaded", "Whether its machine code is in memory", |it| Some(it.target?.backend.is_loaded().into())),
    ("lodge_upstream_replicas_available", "Replicas that can be used", |it| {
        let replicas = it.target?.backend.upstream()?.replicas();
        Some(replicas.iter().filter(|replica| replica.state == "available").count() as u64)
    }),
    ("lodge_upstream_replicas", "Replicas that are known", |it| {
        Some(it.target?.backend.upstream()?.replicas().len() as u64)
    }),
    ("lodge_upstream_tunnels", "Connections that have switched protocols", |it| {
        Some(it.target?.backend.upstream()?.open_tunnels() as u64)
    }),
    ("lodge_upstream_connections", "Connections to replicas", |it| {
        let replicas = it.target?.backend.upstream()?.replicas();
        Some(replicas.iter().map(|replica| replica.connections as u64).sum())
    }),
    ("lodge_version_withdrawn", "Whether a version was taken out for doing worse than its service", |it| {
        Some(it.target?.backend.withdrawn().is_some().into())
    }),
    ("lodge_service_disabled", "Whether an operator has switched it off", |it| {
        Some(it.target?.backend.service.is_disabled().into())
    }),
];

const HISTOGRAMS: &[(&str, &str, Of<Histogram>)] = &[
    ("http_server_request_duration_seconds", "From a request's head to the last byte of its answer", |it| &it.duration),
    ("lodge_queue_wait_seconds", "Wait of requests that had to", |it| &it.waited),
    ("lodge_instantiation_seconds", "A new sandbox, until its start code has run", |it| &it.instantiated),
];

/// A few numbers of a service, each by why or how.
type ByReason = fn(&Seen<'_>) -> Vec<(&'static str, u64)>;

/// What is told apart by a second label: family, help, that label, and what to read.
const BY_REASON: &[(&str, &str, &str, ByReason)] = &[
    ("lodge_requests", "Answers, by the class of their status", "code", |it| {
        let counts = it.figures.answers.iter().map(|count| count.load(Relaxed));
        ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(counts).collect()
    }),
    ("lodge_refusals", "Requests turned away before a guest was at work on them", "reason", |it| {
        it.figures.refused.read()
    }),
    ("lodge_guest_failures", "Requests that a guest did not answer", "reason", |it| it.figures.failed.read()),
    ("lodge_transfers_aborted", "Answers that broke off, and clients that left", "reason", |it| {
        it.figures.aborted.read()
    }),
    ("lodge_upstream_tries", "Requests sent to replicas", "outcome", |it| it.tries()),
    ("lodge_outgoing_requests", "Requests of its guests to the world, by how they went", "outcome", |it| {
        it.figures.outgoing.read()
    }),
    (
        "lodge_response_cache_requests",
        "Requests to routes whose answers are kept, by how they were answered",
        "outcome",
        |it| {
            let outcomes = it.cached().into_iter().flat_map(CacheMetrics::outcomes);
            outcomes.map(|(outcome, count)| (outcome.name(), count)).collect()
        },
    ),
];

impl<'a> Seen<'a> {
    /// One that is served.
    pub(super) fn of(target: &'a Target) -> Self {
        let service = &*target.backend.service;
        Self { name: &service.name, figures: &service.figures, target: Some(target) }
    }

    /// Where requests are counted that no service owns.
    pub(super) fn nobody(service: &'a Service) -> Self {
        Self { name: &service.name, figures: &service.figures, target: None }
    }

    /// How requests to its replicas went, if it is elsewhere.
    fn tries(&self) -> Vec<(&'static str, u64)> {
        let Some(upstream) = self.target.and_then(|target| target.backend.upstream()) else { return Vec::new() };
        let counts = upstream.counts();
        let mut tries = counts.failed.read();
        tries.push(("answered", counts.answered.load(Relaxed)));
        tries
    }

    /// What is counted of the answers that are kept of it, if its manifest says that any are.
    fn cached(&self) -> Option<&'a CacheMetrics> {
        self.target?.backend.spec.manifest.cache.map(|_| &self.figures.cached)
    }
}

/// Every family, in the order in which they have always been.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, all: &[Seen<'_>]) -> fmt::Result {
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
    for (name, help, of) in HISTOGRAMS {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for it in all {
            histogram(&mut family.encode_family(&[("service", it.name)])?, of(it.figures))?;
        }
    }
    versions(encoder, all)
}

fn cpu(encoder: &mut DescriptorEncoder<'_>, all: &[Seen<'_>]) -> fmt::Result {
    let mut family =
        encoder.encode_descriptor("lodge_guest_cpu_seconds", "CPU time of guest code", None, MetricType::Counter)?;
    for (name, target) in all.iter().filter_map(|it| Some((it.name, it.target?))) {
        let (labels, seconds) = ([("service", name)], target.backend.cpu().as_secs_f64());
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&seconds, None)?;
    }
    Ok(())
}

fn versions(encoder: &mut DescriptorEncoder<'_>, all: &[Seen<'_>]) -> fmt::Result {
    let mut family = encoder.encode_descriptor("lodge_service", "The version that serves", None, MetricType::Info)?;
    for target in all.iter().filter_map(|it| it.target) {
        let digest = target.backend.digest().to_string();
        family.encode_info(&[("service", &*target.backend.name), ("digest", &digest)])?;
    }
    Ok(())
}

fn counter(family: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, value: &u64) -> fmt::Result {
    family.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(value, None)
}
