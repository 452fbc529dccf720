//! Distributed tracing: every request is a span with a child span per phase, in the trace of its caller. The guest gets
//! the trace context in its request headers, so that the requests that it sends belong to the same trace.
//!
//! Off by default, and then without cost: no header is read, no clock is read, nothing is allocated. A request that is
//! not sampled only gets its headers. For a sampled one the request path records ids and times and puts them into a
//! bounded queue without waiting; a task converts them into spans and exports those. A collector that is down, slow or
//! refusing loses spans, which are counted, and never affects a request.
//!
//! # Order
//!
//! [`Tracer::begin`] with the headers, [`set_request`](Trace::set_request) when the head is read, [`phase`](Trace::phase) at the
//! begin of every phase, [`set_service`](Trace::set_service) when the service is known, [`set_status`](Trace::set_status) with the
//! response head, [`finish`](Trace::finish) after the last byte.
//!
//! A request that is sent meanwhile, to the world or to a replica, has its own span ([`OutboundTrace`]), which is exported
//! separately, because it may end before or after its parent. So has an operation on state, and a message that is sent
//! ([`OperationSpan`]).
//!
//! # Dependencies
//!
//! This module does not use the OpenTelemetry SDK, which builds every span, attribute by attribute, on the thread of
//! the request, whose Zipkin exporter is deprecated, and which brings two dozen crates with tonic. Without it, OTLP is
//! a dozen small messages for `prost` (`otlp.rs`) and a POST by hyper's client (`collect.rs`), which Zipkin and gRPC
//! share. TLS is rustls with ring. The tests use the official collector service definitions.

mod client;
mod collect;
pub mod context;
mod export;
#[doc(hidden)]
pub mod fuzz;
mod guest_span;
mod onward;
mod operation;
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

use crate::config::traces::{Exporter, Traces};
use crate::ids::Ids;
use client::Sent;
pub use client::{ClientSpan, ServerAddress};
use collect::Collector;
use context::{Context, RECORDED};
use export::{Export, Shared};
pub use guest_span::{AttributeValue, Attributes, GuestEvent, GuestLink, GuestSpan, GuestSpanKind, GuestSpanStatus};
pub use onward::OutboundTrace;
use operation::Operated;
pub use operation::{OperationObject, OperationSpan};
use sample::Sampler;
use trace::{End, PHASES, Recording};
pub use trace::{Outcome, Phase, Trace};

/// Time after the deadline of a shutdown before the exporting task is aborted.
const SLACK: Duration = Duration::from_millis(200);

/// Starts traces. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

struct Inner {
    sampler: Sampler,
    ids: Arc<Ids>,
    sink: Arc<Sink>,
}

/// A finished recording, from which spans are made.
enum Finished {
    /// A request, with a span of its own and one per phase.
    Request(Box<Recording>),
    /// A request that was sent to the world or to a replica.
    Sent(Box<Sent>),
    /// An operation of a guest on what its service has beside itself.
    Operated(Box<Operated>),
    /// A span of a guest.
    Guest(Box<(Context, GuestSpan)>),
}

/// The queue of finished recordings.
struct Sink {
    queue: mpsc::Sender<Finished>,
    shared: Arc<Shared>,
    /// Free places in the queue at which it contains enough for a batch.
    enough: usize,
}

/// A handle of the exporting task. Shut it down after the last request.
#[derive(Default)]
#[must_use = "dropping it loses what is not exported yet"]
pub struct Exporting(Option<(oneshot::Sender<tokio::time::Instant>, JoinHandle<()>)>);

impl Tracer {
    /// Returns a tracer that records nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// Starts a tracer with these settings. Call it inside a tokio runtime, on which the exporting task runs. Does not
    /// wait for a connection to the collector.
    ///
    /// # Errors
    /// One line that names the key, if the collector's certificate could not be verified.
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
        // At most half of the queue, so that there is room while the batch is sent.
        let enough = places - most.min(places.div_ceil(2));
        let inner = Inner { sampler: Sampler::new(traces), ids, sink: Arc::new(Sink { queue, shared, enough }) };
        (Self(Some(Arc::new(inner))), Exporting(Some((stop, task))))
    }

    /// Whether tracing is on.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins the trace of a request: reads the trace context from its headers or creates one, and writes the context
    /// for the guest into the same headers. If tracing is off, the headers stay unchanged.
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

    /// Returns the trace context for requests that are sent on behalf of a request with these headers, sampled or not.
    /// `None` if tracing is off.
    pub fn onward(&self, headers: &HeaderMap) -> Option<OutboundTrace> {
        self.0.as_ref().and_then(|inner| OutboundTrace::of(headers, inner))
    }

    /// Spans that the collector has accepted since the start.
    pub fn exported(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.sink.shared.exported.load(Ordering::Relaxed))
    }

    /// Spans that were recorded and lost since the start.
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.sink.shared.dropped.load(Ordering::Relaxed))
    }
}

impl Finished {
    /// Number of its spans.
    fn spans(&self) -> u64 {
        match self {
            Self::Request(recording) => recording.spans(),
            Self::Sent(_) | Self::Operated(_) | Self::Guest(_) => 1,
        }
    }
}

impl Sink {
    /// Queues a recording of what guests do at will, if at least half of the queue is free: the rest is for requests, of every
    /// service. Returns whether there was room.
    fn push_from_guest(&self, finished: Finished) -> bool {
        let room = self.queue.capacity() > self.queue.max_capacity() / 2;
        if room {
            self.push(finished);
        } else {
            self.shared.dropped.fetch_add(finished.spans(), Ordering::Relaxed);
        }
        room
    }

    /// Queues a recording. If the queue is full, counts its spans as lost.
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
    /// Exports the queue for at most `within`; spans that remain are lost, and counted. Call it when no request runs
    /// any more: traces that finish later are lost.
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
