//! The part of a sandbox that the host can access from outside its Store, which is inaccessible while guest code runs.
//!
//! One allocation, shared by the Store's data, the epoch callback and the future that drives the guest. They run in
//! turn on one thread, so every atomic access is relaxed and no lock is ever contended.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::Context;
use std::time::{Duration, Instant};

use http::StatusCode;
use wasmtime_wasi_http::{Error, WasiBody};

use crate::capabilities::config::Configuration;
use crate::capabilities::held_locks::HeldLocks;
use crate::capabilities::last_lines::LastLines;
use crate::capabilities::outbox::Outbox;
use crate::capabilities::outbox::{SendFuture, SendResult};
use crate::capabilities::output_source::PartialLine;
use crate::capabilities::sandbox_version::SandboxVersion;
use crate::capabilities::waker::GuestWaker;
use crate::error::RunError;
use crate::error::panic_text::panic_text;
use lodge_base::clock::Clock;
use lodge_base::config::limits::Limits;
use lodge_base::cpu::meter::CpuMeter;
use lodge_base::lock::lock;
use lodge_base::telemetry::traces::OutboundTrace;
use lodge_traffic::admission::client_caused_timeout;
use lodge_traffic::proxy::body::BodyError;
use lodge_traffic::service::Service;

/// The guest's response, or the `wasi:http` error code that it returned instead.
pub type HandlerResult = Result<http::Response<WasiBody>, Error>;

/// The shared state of a sandbox.
pub struct Sandbox {
    /// The service that runs in the sandbox.
    pub service: Arc<Service>,
    /// The CPU time of the current request.
    pub cpu: CpuMeter,
    /// Wakes the task that waits for the guest.
    pub waker: Arc<GuestWaker>,
    /// The guest's response, once there is one.
    pub head: Mutex<Option<HandlerResult>>,
    /// The current request's body was over the limit.
    pub body_too_large: AtomicBool,
    /// The current request's client broke off in the middle of its body.
    pub body_broken: AtomicBool,
    /// The guest waits for more of the current request's body.
    pub body_awaited: AtomicBool,
    /// The tick at which the present wait began, and the ticks of earlier waits.
    body_waits: [AtomicU64; 2],
    /// The tick at which the current request began.
    began: AtomicU64,
    /// The current request's body object still exists.
    pub body_held: AtomicBool,
    /// An outgoing request for the current request was denied.
    denied: AtomicBool,
    /// The number of bodies of responses to outgoing requests that still exist.
    response_bodies: AtomicUsize,
    /// The service's version.
    pub version: Arc<SandboxVersion>,
    /// The configuration, whose secrets are masked in logs.
    pub(super) config: Option<Arc<Configuration>>,
    output_limit: usize,
    output_rate: usize,
    output_left: AtomicUsize,
    output_dropped: AtomicUsize,
    /// The current request; `None` while start code runs.
    context: Mutex<Option<RequestContext>>,
    /// Operations that the current request has recorded as spans.
    recorded: AtomicUsize,
    outbox: Outbox,
    /// The locks of the current request.
    pub(super) locks: HeldLocks,
    /// Incomplete lines of stdout and stderr.
    pub(super) partial: Mutex<Vec<PartialLine>>,
    /// The last lines that the current request wrote to stderr.
    stderr: Mutex<LastLines>,
}

/// The most operations on state, and messages, that a request records as spans.
const OPERATION_SPANS: usize = 64;

/// The request on which a sandbox works, for whatever the guest does meanwhile.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The request id, as the client and the log have it.
    pub request_id: Arc<str>,
    /// When the request's wall time is used up.
    pub deadline: Instant,
    /// The number of calls between services that led to the request; 0 for a client's own request.
    pub depth: usize,
    /// The request's position in its trace, for outgoing requests.
    pub onward: Option<Arc<OutboundTrace>>,
}

impl RequestContext {
    /// Returns the context of a client's own request that is not traced.
    pub fn new(request_id: Arc<str>, deadline: Instant) -> Self {
        Self { request_id, deadline, depth: 0, onward: None }
    }
}

