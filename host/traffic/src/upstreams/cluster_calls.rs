//! What this host sends to services of other hosts of its cluster: counts and times by service and host.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::transport::Target;
use lodge_base::lock::lock;
use lodge_base::telemetry::metrics::Histogram;
use lodge_manifest::upstream::protocol::Scheme;

/// The most services, each at one host, that are counted by themselves. Further ones are counted together.
const MOST_PAIRS: usize = 200;

/// The name of what is counted together, which neither a service nor a host has.
const OTHERS: &str = "(others)";

/// A service, and the scheme, the name and the port of a host.
type ServiceAtHost = (Arc<str>, Option<(Scheme, Arc<str>, u16)>);

/// The requests that were sent to other hosts of the cluster.
#[derive(Debug, Default)]
pub struct ClusterCalls(Mutex<BTreeMap<ServiceAtHost, Arc<HostCallCounts>>>);

/// The requests for one service that were sent to one host. One that is tried again counts again.
#[derive(Debug, Default)]
pub struct HostCallCounts {
    /// Those without a response, or with a status of 500 or more.
    pub failed: AtomicU64,
    /// Those that were sent after another try of the same request.
    pub retried: AtomicU64,
    /// The time until the head of the response, or until it was clear that there is none.
    pub duration: Histogram,
}

impl HostCallCounts {
    /// Returns how many there were, and the seconds of all together.
    pub fn sent(&self) -> (u64, f64) {
        let (seconds, buckets) = self.duration.read();
        (buckets.iter().map(|(_, count)| count).sum(), seconds)
    }

    /// Counts a request, which is a retry if it was tried before.
    pub(super) fn count(&self, time: Duration, is_retry: bool, has_failed: bool) {
        self.duration.record(time);
        self.failed.fetch_add(has_failed.into(), Relaxed);
        self.retried.fetch_add(is_retry.into(), Relaxed);
    }
}

impl ClusterCalls {
    /// Returns the counts of `service` at a host.
    pub(super) fn of(&self, service: &Arc<str>, host: &Target) -> Arc<HostCallCounts> {
        let pair = (Arc::clone(service), Some((host.scheme, Arc::clone(&host.host), host.address.port())));
        let mut all = lock(&self.0);
        let is_full = all.len() >= MOST_PAIRS && !all.contains_key(&pair);
        let pair = if is_full { (OTHERS.into(), None) } else { pair };
        Arc::clone(all.entry(pair).or_default())
    }

    /// Returns all counts with the name of the service and the URL of the host, without a path.
    pub fn read(&self) -> Vec<(Arc<str>, String, Arc<HostCallCounts>)> {
        let url = |host: &Option<(Scheme, Arc<str>, u16)>| match host {
            Some((scheme, host, port)) => {
                let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
                let port = if *port == scheme.port() { String::new() } else { format!(":{port}") };
                format!("{}://{bracketed}{port}", scheme.uri())
            }
            None => OTHERS.into(),
        };
        let all = lock(&self.0);
        all.iter().map(|((service, host), counts)| (Arc::clone(service), url(host), Arc::clone(counts))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(scheme: Scheme, host: &str, port: u16) -> Target {
        Target { scheme, host: host.into(), address: ([192, 0, 2, 1], port).into(), other: None }
    }

    #[test]
    fn services_and_hosts_are_counted_and_bounded() {
        let (calls, users) = (ClusterCalls::default(), Arc::from("users"));
        let millisecond = Duration::from_millis(1);
        calls.of(&users, &host(Scheme::Https, "a.example", 443)).count(millisecond, false, false);
        calls.of(&users, &host(Scheme::Https, "a.example", 443)).count(millisecond, true, true);
        calls.of(&users, &host(Scheme::Http, "fd00::1", 8080)).count(millisecond, false, false);
        let shown = |calls: &ClusterCalls| -> Vec<_> {
            let shown = |(service, host, counts): (Arc<str>, String, Arc<HostCallCounts>)| {
                (format!("{service} {host}"), counts.sent().0, counts.failed.load(Relaxed))
            };
            calls.read().into_iter().map(shown).collect()
        };
        let retried: Vec<_> = calls.read().iter().map(|(.., counts)| counts.retried.load(Relaxed)).collect();
        assert_eq!(retried, [0, 1]);
        assert_eq!(
            shown(&calls),
            [("users http://[fd00::1]:8080".to_owned(), 1, 0), ("users https://a.example".to_owned(), 2, 1)]
        );
        for port in 1..1_000 {
            calls.of(&users, &host(Scheme::Http, "b.example", port)).count(millisecond, false, true);
        }
        calls.of(&users, &host(Scheme::Https, "a.example", 443)).count(millisecond, false, true);
        let all = shown(&calls);
        assert_eq!((all.len(), all.iter().map(|(_, count, _)| count).sum::<u64>()), (MOST_PAIRS + 1, 1_003));
        assert!(all.contains(&("(others) (others)".to_owned(), 1_000 - 1 - (MOST_PAIRS as u64 - 2), 801)), "{all:?}");
        assert!(all.contains(&("users https://a.example".to_owned(), 3, 2)));
    }
}
