//! Distributed tracing: every request is a span with a child for each of its steps, in the trace that its caller began,
//! and the guest is told where it stands so that what it sends on is part of it too.
//!
//! Off by default, and then free: no header is looked at, no clock is read, nothing is allocated. A request that is not
//! sampled gets its headers and nothing else. For one that is, the request path notes ids and times and puts them into
//! a bounded queue without ever waiting; a task makes spans of them and sends those. A collector that is down, slow or
//! refusing costs spans, which are counted, and no request.
//!
//! # Order
//!
//! [`Tracer::begin`] with the headers, [`asked`](Trace::asked) when the head is read, [`phase`](Trace::phase) at every
//! step, [`served`](Trace::served) when there is a service, [`answered`](Trace::answered) with the head of the answer,
//! [`finish`](Trace::finish) after the last byte.
//!
//! What is sent on meanwhile, to the world or to a replica, has a span of its own ([`Onward`]), which goes to the
//! collector by itself: it may be over before its request is, or after.
//!
//! # Dependencies
//!
//! Spans are not made by the OpenTelemetry SDK. It builds every span, attribute by attribute, on the thread of the
//! request, its Zipkin exporter is deprecated, and with tonic it brings two dozen crates. What is left of OTLP without
//! it is a dozen small messages, written down for `prost` (`otlp.rs`), and one POST (`collect.rs`) by hyper's client, which
//! Zipkin and gRPC share. TLS is rustls with ring. In the tests the collector is the official one.

mod client;
mod collect;
pub mod context;
mod export;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod onward;
mod otlp;
mod sample;
mod span;
mod trace;
mod zipkin;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::HeaderMap;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::base::ids::Ids;
use crate::config::traces::{Exporter, Traces};
use client::Sent;
pub use client::{ClientSpan, Origin};
use collect::Collector;
use context::{Context, RECORDED};
use export::{Export, Shared};
pub use onward::Onward;
use sample::Sampler;
use trace::{End, PHASES, Recording};
pub use trace::{Outcome, Phase, Trace};

/// How much longer than its deadline a stop waits for a task that should have ended by itself.
const SLACK: Duration = Duration::from_millis(200);

/// Begins traces. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

struct Inner {
    sampler: Sampler,
    ids: Arc<Ids>,
    sink: Arc<Sink>,
}

/// What makes spans.
enum Finished {
    /// A request: its own, and one per phase.
    Request(Box<Recording>),
    /// One that was sent on.
    Sent(Box<Sent>),
}

/// Where it goes.
struct Sink {
    queue: mpsc::Sender<Finished>,
    shared: Arc<Shared>,
    /// Places left in the queue when there is enough in it for a batch.
    enough: usize,
}

/// The task that exports; to be shut down when the last request is over.
#[derive(Default)]
#[must_use = "dropping it loses what is not exported yet"]
pub struct Exporting(Option<(oneshot::Sender<tokio::time::Instant>, JoinHandle<()>)>);

impl Tracer {
    /// One that traces nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// As the settings say. To be called inside of the runtime, which the exporting task then runs on; that the
    /// collector can be reached is not waited for.
    ///
    /// # Errors
    /// One line that names the key, when the collector's certificate could never be checked.
    pub fn start(traces: &Traces) -> Result<(Self, Exporting), String> {
        if traces.exporter == Exporter::Off {
            return Ok((Self::off(), Exporting(None)));
        }
        Ok(Self::exporting(traces, Collector::new(traces)?))
    }

    fn exporting(traces: &Traces, collector: Collector) -> (Self, Exporting) {
        let (places, most) = export::sizes(traces);
        let (queue, taken) = mpsc::channel(places);
        let (shared, ids) = (Arc::<Shared>::default(), Arc::new(Ids::new()));
        let callers = if traces.follow_parent { ", and those that their callers trace" } else { "" };
        tracing::info!("traces go to {}: {} % of requests{callers}", collector.shown, traces.sample * 100.0);
        let export = Export::new(traces, taken, collector, Arc::clone(&shared), Arc::clone(&ids));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(export.run(stopped));
        // At half of the queue at the latest, so that there is room while the batch is sent.
        let enough = places - most.min(places.div_ceil(2));
        let inner = Inner { sampler: Sampler::new(traces), ids, sink: Arc::new(Sink { queue, shared, enough }) };
        (Self(Some(Arc::new(inner))), Exporting(Some((stop, task))))
    }

    /// Whether there is anything to trace for.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A request begins: its place in a trace is read from its headers, or made, and its guest is told so in the same
    /// headers. Without a tracer they are left as they are.
    pub fn begin(&self, headers: &mut HeaderMap) -> Trace {
        let Some(inner) = &self.0 else { return Trace::off() };
        let (found, form) = context::read(headers);
        let mut context = found.unwrap_or_else(|| Context::root(inner.ids.trace(), form));
        if context.trace_id == 0 {
            context.trace_id = inner.ids.trace();
        }
        let records = inner.sampler.records(&context);
        context.flags = if records { context.flags | RECORDED } else { context.flags & !RECORDED };
        let guest = inner.ids.span();
        context.inject(headers, guest);
        if !records {
            return Trace::off();
        }
        let now = Instant::now();
        let recording = Recording {
            context,
            server: inner.ids.span(),
            guest,
            begin: now,
            phases: [None; PHASES],
            asked: None,
            served: None,
            outcome: Outcome::default(),
            end: End::after(now),
        };
        Trace::begun(Arc::clone(&inner.sink), recording)
    }

    /// What a guest whose request has these headers sends on, sampled or not; `None` when nothing is traced.
    pub fn onward(&self, headers: &HeaderMap) -> Option<Onward> {
        self.0.as_ref().and_then(|inner| Onward::of(headers, inner))
    }

    /// Spans that the collector has taken, since the start.
    pub fn exported(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.sink.shared.exported.load(Ordering::Relaxed))
    }

    /// Spans that were recorded and lost, since the start.
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.sink.shared.dropped.load(Ordering::Relaxed))
    }
}

impl Finished {
    /// How many it makes.
    fn spans(&self) -> u64 {
        match self {
            Self::Request(recording) => recording.spans(),
            Self::Sent(_) => 1,
        }
    }
}

impl Sink {
    /// Takes what is finished, or counts it as lost.
    fn push(&self, finished: Finished) {
        if let Err(refused) = self.queue.try_send(finished) {
            let spans = refused.into_inner().spans();
            self.shared.dropped.fetch_add(spans, Ordering::Relaxed);
        } else if self.queue.capacity() <= self.enough {
            self.shared.full.notify_one();
        }
    }
}

impl Exporting {
    /// Exports what is queued, for as long as `within`; what is left then is lost, and counted. To be called when no
    /// request runs any more: traces that are finished after this are lost.
    pub async fn shutdown(self, within: Duration) {
        let Some((stop, task)) = self.0 else { return };
        let until = tokio::time::Instant::now() + within;
        let abort = task.abort_handle();
        if stop.send(until).is_ok() && tokio::time::timeout_at(until + SLACK, task).await.is_err() {
            abort.abort();
        }
    }
}

#[cfg(test)]
mod tests;