impl Sandbox {
    /// Returns the state of a sandbox before its first request.
    pub fn new(
        service: Arc<Service>,
        version: Arc<SandboxVersion>,
        limits: &Limits,
        clock: Clock,
        config: Option<Arc<Configuration>>,
    ) -> Self {
        Self {
            cpu: CpuMeter::new(limits.cpu, clock, Arc::clone(&service.share)),
            service,
            waker: Arc::default(),
            head: Mutex::new(None),
            body_too_large: AtomicBool::new(false),
            body_broken: AtomicBool::new(false),
            body_awaited: AtomicBool::new(false),
            body_waits: Default::default(),
            began: AtomicU64::new(0),
            body_held: AtomicBool::new(false),
            denied: AtomicBool::new(false),
            response_bodies: AtomicUsize::new(0),
            version,
            config,
            output_limit: limits.output,
            output_rate: limits.output_rate,
            output_left: AtomicUsize::new(limits.output),
            output_dropped: AtomicUsize::new(0),
            context: Mutex::new(None),
            recorded: AtomicUsize::new(0),
            outbox: Outbox::default(),
            locks: HeldLocks::default(),
            partial: Mutex::default(),
            stderr: Mutex::default(),
        }
    }

    /// Starts a request: sets its context and resets all allowances. The `first` request is charged for the start code
    /// that ran for it.
    pub fn begin(&self, context: RequestContext, first: bool) {
        *lock(&self.context) = Some(context);
        *lock(&self.head) = None;
        if !first && self.has_output() {
            *lock(&self.stderr) = LastLines::default();
        }
        self.output_left.store(self.output_limit, Relaxed);
        self.output_dropped.store(0, Relaxed);
        self.body_too_large.store(false, Relaxed);
        self.body_broken.store(false, Relaxed);
        self.body_awaited.store(false, Relaxed);
        self.body_waits.iter().for_each(|ticks| ticks.store(0, Relaxed));
        self.began.store(self.cpu.clock.now(), Relaxed);
        self.body_held.store(true, Relaxed);
        self.denied.store(false, Relaxed);
        self.recorded.store(0, Relaxed);
        if !first {
            self.cpu.reset();
        }
    }

    /// Records whether the guest waits for more of the current request's body.
    pub fn set_body_waiting(&self, waits: bool) {
        let [since, before] = &self.body_waits;
        match (self.body_awaited.load(Relaxed), waits) {
            (false, true) => since.store(self.cpu.clock.now(), Relaxed),
            (true, false) => {
                let ticks = self.cpu.clock.now().saturating_sub(since.load(Relaxed));
                before.fetch_add(ticks, Relaxed);
            }
            _ => return,
        }
        self.body_awaited.store(waits, Relaxed);
    }

    /// Returns how long the guest waited for the client's body, to the tick. This is not part of the service's response
    /// time.
    pub fn body_wait(&self) -> Duration {
        let ([since, before], now) = (&self.body_waits, self.cpu.clock.now());
        let current = if self.body_awaited.load(Relaxed) { now.saturating_sub(since.load(Relaxed)) } else { 0 };
        self.cpu.clock.between(0, before.load(Relaxed).saturating_add(current))
    }

    /// Whether the client is at fault if the current request has used up its time.
    fn client_caused_timeout(&self) -> bool {
        let elapsed = self.cpu.clock.between(self.began.load(Relaxed), self.cpu.clock.now());
        client_caused_timeout(self.body_wait(), elapsed)
    }

    /// Returns the error to report. If the request body was over the limit, aborted or late, that is reported instead
    /// of the guest's own error. If the guest reports `HTTP-request-denied` after one of its own requests was denied,
    /// the missing grant is reported, not a client error.
    pub fn attribute(&self, mut error: RunError) -> RunError {
        if self.has_output() {
            let lines = std::mem::take(&mut *lock(&self.stderr)).into_lines();
            if let RunError::Trapped(trap) = &mut error {
                trap.panic = panic_text(&lines);
            }
            self.service.record_stderr(self.request_id(), lines);
        }
        match error {
            _ if self.body_too_large.load(Relaxed) => BodyError::TooLarge.into(),
            _ if self.body_broken.load(Relaxed) => BodyError::Broken.into(),
            RunError::WallTime if self.client_caused_timeout() => BodyError::Late.into(),
            RunError::Reported(code) if code.status == StatusCode::FORBIDDEN && self.denied.load(Relaxed) => {
                RunError::OutgoingDenied
            }
            error => error,
        }
    }

    /// Returns the id of the current request; empty without one.
    pub fn request_id(&self) -> Arc<str> {
        lock(&self.context).as_ref().map_or_else(|| Arc::from(""), |context| Arc::clone(&context.request_id))
    }

