//! The text that a scraper reads: OpenMetrics, with everything that is counted as it is at this moment.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::{Figures, Histogram, Metrics, Tally};
use crate::admission::Commons;
use crate::guests::snapshot::Current;
use crate::guests::target::Target;
use crate::logs::Logs;
use crate::service::Service;
use crate::traces::Tracer;

/// What [`Scrape::text`] is, as the header `content-type` has it.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where everything that is counted can be read.
#[derive(Clone)]
pub struct Scrape {
    /// What is served.
    pub current: Current,
    /// What all services share.
    pub commons: Arc<Commons>,
    /// What is counted of the host.
    pub metrics: Arc<Metrics>,
    /// Where requests are counted that no service owns.
    pub nobody: Arc<Service>,
    /// What was said.
    pub logs: Arc<Logs>,
    /// What was traced.
    pub tracer: Tracer,
    /// When the host started.
    pub started: SystemTime,
    /// Versions of Lodge and of its engine.
    pub versions: [&'static str; 2],
}

/// What the process has used, as the system says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// User and system together.
    pub cpu: Duration,
    /// Bytes of memory.
    pub resident: u64,
    /// Open files and sockets.
    pub files: u64,
    /// The most that it may open.
    pub most_files: u64,
}

impl Scrape {
    /// Everything, as text.
    ///
    /// # Errors
    /// Never, while there is memory.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Process {
    /// As it is now; zeros where the system does not tell.
    pub fn read() -> Self {
        let resident = std::fs::read_to_string("/proc/self/statm").ok();
        let pages = resident.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok()).unwrap_or(0);
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
        Self {
            cpu: Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanos),
            resident: pages * rustix::param::page_size() as u64,
            most_files: rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(0),
            files: std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64),
        }
    }
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrape").finish_non_exhaustive()
    }
}

/// One service as the metrics see it: its name, what was counted of it and, if there is one, what stands before it.
struct Seen<'a> {
    name: &'a str,
    figures: &'a Figures,
    target: Option<&'a Target>,
}

/// Reads a number of a service; `None` where it has none.
type Read<T> = fn(&Seen<'_>) -> Option<T>;

/// Finds what is counted of a service.
type Of<T> = fn(&Figures) -> &T;

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
        |it| Some(it.target?.admission.places() as u64),
    ),
    ("lodge_breaker_state", "Its worst breaker: 0 closed, 1 half open, 2 open", |it| {
        it.target?.admission.breaker(Instant::now()).map(|position| position as u64)
    }),
    ("lodge_rate_limit_keys", "Keys of its rate limits that have used some of their burst", |it| {
        it.target?.admission.keys(Instant::now()).map(|keys| keys as u64)
    }),
    ("lodge_guest_memory_max_bytes", "Memory of the largest sandbox so far", |it| {
        it.target.map(|_| it.figures.memory.load(Relaxed))
    }),
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

