//! The trace of a request in progress: records ids and times. Spans are made after the request is finished.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{Method, StatusCode, Uri, request};

use super::context::Context;
use super::{Finished, Sink};

/// The most spans of one request: its own and one per [`Phase`].
pub(super) const SPANS: usize = 1 + PHASES;
pub(super) const PHASES: usize = 5;

/// Reason of a trace that was dropped: the client disconnected, or the host stopped.
pub(super) const CANCELLED: &str = "cancelled";

/// The phases of a request, in order. Each ends when the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Routing.
    Route,
    /// Waiting for a slot.
    Queue,
    /// Creating or taking an instance.
    Instantiate,
    /// The guest, up to its response head. Requests that it sends are children of this phase.
    Guest,
    /// Sending the response body.
    Body,
}

impl Phase {
    /// The name in spans and log lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Queue => "queue",
            Self::Instantiate => "instantiate",
            Self::Guest => "guest",
            Self::Body => "body",
        }
    }
}

/// The trace of a request; empty if it is not recorded, and then every method costs only a branch.
///
/// A trace that is dropped before it is finished is exported as `cancelled`.
#[derive(Default)]
#[must_use = "a trace that is dropped says that the request was cancelled"]
pub struct Trace(Option<Open>);

struct Open {
    sink: Arc<Sink>,
    recording: Box<Recording>,
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// The status of the response; `None` if [`set_status`](Trace::set_status) has set it or there was no response.
    pub status: Option<u16>,
    /// The reason of a failure, a constant: `RequestError::reason`.
    pub error: Option<&'static str>,
    /// Bytes of the request body, if known.
    pub bytes_in: Option<u64>,
    /// Bytes of the response body that were sent.
    pub bytes_out: u64,
}

/// The recording of a request.
pub(super) struct Recording {
    /// Its trace context, with the caller's span as parent.
    pub(super) context: Context,
    /// The id of the request's own span, the parent of the phases.
    pub(super) server: u64,
    /// The span id of the guest phase, which the guest got in its headers.
    pub(super) guest: u64,
    pub(super) begin: Instant,
    pub(super) phases: [Option<Instant>; PHASES],
    pub(super) asked: Option<RequestAttributes>,
    pub(super) served: Option<ServiceAttributes>,
    pub(super) outcome: Outcome,
    pub(super) end: End,
}

/// The end of a recording by both clocks, from which the wall time of earlier instants is computed.
#[derive(Clone, Copy)]
pub(super) struct End(pub(super) Instant, SystemTime);

/// Attributes of a request.
pub(super) struct RequestAttributes {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) client: IpAddr,
    pub(super) request_id: Arc<str>,
}

/// Attributes of the service that handles it.
pub(super) struct ServiceAttributes {
    pub(super) service: Arc<str>,
    pub(super) version: Arc<str>,
    pub(super) route: Arc<str>,
}

/// The most bytes of a method that are recorded. A client can send a method of any length up to that of a head.
const METHOD: usize = 64;

/// Returns the method, shortened for the recording.
pub(super) fn short(method: &Method) -> Method {
    let start = method.as_str().as_bytes().get(..METHOD);
    start.and_then(|start| Method::from_bytes(start).ok()).unwrap_or_else(|| method.clone())
}

impl Trace {
    /// Returns a trace that records nothing.
    pub const fn off() -> Self {
        Self(None)
    }

    pub(super) fn begun(sink: Arc<Sink>, recording: Recording) -> Self {
        Self(Some(Open { sink, recording: Box::new(recording) }))
    }

    /// The trace id for log lines; `None` if the trace is not recorded.
    pub fn id(&self) -> Option<u128> {
        self.0.as_ref().map(|open| open.recording.context.trace_id)
    }

    /// Begins a phase, which ends the one before.
    pub fn phase(&mut self, phase: Phase) {
        if let Some(open) = &mut self.0
            && let Some(begins) = open.recording.phases.get_mut(phase as usize)
        {
            begins.get_or_insert_with(Instant::now);
        }
    }

    /// Records the request. Call it after `proxy::headers::normalize`, which makes the target
    /// absolute; else the span has neither host nor scheme. Shares the parts of the head and copies nothing.
    pub fn set_request(&mut self, head: &request::Parts, client: IpAddr, request_id: &Arc<str>) {
        if let Some(open) = &mut self.0 {
            let (method, uri, request_id) = (short(&head.method), head.uri.clone(), Arc::clone(request_id));
            open.recording.asked = Some(RequestAttributes { method, uri, client, request_id });
        }
    }

    /// Records service, version and route. The route is the text of the manifest, not the path of the request.
    pub fn set_service(&mut self, service: &Arc<str>, version: &Arc<str>, route: &Arc<str>) {
        if let Some(open) = &mut self.0 {
            let (service, version, route) = (Arc::clone(service), Arc::clone(version), Arc::clone(route));
            open.recording.served = Some(ServiceAttributes { service, version, route });
        }
    }

    /// Records the status. If the trace is dropped after this, its response counts as aborted.
    pub fn set_status(&mut self, status: StatusCode) {
        if let Some(open) = &mut self.0 {
            open.recording.outcome.status = Some(status.as_u16());
        }
    }

    /// Finishes the trace after the last byte of the response. Never waits: if the queue is full, the trace is lost,
    /// and counted.
    pub fn finish(mut self, outcome: Outcome) {
        self.close(|| outcome);
    }

    fn close(&mut self, outcome: impl FnOnce() -> Outcome) {
        if let Some(Open { sink, mut recording }) = self.0.take() {
            let status = recording.outcome.status;
            recording.outcome = outcome();
            recording.outcome.status = recording.outcome.status.or(status);
            recording.end = End::now();
            sink.push(Finished::Request(recording));
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.close(|| Outcome { error: Some(CANCELLED), ..Outcome::default() });
    }
}

impl Recording {
    /// Number of its spans.
    pub(super) fn spans(&self) -> u64 {
        1 + self.phases.iter().flatten().count() as u64
    }

    /// Returns the recorded phases with begin and end.
    pub(super) fn phases(&self) -> impl Iterator<Item = (Phase, Instant, Instant)> {
        let named = [Phase::Route, Phase::Queue, Phase::Instantiate, Phase::Guest, Phase::Body];
        let all = named.into_iter().zip(self.phases).filter_map(|(phase, begin)| Some((phase, begin?)));
        let ends = self.phases.into_iter().flatten().skip(1).chain([self.end.0]);
        all.zip(ends).map(|((phase, begin), end)| (phase, begin, end))
    }
}

impl End {
    /// Returns the current time by both clocks.
    pub(super) fn now() -> Self {
        Self(Instant::now(), SystemTime::now())
    }

    /// Returns a placeholder for an end that is not known yet.
    pub(super) fn after(begin: Instant) -> Self {
        Self(begin, SystemTime::UNIX_EPOCH)
    }

    /// Returns the wall time of `instant` in nanoseconds since 1970.
    pub(super) fn wall(self, instant: Instant) -> u64 {
        let Self(end, wall) = self;
        let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let before = end.saturating_duration_since(instant);
        u64::try_from(since.saturating_sub(before).as_nanos()).unwrap_or(u64::MAX)
    }
}
