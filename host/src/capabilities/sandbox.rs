//! What the host can see of a sandbox from outside its Store, which is locked up while guest code runs.
//!
//! One allocation, shared by the Store's data, the epoch callback and the future that drives the guest. They
//! take turns on one thread, so every atomic is relaxed and no lock is ever waited for.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::Context;
use std::time::{Duration, Instant};

use wasmtime_wasi_http::{Error, WasiBody};

use crate::base::clock::Clock;
use crate::base::lock::lock;
use crate::capabilities::last_lines::LastLines;
use crate::capabilities::logged_denials::LoggedDenials;
use crate::capabilities::outbox::Outbox;
use crate::capabilities::outbox::{SendFuture, SendResult};
use crate::config::limits::Limits;
use crate::cpu::meter::CpuMeter;
use crate::error::RequestError;
use crate::service::Service;
use crate::telemetry::traces::Onward;

/// The answer's head and body as `wasi:http` made them, or the error code that the guest gave instead.
pub type GuestResponse = Result<http::Response<WasiBody>, Error>;

/// The outside of a sandbox.
pub struct Sandbox {
    /// What runs in it.
    pub service: Arc<Service>,
    /// CPU time of the current request.
    pub cpu: CpuMeter,
    /// Where the guest's answer appears.
    pub head: Mutex<Option<GuestResponse>>,
    /// The current request's body was over the limit.
    pub body_too_large: AtomicBool,
    /// The current request's client broke off in the middle of its body.
    pub body_broken: AtomicBool,
    /// The guest waits for more of the current request's body.
    pub body_awaited: AtomicBool,
    /// The tick since which it does, and the ticks that it did before.
    body_waits: [AtomicU64; 2],
    /// The tick at which the current request began.
    began: AtomicU64,
    /// The current request's body object is still held by someone.
    pub body_held: AtomicBool,
    /// Something that the guest has sent for the current request was denied.
    denied: AtomicBool,
    /// Bodies of answers to what the guest has sent, which are held by someone.
    response_bodies: AtomicUsize,
    /// Which version of it.
    pub version: Arc<str>,
    /// What was denied to this version and logged.
    pub denials: Arc<LoggedDenials>,
    output_limit: usize,
    output_rate: usize,
    output_left: AtomicUsize,
    output_dropped: AtomicUsize,
    /// What it is at work on; nothing while its start code runs.
    context: Mutex<Option<RequestContext>>,
    outbox: Outbox,
    /// Unfinished lines of stdout and stderr.
    pub(super) partial: [Mutex<Vec<u8>>; 2],
    /// The last lines that the current request has written to stderr.
    stderr: Mutex<LastLines>,
}

/// The request that a sandbox is at work on, for whatever the guest does meanwhile.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// As the caller and the log have it.
    pub request_id: Arc<str>,
    /// When its wall time is up.
    pub deadline: Instant,
    /// How many calls between services led to it; none for a client's own.
    pub depth: usize,
    /// Where it stands in its trace, for what the guest sends on.
    pub onward: Option<Onward>,
}

impl RequestContext {
    /// A client's own request, and not traced.
    pub fn new(request_id: Arc<str>, deadline: Instant) -> Self {
        Self { request_id, deadline, depth: 0, onward: None }
    }
}

impl Sandbox {
    /// The outside of a sandbox of a service, before its first request.
    pub fn new(
        service: Arc<Service>,
        (version, denials): (Arc<str>, Arc<LoggedDenials>),
        limits: &Limits,
        clock: Clock,
    ) -> Self {
        Self {
            cpu: CpuMeter::new(limits.cpu, clock, Arc::clone(&service.share)),
            service,
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
            denials,
            output_limit: limits.output,
            output_rate: limits.output_rate,
            output_left: AtomicUsize::new(limits.output),
            output_dropped: AtomicUsize::new(0),
            context: Mutex::new(None),
            outbox: Outbox::default(),
            partial: [const { Mutex::new(Vec::new()) }; 2],
            stderr: Mutex::default(),
        }
    }