type Number = (&'static str, &'static str, u64);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = self.current.snapshot();
        let mut all: Vec<_> = snapshot.targets.iter().map(|target| Seen::of(target)).collect();
        all.insert(0, Seen { name: &self.nobody.name, figures: &self.nobody.figures, target: None });
        services(&mut encoder, &all)?;
        let metrics = &self.metrics;
        let counted = |count: &std::sync::atomic::AtomicU64| count.load(Relaxed);
        let process = Process::read();
        let counters: &[Number] = &[
            ("lodge_connections_accepted", "Connections accepted", counted(&metrics.accepted)),
            ("lodge_compile_cache_hits", "Components found in the compile cache", counted(&metrics.cache_hits)),
            ("lodge_compile_cache_misses", "Components not found there", counted(&metrics.cache_misses)),
            ("lodge_log_lines_dropped", "Log lines that nobody read", self.logs.dropped()),
            ("lodge_spans_exported", "Spans that a collector has taken", self.tracer.exported()),
            ("lodge_spans_dropped", "Spans that were lost", self.tracer.dropped()),
            ("lodge_reload_failures", "New versions that were refused", counted(&metrics.reload_failures)),
        ];
        for (name, help, value) in counters {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, u64>(value, None)?;
        }
        let gauges: &[Number] = &[
            ("lodge_connections", "Connections open", metrics.connections()),
            ("lodge_compile_queue", "Components being compiled, or waiting for it", metrics.compile_queue()),
            ("lodge_snapshot_generation", "Grows with every change of what is served", snapshot.generation),
            ("lodge_services", "Services served", snapshot.targets.len() as u64),
            ("lodge_refused_files", "Files refused", snapshot.refusals.len() as u64),
            (
                "lodge_load_level",
                "How full the host is: 0 calm, 1 busy, 2 swamped",
                self.commons.shedding.level() as u64,
            ),
            ("process_resident_memory_bytes", "Memory of the process", process.resident),
            ("process_open_fds", "Open files and sockets", process.files),
            ("process_max_fds", "The most files and sockets that it may open", process.most_files),
        ];
        for (name, help, value) in gauges {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(value)?;
        }
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let lag = counted(&metrics.lag) as f64 / 1e9;
        for (name, help, value) in [
            ("lodge_loop_lag_seconds", "The latest that a timer of the runtime was in the last ten seconds", lag),
            ("process_start_time_seconds", "When the process started, since 1970", started),
        ] {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        let mut cpu =
            encoder.encode_descriptor("process_cpu_seconds", "CPU time of the process", None, MetricType::Counter)?;
        cpu.encode_counter::<NoLabelSet, _, f64>(&process.cpu.as_secs_f64(), None)?;
        let mut compiled = encoder.encode_descriptor(
            "lodge_compile_seconds",
            "Component to machine code",
            None,
            MetricType::Histogram,
        )?;
        histogram(&mut compiled, &metrics.compiled)?;
        let [version, wasmtime] = self.versions;
        let mut build = encoder.encode_descriptor("lodge_build", "Versions", None, MetricType::Info)?;
        build.encode_info(&[("version", version), ("wasmtime", wasmtime)])
    }
}

impl<'a> Seen<'a> {
    fn of(target: &'a Target) -> Self {
        let service = &*target.backend.service;
        Self { name: &service.name, figures: &service.figures, target: Some(target) }
    }
}

fn services(encoder: &mut DescriptorEncoder<'_>, all: &[Seen<'_>]) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "lodge_requests",
        "Answers, by the class of their status",
        None,
        MetricType::Counter,
    )?;
    for it in all {
        for (class, count) in ["1xx", "2xx", "3xx", "4xx", "5xx"].iter().zip(&it.figures.answers) {
            counter(&mut family, &[("service", it.name), ("code", class)], &count.load(Relaxed))?;
        }
    }
    let tallies: [(_, _, Of<Tally>); 3] = [
        ("lodge_refusals", "Requests turned away before a guest was at work on them", |it| &it.refused),
        ("lodge_guest_failures", "Requests that a guest did not answer", |it| &it.failed),
        ("lodge_transfers_aborted", "Answers that broke off, and clients that left", |it| &it.aborted),
    ];
    for (name, help, of) in tallies {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for it in all {
            for (reason, count) in of(it.figures).read() {
                counter(&mut family, &[("service", it.name), ("reason", reason)], &count)?;
            }
        }
    }
    let mut family =
        encoder.encode_descriptor("lodge_upstream_tries", "Requests sent to replicas", None, MetricType::Counter)?;
    for it in all {
        let Some(upstream) = it.target.and_then(|target| target.backend.upstream()) else { continue };
        let counts = upstream.counts();
        let failed = counts.failed.read().into_iter();
        for (outcome, count) in failed.chain([("answered", counts.answered.load(Relaxed))]) {
            counter(&mut family, &[("service", it.name), ("outcome", outcome)], &count)?;
        }
    }
    let mut family = encoder.encode_descriptor(
        "lodge_outgoing_requests",
        "Requests of its guests to the world, by how they went",
        None,
        MetricType::Counter,
    )?;
    for it in all {
        for (outcome, count) in it.figures.outgoing.read() {
            counter(&mut family, &[("service", it.name), ("outcome", outcome)], &count)?;
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
    let mut family =
        encoder.encode_descriptor("lodge_guest_cpu_seconds", "CPU time of guest code", None, MetricType::Counter)?;
    for it in all {
        if let Some(target) = it.target {
            let labels = [("service", it.name)];
            family
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, f64>(&target.backend.cpu().as_secs_f64(), None)?;
        }
    }
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

fn histogram(encoder: &mut MetricEncoder<'_>, histogram: &Histogram) -> fmt::Result {
    let (seconds, buckets) = histogram.read();
    let count = buckets.iter().map(|(_, count)| count).sum();
    encoder.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)
}
