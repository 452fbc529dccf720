//! The text of `/metrics`: every metric with its present value.

mod cluster;
mod format;
mod problems;
mod services;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

pub use self::format::Format;
use self::services::Scraped;
use super::problems::HostFiles;
use crate::audit::AuditTrail;
use crate::certificates::CertificateExpiry;
use crate::certificates::acme::AcmeClient;
use crate::cluster::Cluster;
use crate::guests::snapshot::{Current, Snapshot};
use crate::listener::intake::Buffers;
use crate::listener::tls::TlsServer;
use lodge_base::budget::Budget;
use lodge_base::lasting;
use lodge_base::telemetry::logs::Logs;
use lodge_base::telemetry::metrics::{Histogram, Metrics};
use lodge_base::telemetry::traces::Tracer;
use lodge_traffic::admission::SharedLimits;
use lodge_traffic::admission::client_memory::ClientMemory;
use lodge_traffic::service::Service;

/// The sources of all metrics.
#[derive(Clone)]
pub struct Scrape {
    /// The current snapshot.
    pub current: Current,
    /// The limits that all services share.
    pub shared_limits: Arc<SharedLimits>,
    /// The counters of the host.
    pub metrics: Arc<Metrics>,
    /// The budget of complete responses that are not written yet.
    pub unsent: Arc<Budget>,
    /// The memory of encoders that compress responses.
    pub compression: Arc<ClientMemory>,
    /// The memory of request bodies that are validated.
    pub validation: Arc<ClientMemory>,
    /// Counts requests that match no service.
    pub unmatched: Arc<Service>,
    /// The log.
    pub logs: Arc<Logs>,
    /// The audit trail, if there is one.
    pub audit: Option<Arc<AuditTrail>>,
    /// The tracer.
    pub tracer: Tracer,
    /// The memory for data that clients send.
    pub buffers: Arc<Buffers>,
    /// The TLS listener, if there is one.
    pub tls: Option<Arc<TlsServer>>,
    /// The certificates from an authority, if there are any.
    pub acme: Option<Arc<AcmeClient>>,
    /// Where problems of files of the host are known.
    pub files: HostFiles,
    /// The cluster that the host is in, if it is in one.
    pub cluster: Option<Arc<Cluster>>,
    /// When the host started.
    pub started: SystemTime,
    /// The versions of Lodge and wasmtime.
    pub versions: [&'static str; 2],
}

/// The resource use of the process, as the system reports it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// User and system CPU time.
    pub cpu: Duration,
    /// Bytes of resident memory.
    pub resident: u64,
    /// Open files and sockets.
    pub files: u64,
    /// The most open files and sockets.
    pub most_files: u64,
}

impl Scrape {
    /// Returns every metric in this format.
    ///
    /// # Errors
    /// Only if formatting fails, which does not happen.
    pub fn text(&self, format: Format) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(format.write(text))
    }
}

