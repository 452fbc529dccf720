//! The task that takes finished recordings from the queue and exports them in batches.
//!
//! It reads the queue every `traces.delay` and when a batch is full, so only the request that fills a batch wakes it
//! up. A batch is exported, or lost and counted, within `traces.timeout`. No request waits for that.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::collect::{Collector, ExportFailure};
use super::otlp::{self, Resource};
use super::trace::SPANS;
use super::{Finished, zipkin};
use crate::config::traces::{Exporter, Traces};
use crate::ids::Ids;
use crate::lasting::caught;

/// The first pause before a retry; it doubles each time.
const PAUSE: Duration = Duration::from_millis(250);
/// The maximum pause before a retry.
const PAUSE_MOST: Duration = Duration::from_secs(5);

/// State that requests and the exporting task share.
#[derive(Default)]
pub(super) struct Shared {
    /// Spans that a collector has accepted.
    pub(super) exported: AtomicU64,
    /// Spans that were recorded and lost.
    pub(super) dropped: AtomicU64,
    /// Notified when a batch is full.
    pub(super) full: Notify,
}

/// The task, before it runs.
pub(super) struct Export {
    queue: mpsc::Receiver<Finished>,
    collector: Collector,
    form: Form,
    shared: Arc<Shared>,
    ids: Arc<Ids>,
    /// The most recordings of one batch.
    most: usize,
    delay: Duration,
    timeout: Duration,
    /// Whether the last batch was lost, which was logged once.
    failing: bool,
}

enum Form {
    Otlp(Resource),
    Zipkin(Vec<(String, String)>),
}

/// Spans that are being exported. Dropping it counts them as lost.
struct Underway<'a> {
    shared: &'a Shared,
    spans: u64,
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        self.shared.dropped.fetch_add(self.spans, Ordering::Relaxed);
    }
}

/// Converts the settings, in spans, into the most recordings of the queue and of one batch. Every recording counts as a
/// request with all phases, also one that makes a single span.
pub(super) fn sizes(traces: &Traces) -> (usize, usize) {
    let queue = (traces.queue / SPANS).max(1);
    (queue, (traces.batch / SPANS).clamp(1, queue))
}

impl Export {
    /// Creates the task, which moves recordings from `queue` to `collector`.
    pub(super) fn new(
        traces: &Traces,
        queue: mpsc::Receiver<Finished>,
        collector: Collector,
        shared: Arc<Shared>,
        ids: Arc<Ids>,
    ) -> Self {
        let mut host = traces.attributes();
        if !host.iter().any(|(name, _)| name == "service.version") {
            host.push(("service.version".into(), env!("CARGO_PKG_VERSION").into()));
        }
        let form =
            if traces.exporter == Exporter::Zipkin { Form::Zipkin(host) } else { Form::Otlp(Resource::new(&host)) };
        let (_, most) = sizes(traces);
        let (delay, timeout) = (traces.delay, traces.timeout);
        Self { queue, collector, form, shared, ids, most, delay, timeout, failing: false }
    }

    /// Exports until `stop` gives a deadline; then exports the rest of the queue until that deadline.
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<Instant>) {
        let shared = Arc::clone(&self.shared);
        loop {
            tokio::select! {
                biased;
                until = &mut stop => return self.flush(until.unwrap_or_else(|_| Instant::now())).await,
                () = shared.full.notified() => {}
                () = sleep(self.delay) => {}
            }
            while let Some(batch) = self.take() {
                let mut told = None;
                {
                    // A panic loses this batch, which is then counted as lost.
                    let mut export = pin!(caught(self.export(batch)));
                    tokio::select! {
                        _ = &mut export => {}
                        until = &mut stop => {
                            let until = until.unwrap_or_else(|_| Instant::now());
                            // On a timeout, the batch is dropped and counted as lost.
                            let _ = timeout_at(until, export).await;
                            told = Some(until);
                        }
                    }
                }
                if let Some(until) = told {
                    return self.flush(until).await;
                }
            }
        }
    }

    /// Takes the next batch from the queue; `None` if the queue is empty.
    fn take(&mut self) -> Option<Vec<Finished>> {
        let mut batch = Vec::new();
        while batch.len() < self.most
            && let Ok(finished) = self.queue.try_recv()
        {
            batch.push(finished);
        }
        (!batch.is_empty()).then_some(batch)
    }

    async fn flush(&mut self, until: Instant) {
        // Later recordings are refused, and counted as lost by the sender.
        self.queue.close();
        while let Some(batch) = self.take() {
            let _ = timeout_at(until, caught(self.export(batch))).await;
        }
    }

    async fn export(&mut self, batch: Vec<Finished>) {
        let shared = Arc::clone(&self.shared);
        let spans = batch.iter().map(Finished::spans).sum();
        let mut underway = Underway { shared: &shared, spans };
        let message = match &self.form {
            Form::Otlp(resource) => otlp::request(resource, &batch, &self.ids),
            Form::Zipkin(host) => zipkin::request(host, &batch, &self.ids),
        };
        drop(batch);
        match self.deliver(message).await {
            Ok(refused) => {
                underway.spans = refused.min(spans);
                shared.exported.fetch_add(spans - underway.spans, Ordering::Relaxed);
                if refused > 0 {
                    tracing::debug!("{} refused {refused} of {spans} spans", self.collector.shown);
                }
                if std::mem::take(&mut self.failing) {
                    tracing::info!("{} accepts spans again", self.collector.shown);
                }
            }
            Err(why) => {
                // Logged once, not per batch: the metric has the number.
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!("losing spans until {} accepts them: {why}", self.collector.shown);
                }
            }
        }
    }

    /// Sends a message, with retries, until it is accepted, a retry is not allowed, or `traces.timeout` is over.
    async fn deliver(&self, message: Bytes) -> Result<u64, String> {
        let until = Instant::now() + self.timeout;
        let mut pause = PAUSE;
        loop {
            let failure = match timeout_at(until, self.collector.send(message.clone())).await {
                Ok(Ok(refused)) => return Ok(refused),
                Ok(Err(failure)) => failure,
                Err(_) => return Err("no response within traces.timeout".into()),
            };
            let ExportFailure { why, again, after } = failure;
            // Between half of the pause and all of it, so that hosts do not retry at the same moment.
            let jitter = self.ids.span() % (pause.as_millis() as u64 / 2).max(1);
            let wait = after.unwrap_or(pause / 2 + Duration::from_millis(jitter));
            // A collector may ask for any delay, also for one that overflows the clock.
            let next = Instant::now().checked_add(wait).filter(|next| again && *next < until);
            if next.is_none() {
                return Err(why);
            }
            sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }
}