    /// Returns the trace of the current request, if it is recorded.
    pub(super) fn recorded_trace(&self) -> Option<Arc<OutboundTrace>> {
        lock(&self.context).as_ref()?.onward.clone().filter(|trace| trace.is_recorded())
    }

    /// Returns the trace for the span of an operation, if the current request is recorded and has few of them.
    pub fn operation_trace(&self) -> Option<Arc<OutboundTrace>> {
        let trace = self.recorded_trace()?;
        (self.recorded.fetch_add(1, Relaxed) < OPERATION_SPANS).then_some(trace)
    }

    /// Returns when the wall time of the current request is used up; `None` without a request.
    pub(super) fn deadline(&self) -> Option<Instant> {
        lock(&self.context).as_ref().map(|context| context.deadline)
    }

    /// Returns when an operation that begins now must end: after `timeout`, and in nine tenths of the time that the request has
    /// left, so that the guest can still respond that it failed.
    pub(super) fn operation_deadline(&self, timeout: Duration) -> Instant {
        let now = Instant::now();
        let left = self.deadline().map(|deadline| deadline.saturating_duration_since(now).mul_f32(0.9));
        now + left.map_or(timeout, |left| timeout.min(left))
    }

    /// Returns the context of the current request, if there is one.
    pub fn context(&self) -> Option<RequestContext> {
        lock(&self.context).clone()
    }

    /// Records that an outgoing request of this context was denied, unless that request is not the current one any
    /// more.
    pub fn deny(&self, context: &RequestContext) {
        let current = lock(&self.context).as_ref().is_some_and(|now| Arc::ptr_eq(&now.request_id, &context.request_id));
        self.denied.fetch_or(current, Relaxed);
    }

    /// Queues an outgoing request of the guest, to which `depth` calls led: see [`Outbox`].
    pub(super) fn send(&self, depth: usize, sending: SendFuture) -> impl Future<Output = SendResult> + Send + use<> {
        self.outbox.push(depth, sending)
    }

    /// Polls the outgoing requests for the first time. Returns whether a response arrived and the guest can go on.
    pub fn poll_outgoing(&self, cx: &mut Context<'_>) -> bool {
        self.outbox.poll(cx)
    }

    /// Spawns the queued outgoing requests after the guest has ended, so that it does not have to stay for them.
    pub fn detach_outgoing(&self) {
        self.outbox.detach();
    }

    /// Drops the queued outgoing requests when nothing drives the guest any more. They refer to the sandbox and would
    /// keep it alive for ever.
    pub fn drop_outgoing(&self) {
        self.outbox.clear();
    }

    /// Releases the locks of the request when nothing drives the guest any more.
    pub fn release_locks(&self) {
        self.locks.release();
    }

    /// Counts the body of a response to an outgoing request for as long as the returned guard exists.
    pub fn hold_response_body(self: &Arc<Self>) -> BodyGuard {
        self.response_bodies.fetch_add(1, Relaxed);
        BodyGuard(Arc::clone(self))
    }

    /// Whether a body from outside still exists. A 0.3 guest may respond with such a body and end.
    pub fn holds_bodies(&self) -> bool {
        self.body_held.load(Relaxed) || self.response_bodies.load(Relaxed) > 0
    }

    /// Keeps a line of stderr for the report of a failure.
    pub(super) fn keep_stderr(&self, line: &str) {
        lock(&self.stderr).push(line);
    }

    /// Returns how many of `wanted` bytes of output may become log lines; the rest is counted as dropped.
    pub(super) fn take_output(&self, wanted: usize) -> usize {
        let left = self.output_left.load(Relaxed);
        let granted = self.service.take_output(wanted.min(left), self.output_rate, self.cpu.clock.elapsed());
        self.output_left.store(left - granted, Relaxed);
        if granted < wanted {
            self.output_dropped.fetch_add(wanted - granted, Relaxed);
        }
        granted
    }

    /// Whether the request has written any output.
    pub(super) fn has_output(&self) -> bool {
        self.output_left.load(Relaxed) < self.output_limit || self.output_dropped.load(Relaxed) > 0
    }

    /// Returns the bytes of output that were dropped since the request began, and resets the count.
    pub(super) fn take_output_dropped(&self) -> usize {
        self.output_dropped.swap(0, Relaxed)
    }
}

/// A guard for the body of a response to an outgoing request.
pub struct BodyGuard(Arc<Sandbox>);

impl Drop for BodyGuard {
    fn drop(&mut self) {
        self.0.response_bodies.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