    /// Gives the sandbox to a request: its id on the log lines, and full allowances. The `first` request is charged
    /// for the start code that ran for it.
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
        if !first {
            self.cpu.reset();
        }
    }

    /// The guest has asked for more of the current request's body, and must wait for it or not.
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

    /// How long the guest has waited for its client, to the tick: that is no time that the service took.
    pub fn body_wait(&self) -> Duration {
        let ([since, before], now) = (&self.body_waits, self.cpu.clock.now());
        let current = if self.body_awaited.load(Relaxed) { now.saturating_sub(since.load(Relaxed)) } else { 0 };
        self.cpu.clock.between(0, before.load(Relaxed).saturating_add(current))
    }

    /// Whether the time since the current request began is the client's fault.
    fn client_caused_timeout(&self) -> bool {
        let elapsed = self.cpu.clock.between(self.began.load(Relaxed), self.cpu.clock.now());
        client_caused_timeout(self.body_wait(), elapsed)
    }

    /// Whatever a guest makes of a body that was cut off, broke off or did not come, the cause is the body. And if it says
    /// that something was denied, and something was denied to it, that is no word on its client.
    pub fn attribute(&self, error: RequestError) -> RequestError {
        if self.has_output() {
            let lines = std::mem::take(&mut *lock(&self.stderr)).into_lines();
            self.service.record_stderr(self.request_id(), lines);
        }
        match error {
            _ if self.body_too_large.load(Relaxed) => RequestError::BodyTooLarge,
            _ if self.body_broken.load(Relaxed) => RequestError::BodyBroken,
            RequestError::WallTime if self.client_caused_timeout() => RequestError::BodyLate,
            RequestError::Guest(Error::HttpRequestDenied) if self.denied.load(Relaxed) => RequestError::OutgoingDenied,
            error => error,
        }
    }

    /// The request that has the sandbox now.
    pub fn request_id(&self) -> Arc<str> {
        lock(&self.context).as_ref().map_or_else(|| Arc::from(""), |context| Arc::clone(&context.request_id))
    }

    /// The request that has the sandbox now, if one has.
    pub fn context(&self) -> Option<RequestContext> {
        lock(&self.context).clone()
    }

    /// Something that the guest has sent on this context was denied. One that it was on before is over.
    pub fn deny(&self, context: &RequestContext) {
        let current = lock(&self.context).as_ref().is_some_and(|now| Arc::ptr_eq(&now.request_id, &context.request_id));
        self.denied.fetch_or(current, Relaxed);
    }

    /// Has what the guest sends run beside it. `depth` calls led to the guest.
    pub(super) fn send(&self, depth: usize, sending: SendFuture) -> impl Future<Output = SendResult> + Send + use<> {
        self.outbox.push(depth, sending)
    }

    /// Gives what the guest has sent its first turn. Whether something is answered already, and the guest can go on.
    pub fn poll_outgoing(&self, cx: &mut Context<'_>) -> bool {
        self.outbox.poll(cx)
    }

    /// The guest has ended, and is not kept by what it has sent.
    pub fn detach_outgoing(&self) {
        self.outbox.detach();
    }

    /// Nobody drives the guest any more; what it has sent knows it, and would keep it for ever.
    pub fn drop_outgoing(&self) {
        self.outbox.clear();
    }

    /// The body of an answer to what the guest has sent is held, for as long as this is.
    pub fn hold(self: &Arc<Self>) -> Held {
        self.response_bodies.fetch_add(1, Relaxed);
        Held(Arc::clone(self))
    }

    /// Whether a body that comes from elsewhere is still held: a 0.3 guest may answer with it, and be gone.
    pub fn holds_bodies(&self) -> bool {
        self.body_held.load(Relaxed) || self.response_bodies.load(Relaxed) > 0
    }

    /// Keeps a line of stderr for the report of a failure.
    pub(super) fn keep_stderr(&self, line: &str) {
        lock(&self.stderr).push(line);
    }

    /// How much of `wanted` bytes of output may still become log lines; the rest is counted as dropped.
    pub(super) fn take_output(&self, wanted: usize) -> usize {
        let left = self.output_left.load(Relaxed);
        let granted = self.service.take_output(wanted.min(left), self.output_rate, self.cpu.clock.elapsed());
        self.output_left.store(left - granted, Relaxed);
        if granted < wanted {
            self.output_dropped.fetch_add(wanted - granted, Relaxed);
        }
        granted
    }

    /// Whether the request has written anything.
    pub(super) fn has_output(&self) -> bool {
        self.output_left.load(Relaxed) < self.output_limit || self.output_dropped.load(Relaxed) > 0
    }

    /// Bytes of output that were dropped since the request began; asking resets it.
    pub(super) fn take_output_dropped(&self) -> usize {
        self.output_dropped.swap(0, Relaxed)
    }
}

/// Whether a request that has used up its time is its client's fault: at least half of the `elapsed` time its service has
/// `waited` for the client's body. Who waited at the last moment says nothing of that.
pub fn client_caused_timeout(waited: Duration, elapsed: Duration) -> bool {
    !waited.is_zero() && waited.saturating_mul(2) >= elapsed
}

/// Somebody holds the body of an answer to what a guest has sent.
pub struct Held(Arc<Sandbox>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.response_bodies.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
