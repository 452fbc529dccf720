//! The trace of one request while it runs: times are noted, and nothing is made of them before the request is over.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{Method, StatusCode, Uri, request};

use super::context::Context;
use super::{Finished, Sink};

/// The most spans of one request: its own and one per [`Phase`].
pub(super) const SPANS: usize = 1 + PHASES;
pub(super) const PHASES: usize = 5;

/// Reason of a trace that nobody finished: the client went away, or the host stopped.
pub(super) const CANCELLED: &str = "cancelled";

/// The steps of a request, in the order in which they begin. Each ends where the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Finding the service.
    Route,
    /// Waiting for a place.
    Queue,
    /// Getting an instance.
    Instantiate,
    /// The guest, up to the head of its answer. What it sends on is caused by this one.
    Guest,
    /// The answer's body.
    Body,
}

impl Phase {
    /// As it is called in spans and log lines.
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

/// The trace of a request; empty for one that is not recorded, and then every method is a branch and no more.
///
/// One that is dropped before it is finished is exported all the same, as `cancelled`.
#[derive(Default)]
#[must_use = "a trace that is dropped says that the request was cancelled"]
pub struct Trace(Option<Open>);

struct Open {
    sink: Arc<Sink>,
    recording: Box<Recording>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Status of the answer; `None` when [`answered`](Trace::answered) has said it, or there was none.
    pub status: Option<u16>,
    /// Why it failed, in one of a few words: [`reason`](crate::error::RequestError::reason).
    pub error: Option<&'static str>,
    /// Bytes of the request's body, when that is known.
    pub bytes_in: Option<u64>,
    /// Bytes of the answer's body that were sent.
    pub bytes_out: u64,
}

/// What a request left behind.
pub(super) struct Recording {
    /// Its place in the trace, below its caller's span.
    pub(super) context: Context,
    /// Id of the request's own span, which the phases are children of.
    pub(super) server: u64,
    /// Id of the guest's phase: it was given away in the headers.
    pub(super) guest: u64,
    pub(super) begin: Instant,
    pub(super) phases: [Option<Instant>; PHASES],
    pub(super) asked: Option<Asked>,
    pub(super) served: Option<Served>,
    pub(super) outcome: Outcome,
    pub(super) end: End,
}

/// An end by both clocks, which makes wall time of all the instants before it.
#[derive(Clone, Copy)]
pub(super) struct End(pub(super) Instant, SystemTime);

/// Who asked for what.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) client: IpAddr,
    pub(super) request_id: Arc<str>,
}

/// Who answers.
pub(super) struct Served {
    pub(super) service: Arc<str>,
    pub(super) version: Arc<str>,
    pub(super) route: Arc<str>,
}

/// A method that nobody has heard of may be as long as a head; this much of it says what it was.
const METHOD: usize = 64;

/// The method, as much of it as is kept until it is exported.
pub(super) fn short(method: &Method) -> Method {
    let start = method.as_str().as_bytes().get(..METHOD);
    start.and_then(|start| Method::from_bytes(start).ok()).unwrap_or_else(|| method.clone())
}

impl Trace {
    /// One that records nothing.
    pub const fn off() -> Self {
        Self(None)
    }

    pub(super) fn begun(sink: Arc<Sink>, recording: Recording) -> Self {
        Self(Some(Open { sink, recording: Box::new(recording) }))
    }

    /// The id that a log line may carry; `None` when there is nothing to be found under it.
    pub fn id(&self) -> Option<u128> {
        self.0.as_ref().map(|open| open.recording.context.trace_id)
    }

    /// A phase begins now, and the one before it ends.
    pub fn phase(&mut self, phase: Phase) {
        if let Some(open) = &mut self.0
            && let Some(begins) = open.recording.phases.get_mut(phase as usize)
        {
            begins.get_or_insert_with(Instant::now);
        }
    }

    /// Who asked for what. After [`normalize`](crate::proxy::headers::normalize) has made the target absolute, or there
    /// is no host and scheme in it; nothing is copied, the parts are shared.
    pub fn asked(&mut self, head: &request::Parts, client: IpAddr, request_id: &Arc<str>) {
        if let Some(open) = &mut self.0 {
            let (method, uri, request_id) = (short(&head.method), head.uri.clone(), Arc::clone(request_id));
            open.recording.asked = Some(Asked { method, uri, client, request_id });
        }
    }

    /// Which service answers, in which version, by which route: as the manifest has it, not as it was asked for.
    pub fn served(&mut self, service: &Arc<str>, version: &Arc<str>, route: &Arc<str>) {
        if let Some(open) = &mut self.0 {
            let (service, version, route) = (Arc::clone(service), Arc::clone(version), Arc::clone(route));
            open.recording.served = Some(Served { service, version, route });
        }
    }

    /// The head of the answer is made. A trace that is dropped from now on says that its answer was cut short.
    pub fn answered(&mut self, status: StatusCode) {
        if let Some(open) = &mut self.0 {
            open.recording.outcome.status = Some(status.as_u16());
        }
    }

    /// The request is over, with the last byte of its answer. Never waits: a trace that finds the queue full is lost,
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
    /// How many spans it makes.
    pub(super) fn spans(&self) -> u64 {
        1 + self.phases.iter().flatten().count() as u64
    }

    /// The phases that there were, with beginning and end.
    pub(super) fn phases(&self) -> impl Iterator<Item = (Phase, Instant, Instant)> {
        let named = [Phase::Route, Phase::Queue, Phase::Instantiate, Phase::Guest, Phase::Body];
        let all = named.into_iter().zip(self.phases).filter_map(|(phase, begin)| Some((phase, begin?)));
        let ends = self.phases.into_iter().flatten().skip(1).chain([self.end.0]);
        all.zip(ends).map(|((phase, begin), end)| (phase, begin, end))
    }
}

impl End {
    /// This moment.
    pub(super) fn now() -> Self {
        Self(Instant::now(), SystemTime::now())
    }

    /// One that is not known yet.
    pub(super) fn after(begin: Instant) -> Self {
        Self(begin, SystemTime::UNIX_EPOCH)
    }

    /// Nanoseconds since 1970 at `instant`.
    pub(super) fn wall(self, instant: Instant) -> u64 {
        let Self(end, wall) = self;
        let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let before = end.saturating_duration_since(instant);
        u64::try_from(since.saturating_sub(before).as_nanos()).unwrap_or(u64::MAX)
    }
}
