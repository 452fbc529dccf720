//! The task that takes finished traces out of the queue and hands them on in batches.
//!
//! It looks at the queue once in a while and when a batch is full, so only the request that fills one has to wake it
//! up. A batch is exported, or lost and counted, within `traces.timeout`; nobody waits for that.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::collect::{Collector, Failure};
use super::otlp::{self, Resource};
use super::trace::SPANS;
use super::{Finished, zipkin};
use crate::base::ids::Ids;
use crate::base::lasting::caught;
use crate::config::traces::{Exporter, Traces};

/// The first pause before a batch is sent again; it doubles.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const PAUSE_MOST: Duration = Duration::from_secs(5);

/// What requests and the exporting task share.
#[derive(Default)]
pub(super) struct Shared {
    /// Spans that a collector has taken.
    pub(super) exported: AtomicU64,
    /// Spans that were recorded and lost.
    pub(super) dropped: AtomicU64,
    /// A batch is full.
    pub(super) full: Notify,
}

/// The task, before it runs.
pub(super) struct Export {
    queue: mpsc::Receiver<Finished>,
    collector: Collector,
    form: Form,
    shared: Arc<Shared>,
    ids: Arc<Ids>,
    /// Requests of one batch, or what else makes a span.
    most: usize,
    delay: Duration,
    timeout: Duration,
    /// The last batch was lost, and the log knows.
    failing: bool,
}

enum Form {
    Otlp(Resource),
    Zipkin(Vec<(String, String)>),
}

/// Spans on their way; lost, unless somebody says otherwise.
struct Underway<'a> {
    shared: &'a Shared,
    spans: u64,
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        self.shared.dropped.fetch_add(self.spans, Ordering::Relaxed);
    }
}

/// Requests that the queue holds, and those of one batch, by the numbers of spans that the settings have. What makes a
/// single span takes the place of one.
pub(super) fn sizes(traces: &Traces) -> (usize, usize) {
    let queue = (traces.queue / SPANS).max(1);
    (queue, (traces.batch / SPANS).clamp(1, queue))
}

impl Export {
    /// Takes from `queue` and gives to `collector`.
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

    /// Exports until it is told until when it may go on, and then what there is, until then.
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
                    // A panic costs its batch, which is counted as lost.
                    let mut export = pin!(caught(self.export(batch)));
                    tokio::select! {
                        _ = &mut export => {}
                        until = &mut stop => {
                            let until = until.unwrap_or_else(|_| Instant::now());
                            // What it does not manage it counts.
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

    /// The next batch, as large as there is something for.
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
        // What comes now is refused, and counted by who brings it.
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
                    tracing::info!("spans arrive at {} again", self.collector.shown);
                }
            }
            Err(why) => {
                // Once, not per batch: the counter tells how many.
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!("spans are lost until {} takes them: {why}", self.collector.shown);
                }
            }
        }
    }

    /// Sends until it has arrived, may not be sent again, or time is up.
    async fn deliver(&self, message: Bytes) -> Result<u64, String> {
        let until = Instant::now() + self.timeout;
        let mut pause = PAUSE;
        loop {
            let failure = match timeout_at(until, self.collector.send(message.clone())).await {
                Ok(Ok(refused)) => return Ok(refused),
                Ok(Err(failure)) => failure,
                Err(_) => return Err("traces.timeout is over, and it has not answered".into()),
            };
            let Failure { why, again, after } = failure;
            // Between half of the pause and all of it, so that hosts which failed together do not come back together.
            let jitter = self.ids.span() % (pause.as_millis() as u64 / 2).max(1);
            let wait = after.unwrap_or(pause / 2 + Duration::from_millis(jitter));
            // A collector may ask for any wait, also for one that no clock has.
            let next = Instant::now().checked_add(wait).filter(|next| again && *next < until);
            if next.is_none() {
                return Err(why);
            }
            sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }
}