impl Process {
    /// Reads the present values; zero where the system has none.
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

/// The name, help and value of a metric.
type Number<T> = (&'static str, &'static str, T);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = self.current.snapshot();
        let mut all = vec![Scraped::unmatched(&self.unmatched)];
        all.extend(snapshot.targets.iter().map(|target| Scraped::of(target)));
        services::encode(&mut encoder, &all)?;
        let process = Process::read();
        for (name, help, value) in self.counters() {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        for (name, help, value) in self.gauges(&snapshot, &process) {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        for (name, help, value) in self.seconds() {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        self.problems(&mut encoder, &snapshot)?;
        self.key_fetches(&mut encoder)?;
        self.logins(&mut encoder)?;
        self.password_hashes(&mut encoder)?;
        self.pulls(&mut encoder)?;
        self.proxy_headers(&mut encoder)?;
        self.tls(&mut encoder)?;
        self.cluster(&mut encoder)?;
        let mut cpu =
            encoder.encode_descriptor("process_cpu_seconds", "CPU time of the process", None, MetricType::Counter)?;
        cpu.encode_counter::<NoLabelSet, _, f64>(&process.cpu.as_secs_f64(), None)?;
        let mut compiled = encoder.encode_descriptor(
            "lodge_compile_seconds",
            "Time to compile a component",
            None,
            MetricType::Histogram,
        )?;
        histogram(&mut compiled, &self.metrics.compiled)?;
        let [version, wasmtime] = self.versions;
        let mut build = encoder.encode_descriptor("lodge_build", "Versions", None, MetricType::Info)?;
        build.encode_info(&[("version", version), ("wasmtime", wasmtime)])
    }
}

impl Scrape {
    /// Writes the metrics of the keys that tokens are verified with.
    fn key_fetches(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Fetches of the keys of issuers of tokens, by result";
        let mut fetches = encoder.encode_descriptor("lodge_auth_key_fetches", help, None, MetricType::Counter)?;
        for (result, count) in self.metrics.key_fetches.read() {
            fetches.encode_family(&[("result", result)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }

    /// Writes the metrics of logins.
    fn logins(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Logins that came back from a provider, by result";
        let mut logins = encoder.encode_descriptor("lodge_auth_logins", help, None, MetricType::Counter)?;
        for (result, count) in self.metrics.logins.read() {
            logins.encode_family(&[("result", result)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }

    /// Writes the metrics of passwords.
    fn password_hashes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Hashes of passwords that were computed, by result";
        let mut hashes = encoder.encode_descriptor("lodge_auth_password_hashes", help, None, MetricType::Counter)?;
        for (result, count) in self.metrics.password_hashes.read() {
            hashes.encode_family(&[("result", result)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }

    /// Writes the metrics of pulls from registries.
    fn pulls(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Pulls of components from registries, by result";
        let mut pulls = encoder.encode_descriptor("lodge_component_pulls", help, None, MetricType::Counter)?;
        for (result, count) in self.metrics.pulls.read() {
            pulls.encode_family(&[("result", result)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }

    /// Writes the metrics of the PROXY protocol, if it is in use.
    fn proxy_headers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counts = self.metrics.proxy_headers.read();
        if counts.is_empty() {
            return Ok(());
        }
        let help = "Connections that begin with a header of the PROXY protocol, by result";
        let mut headers = encoder.encode_descriptor("lodge_proxy_headers", help, None, MetricType::Counter)?;
        for (result, count) in counts {
            headers.encode_family(&[("result", result)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }

    /// Returns when the certificates of this host for replicas expire, by their files.
    fn own_certificates(&self) -> BTreeMap<String, i64> {
        let snapshot = self.current.snapshot();
        let upstreams = snapshot.targets.iter().filter_map(|target| target.backend.upstream()?.certificate());
        upstreams.map(|own| (own.file.display().to_string(), own.not_after)).collect()
    }

    /// Writes the metrics of TLS.
    fn tls(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        if self.tls.is_some() {
            let help = "TLS handshakes, by result";
            let mut handshakes = encoder.encode_descriptor("lodge_tls_handshakes", help, None, MetricType::Counter)?;
            for (result, count) in self.metrics.handshakes.read() {
                handshakes.encode_family(&[("result", result)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        self.expiries(encoder)?;
        self.acme(encoder)
    }

    /// Writes when certificates expire.
    fn expiries(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        // Services may have the same one.
        let mut expiries: BTreeMap<_, _> = self.own_certificates();
        for CertificateExpiry { file, at } in self.tls.iter().flat_map(|tls| tls.certificates().expiries()) {
            expiries.insert(file, at);
        }
        if expiries.is_empty() {
            return Ok(());
        }
        let help = "When the certificate expires, since 1970";
        let mut expiry =
            encoder.encode_descriptor("lodge_tls_certificate_expiry_seconds", help, None, MetricType::Gauge)?;
        for (file, at) in expiries {
            expiry.encode_family(&[("file", file.as_str())])?.encode_gauge(&at)?;
        }
        Ok(())
    }

    /// Writes the metrics of certificates from an authority.
    fn acme(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(acme) = &self.acme else { return Ok(()) };
        let help = "Orders of certificates from an authority, by result";
        let mut orders = encoder.encode_descriptor("lodge_acme_orders", help, None, MetricType::Counter)?;
        for (result, count) in self.metrics.acme_orders.read() {
            orders.encode_family(&[("result", result)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        let help = "When the certificate is ordered or renewed, since 1970";
        let mut renewals = encoder.encode_descriptor("lodge_acme_renewal_seconds", help, None, MetricType::Gauge)?;
        for certificate in acme.certificates() {
            let name = certificate.names.first().map_or("", String::as_str);
            let at = i64::try_from(certificate.renewal).unwrap_or(i64::MAX);
            renewals.encode_family(&[("certificate", name)])?.encode_gauge(&at)?;
        }
        Ok(())
    }

    /// Returns the counters of the host.
    fn counters(&self) -> [Number<u64>; 11] {
        let metrics = &self.metrics;
        [
            ("lodge_connections_accepted", "Connections accepted", metrics.accepted.load(Relaxed)),
            (
                "lodge_connections_given_up",
                "Connections ended for new ones, since all places were in use",
                metrics.given_up.load(Relaxed),
            ),
            (
                "lodge_stalled_responses",
                "Responses cut off because their client read too slowly",
                metrics.stalled.load(Relaxed),
            ),
            ("lodge_compile_cache_hits", "Components found in the compile cache", metrics.cache_hits.load(Relaxed)),
            (
                "lodge_compile_cache_misses",
                "Components not found in the compile cache",
                metrics.cache_misses.load(Relaxed),
            ),
            (
                "lodge_log_lines_dropped",
                "Log lines lost because stderr or a follower was too slow",
                self.logs.dropped(),
            ),
            (
                "lodge_audit_lost_lines",
                "Lines that the audit trail lost, because its file could not be written or too many waited",
                self.audit.as_ref().map_or(0, |audit| audit.lost()),
            ),
            ("lodge_spans_exported", "Spans that a collector has accepted", self.tracer.exported()),
            ("lodge_spans_dropped", "Spans that were lost", self.tracer.dropped()),
            ("lodge_panics", "Panics of the host, each of which is a bug", lasting::panics()),
            ("lodge_reload_failures", "New versions that were refused", metrics.reload_failures.load(Relaxed)),
        ]
    }

    /// Returns the gauges of the host.
    fn gauges(&self, snapshot: &Snapshot, process: &Process) -> [Number<u64>; 17] {
        let (level, slots) = (self.shared_limits.shedding.level() as u64, &self.shared_limits.slots);
        [
            ("lodge_slots", "Slots of the host: engine.instances", slots.size() as u64),
            ("lodge_slots_taken", "Slots of the host in use", slots.taken() as u64),
            ("lodge_slots_queue_length", "Requests that wait for a slot of the host", slots.queued() as u64),
            ("lodge_connections", "Connections open", self.metrics.connections()),
            (
                "lodge_unsent_bytes",
                "Bytes of complete responses that clients have not read yet",
                self.unsent.used() as u64,
            ),
            ("lodge_compression_memory_bytes", "Bytes of listener.compression in use", self.compression.used() as u64),
            ("lodge_validation_memory_bytes", "Bytes of listener.validation in use", self.validation.used() as u64),
            ("lodge_listener_memory_bytes", "Bytes of listener.memory in use", self.buffers.used() as u64),
            (
                "lodge_listener_memory_waiting",
                "Connections that wait for listener.memory",
                self.buffers.waiting() as u64,
            ),
            ("lodge_compile_queue", "Components that are being compiled or wait for it", self.metrics.compile_queue()),
            ("lodge_snapshot_generation", "Number of the current snapshot", snapshot.generation),
            ("lodge_services", "Services served", snapshot.targets.len() as u64),
            ("lodge_refused_files", "Files refused", snapshot.refusals.len() as u64),
            ("lodge_load_level", "Load of the host: 0 calm, 1 busy, 2 swamped", level),
            ("process_resident_memory_bytes", "Memory of the process", process.resident),
            ("process_open_fds", "Open files and sockets", process.files),
            ("process_max_fds", "The most files and sockets that it may open", process.most_files),
        ]
    }

    /// Returns the gauges of the host in seconds.
    fn seconds(&self) -> [Number<f64>; 2] {
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let lag = self.metrics.lag.load(Relaxed) as f64 / 1e9;
        [
            ("lodge_loop_lag_seconds", "The largest delay of a timer of the runtime in the last ten seconds", lag),
            ("process_start_time_seconds", "When the process started, since 1970", started),
        ]
    }
}

fn histogram(encoder: &mut MetricEncoder<'_>, histogram: &Histogram) -> fmt::Result {
    let (seconds, buckets) = histogram.read();
    let count = buckets.iter().map(|(_, count)| count).sum();
    encoder.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)
}
