//! The metrics of the cluster, if the host is in one.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::{Scrape, histogram};
use lodge_traffic::upstreams::cluster_calls::{ClusterCalls, HostCallCounts};

impl Scrape {
    /// Writes the metrics of the cluster, if the host is in one.
    pub(super) fn cluster(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(cluster) = &self.cluster else { return Ok(()) };
        let numbers = cluster.numbers();
        for (name, help, value) in [
            ("lodge_cluster_members", "Known hosts of the cluster, this one included", numbers.members),
            (
                "lodge_cluster_state",
                "The host in its cluster: 1 joining, 2 member, 3 name-taken, 4 away, 5 left",
                numbers.state,
            ),
            ("lodge_cluster_leader", "Whether this host leads the cluster", numbers.leads.into()),
            ("lodge_cluster_ignored_records", "Records of the cluster that are not those of hosts", numbers.ignored),
            (
                "lodge_cluster_rate_keys",
                "Keys of rates of the cluster that are charged at its store",
                numbers.rate_keys,
            ),
            (
                "lodge_cluster_rates_divided",
                "Whether this host has only its share of rates of the cluster",
                numbers.divides_rates.into(),
            ),
        ] {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        let help = "When the record of this host was last renewed, since 1970";
        encoder
            .encode_descriptor("lodge_cluster_last_renewal_seconds", help, None, MetricType::Gauge)?
            .encode_gauge(&numbers.renewed)?;
        let help = "Exchanges with the store about keys of rates of the cluster";
        encoder
            .encode_descriptor("lodge_cluster_rate_exchanges", help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&numbers.rate_exchanges, None)?;
        let help = "Failed operations on the store of the cluster";
        let mut failures = encoder.encode_descriptor("lodge_cluster_failures", help, None, MetricType::Counter)?;
        for (operation, count) in numbers.failures {
            failures.encode_family(&[("operation", operation)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        calls(encoder, cluster.calls())
    }
}

/// Reads a counter of requests to a host.
type ReadCount = fn(&HostCallCounts) -> &AtomicU64;

/// Writes what this host has sent to services of others, if it has sent anything.
fn calls(encoder: &mut DescriptorEncoder<'_>, calls: &ClusterCalls) -> fmt::Result {
    let all = calls.read();
    if all.is_empty() {
        return Ok(());
    }
    let failures = "Requests to services of other hosts without a response, or with a status of 500 or more";
    let retries = "Requests to services of other hosts that were sent after another try of the same request";
    let counters: [(_, _, ReadCount); 2] = [
        ("lodge_cluster_call_failures", failures, |counts| &counts.failed),
        ("lodge_cluster_call_retries", retries, |counts| &counts.retried),
    ];
    for (name, help, counter) in counters {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (service, host, counts) in &all {
            let count = counter(counts).load(Relaxed);
            let labels = [("service", &**service), ("host", host.as_str())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    let help = "Time of requests to services of other hosts, until the head of the response";
    let mut seconds = encoder.encode_descriptor("lodge_cluster_call_seconds", help, None, MetricType::Histogram)?;
    for (service, host, counts) in &all {
        let labels = [("service", &**service), ("host", host.as_str())];
        histogram(&mut seconds.encode_family(&labels)?, &counts.duration)?;
    }
    Ok(())
}
