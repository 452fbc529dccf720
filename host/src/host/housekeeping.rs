//! Jobs that run beside requests for as long as the host: every half second, or when swap is checked.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::guests::rollout;
use crate::guests::snapshot::Current;
use lodge_base::lock::lock;
use lodge_base::telemetry::metrics::{self, Metrics};
use lodge_runtime::compile::Reset;
use lodge_traffic::admission::SharedLimits;
use lodge_traffic::cache::ResponseCache;

/// The interval between two rounds of jobs.
const INTERVAL: Duration = Duration::from_millis(500);

/// The number of rounds whose largest timer lag is exported: those of the last ten seconds.
const LAGS: usize = 20;

/// The interval between checks of whether swap was turned on.
const SWAP_INTERVAL: Duration = Duration::from_secs(10);

/// The interval between two readings of what services store, for each host of the cluster: all of them ask the same server.
const STORES_INTERVAL: Duration = Duration::from_secs(2);

/// The longest interval between two readings of what services store.
const MOST_STORES_INTERVAL: Duration = Duration::from_secs(60);

/// The longest time of reading what one service stores.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// The jobs, and what they remember from one round to the next.
pub(super) struct Housekeeping {
    current: Current,
    metrics: Arc<Metrics>,
    shared_limits: Arc<SharedLimits>,
    responses: Option<Arc<ResponseCache>>,
    /// The timer lag of the last rounds, the newest last.
    lags: VecDeque<Duration>,
    sampled: Instant,
    /// The generation of the snapshot whose responses were retained last.
    retained: u64,
}

impl Housekeeping {
    pub(super) fn new(
        current: Current,
        metrics: Arc<Metrics>,
        shared_limits: Arc<SharedLimits>,
        responses: Option<Arc<ResponseCache>>,
    ) -> Self {
        let lags = VecDeque::with_capacity(LAGS);
        Self { current, metrics, shared_limits, responses, lags, sampled: Instant::now(), retained: 0 }
    }

    /// Runs a round of jobs after every [`INTERVAL`]. Never returns.
    pub(super) async fn run(mut self) {
        loop {
            let start = Instant::now();
            tokio::time::sleep(INTERVAL).await;
            self.record_lag(start.elapsed().saturating_sub(INTERVAL));
            rollout::review(&self.current.snapshot());
            self.remove_responses_of_old_versions();
            self.drop_idle_instances();
            self.sample_metrics();
        }
    }

    /// Records how late a timer fired, which tells how busy the runtime is.
    fn record_lag(&mut self, lag: Duration) {
        self.shared_limits.shedding.record_lag(lag);
        if self.lags.len() == LAGS {
            self.lags.pop_front();
        }
        self.lags.push_back(lag);
        self.metrics.late(self.lags.iter().copied().max().unwrap_or_default());
    }

    /// Removes the stored responses of versions that are no longer served, after a new snapshot.
    fn remove_responses_of_old_versions(&mut self) {
        let Some(responses) = &self.responses else { return };
        let snapshot = self.current.snapshot();
        if std::mem::replace(&mut self.retained, snapshot.generation) != snapshot.generation {
            let served: Vec<_> = snapshot.targets.iter().map(|target| target.deployment().edition.clone()).collect();
            responses.retain(&served);
        }
    }

    /// Drops warm instances, and the machine code of guests, that were idle for too long.
    fn drop_idle_instances(&self) {
        for target in &self.current.snapshot().targets {
            if let Some(guest) = target.backend.guest() {
                guest.drop_idle();
            }
        }
    }

    /// Takes a sample of the metrics of the last minute, when one is due.
    fn sample_metrics(&mut self) {
        if self.sampled.elapsed() < metrics::SAMPLE {
            return;
        }
        self.sampled = Instant::now();
        for target in &self.current.snapshot().targets {
            target.deployment().service.metrics.sample();
        }
    }
}

/// Logs an error once if swap is turned on after the method of resetting sandboxes was chosen, which cannot change any more.
pub(super) async fn watch_swap(reset: Reset) {
    loop {
        tokio::time::sleep(SWAP_INTERVAL).await;
        // Reads files of the kernel, which takes microseconds.
        if reset.is_unsafe() {
            tracing::error!(
                "swap was turned on while Lodge runs, and memory that is swapped out is not reset between requests of a \
                 service; restart Lodge, or turn swap off"
            );
            std::future::pending::<()>().await;
        }
    }
}

/// The interval between two readings of what services store, in a cluster of so many hosts.
fn stores_interval(hosts: u64) -> Duration {
    STORES_INTERVAL.saturating_mul(u32::try_from(hosts.max(1)).unwrap_or(u32::MAX)).min(MOST_STORES_INTERVAL)
}

/// Reads what every service stores, again and again, so that neither a scrape nor the page waits for it. Never returns.
pub(super) async fn read_stores(current: Current, cluster: Option<Arc<Cluster>>) {
    loop {
        let hosts = cluster.as_ref().map_or(1, |cluster| cluster.numbers().members);
        tokio::time::sleep(stores_interval(hosts)).await;
        let targets = current.snapshot().targets.clone();
        // Versions have the store of their service.
        for target in targets.iter().filter(|target| target.of.is_none()) {
            let Some(store) = target.backend.guest().and_then(|guest| guest.store()) else { continue };
            let deadline = tokio::time::Instant::now() + STORE_TIMEOUT;
            // While its server is away, the last reading stays.
            if let Ok(usage) = store.store.usage(deadline).await {
                *lock(&target.deployment().service.metrics.stored) = Some((usage.keys, usage.bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All hosts of a cluster together read as often as one.
    #[test]
    fn readings_of_stores_are_shared() {
        let seconds = [0, 1, 3, 30, 31, u64::MAX].map(|hosts| stores_interval(hosts).as_secs());
        assert_eq!(seconds, [2, 2, 6, 60, 60, 60]);
    }
}
