//! A sandbox that runs a guest: the only file that drives a Store. Hides the difference between `wasi:http` 0.2 and
//! 0.3.
//!
//! The guest's future owns the Store and is polled by the reader of its response: first for the head, then for each
//! frame of the body. No task, queue or channel is involved, and dropping the response cancels the guest.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http::uri::Scheme;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Sleep;
use wasmtime::{AsContextMut, Store, UpdateDeadline};
use wasmtime_wasi_http::handler::Proxy;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme as P2Scheme;
use wasmtime_wasi_http::{WasiHttpView, p2, p3};

use super::body::{LimitedBody, RequestBody};
use super::compile::Compiled;
use crate::capabilities::handles::{TOO_MANY_HANDLES, is_full};
use crate::capabilities::http::Sender;
use crate::capabilities::messaging::MessageDelivery;
use crate::capabilities::sandbox::{RequestContext, Sandbox};
use crate::capabilities::sandbox_version::SandboxVersion;
use crate::capabilities::{Ctx, State, stdio};
use crate::error::RunError;
use crate::error::backtrace::frames;
use crate::exports::{self, Exports};
use lodge_base::clock::Clock;
use lodge_base::cpu::meter::TickAction;
use lodge_base::cpu::scheduler::{CpuSlot, LongRunning};
use lodge_base::lock::lock;
use lodge_traffic::service::deployment::Deployment;

/// What all instances of a version have in common, besides their machine code.
pub struct Blueprint {
    pub(super) deployment: Arc<Deployment>,
    pub(super) sender: Arc<dyn Sender>,
    pub(super) version: Arc<SandboxVersion>,
    /// What the service has beside itself.
    pub(super) state: State,
    /// The clock of the engines.
    pub(super) clock: Clock,
}

/// A Store with one instance. Limits of memory, tables, stack, CPU and wall time are set before guest code runs.
pub struct Instance {
    store: Store<Ctx>,
    exports: Exports,
    baseline: bool,
    uses: u32,
    /// Its permit to be idle, from the first time that it is.
    idle: Option<OwnedSemaphorePermit>,
    /// Its extra units of the engine's pool. Dropped after the Store.
    extra: Option<OwnedSemaphorePermit>,
}

/// A guest that handles a request, in a future that owns its Store.
pub(super) type RunningGuest = Guarded<Pin<Box<dyn Future<Output = EndedGuest> + Send>>>;

/// A guest that has ended, with its Store still alive.
pub(super) struct EndedGuest {
    instance: Instance,
    outcome: wasmtime::Result<()>,
}

/// The error that the epoch callback raises in the guest when its CPU time is used up.
#[derive(Debug, thiserror::Error)]
#[error("the CPU time is used up")]
struct CpuExhausted;

impl Instance {
    /// Creates a sandbox that runs this machine code.
    ///
    /// # Errors
    /// When the start code traps or exceeds a limit, or the engine's pool is full.
    pub(super) async fn new(blueprint: &Blueprint, code: &Compiled, deadline: Instant) -> Result<Self, RunError> {
        let Blueprint { deployment, sender, version, state, clock } = blueprint;
        let (service, limits) = (&deployment.service, deployment.limits());
        let extra = match &code.extra {
            Some(extra) => {
                let left = deadline.saturating_duration_since(Instant::now());
                Some(Box::pin(extra.take(limits.queue_wait.min(left))).await?)
            }
            None => None,
        };
        let start = Instant::now();
        let sandbox = Arc::new(Sandbox::new(
            Arc::clone(service),
            Arc::clone(version),
            limits,
            clock.clone(),
            state.config.clone(),
        ));
        let ctx = Ctx::new(limits, &deployment.spec.manifest.env, Arc::clone(sender), state, Arc::clone(&sandbox));
        let mut store = Store::new(&code.engine, ctx);
        store.limiter(|ctx| &mut ctx.limiter);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|store| match store.data().sandbox.cpu.tick() {
            TickAction::Continue => Ok(UpdateDeadline::Continue(1)),
            // tokio's own yield, not a bare wake: the worker polls its sockets before it continues here.
            TickAction::Yield => Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))),
            TickAction::Over => Err(CpuExhausted.into()),
        });
        store.set_hostcall_fuel(limits.memory);
        if let Some(table) = store.concurrent_resource_table() {
            table.set_max_capacity(limits.resources);
        }
        let instantiated = {
            let instantiating = pin!(code.instantiate(&mut store));
            Guarded::new(instantiating, sandbox, deadline).await?
        };
        service.metrics.instantiated.record(start.elapsed());
        match instantiated {
            Ok(exports) => Ok(Self { store, exports, baseline: code.kind.baseline, uses: 0, idle: None, extra }),
            Err(error) => Err(classify(store.data(), &error)),
        }
    }

    /// Whether it runs baseline code.
    pub(super) fn is_baseline(&self) -> bool {
        self.baseline
    }

    /// Whether a new instance would have other environment variables.
    pub(super) fn has_old_env(&self) -> bool {
        self.store.data().has_old_env()
    }

    /// The number of requests that it has handled.
    pub(super) fn uses(&self) -> usize {
        usize::try_from(self.uses).unwrap_or(usize::MAX)
    }

    /// Takes a permit to be idle for as long as it lives; returns false if none is free. An instance with extra units of the
    /// pool takes as many more permits, since idle instances must leave space for busy ones.
    pub(super) fn take_permit(&mut self, permits: &Arc<Semaphore>) -> bool {
        if self.idle.is_none() {
            let units = self.extra.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let count = u32::try_from(units).unwrap_or(u32::MAX).saturating_add(1);
            self.idle = Arc::clone(permits).try_acquire_many_owned(count).ok();
        }
        self.idle.is_some()
    }

    /// Starts a request. The guest runs when the future is polled. The request's body is limited to `body_limit` bytes.
    pub(super) fn start<B: RequestBody>(
        mut self,
        request: http::Request<B>,
        context: RequestContext,
        body_limit: usize,
    ) -> (Arc<Sandbox>, RunningGuest) {
        let sandbox = Arc::clone(&self.store.data().sandbox);
        let deadline = context.deadline;
        sandbox.begin(context, self.uses == 0);
        if self.uses > 0 {
            self.store.data_mut().renew();
        }
        self.uses = self.uses.saturating_add(1);
        let request = request.map(|body| LimitedBody::new(body, body_limit, Arc::clone(&sandbox)));
        let future: Pin<Box<dyn Future<Output = EndedGuest> + Send>> = Box::pin(self.run(request));
        let running = Guarded::new(future, Arc::clone(&sandbox), deadline);
        (sandbox, running)
    }

    async fn run<B: RequestBody>(mut self, mut request: http::Request<LimitedBody<B>>) -> EndedGuest {
        let delivery = request.extensions_mut().remove::<MessageDelivery>();
        let outcome = match (delivery.zip(self.exports.message.as_ref()), &self.exports.http) {
            (Some((delivery, handler)), _) => {
                exports::handle_message(&mut self.store, handler, delivery, request.into_body()).await
            }
            (None, Some(Proxy::P2(proxy))) => run_p2(&mut self.store, proxy, request).await,
            (None, Some(Proxy::P3(proxy))) => run_p3(&mut self.store, proxy, request).await,
            (None, None) => {
                exports::refuse_http(&self.store);
                Ok(())
            }
        };
        EndedGuest { instance: self, outcome }
    }
}

impl EndedGuest {
    /// The error with which the guest ended, if it did.
    pub(super) fn failure(&self) -> Option<RunError> {
        self.outcome.as_ref().err().map(|error| classify(self.instance.store.data(), error))
    }

    pub(super) fn into_instance(mut self) -> Instance {
        self.instance.store.data_mut().end_request();
        self.instance
    }
}

/// Runs a 0.2 guest: one call, which ends when the guest does.
async fn run_p2<B: RequestBody>(
    store: &mut Store<Ctx>,
    proxy: &p2::bindings::Proxy,
    request: http::Request<LimitedBody<B>>,
) -> wasmtime::Result<()> {
    let sandbox = Arc::clone(&store.data().sandbox);
    let https = request.uri().scheme() == Some(&Scheme::HTTPS);
    let mut http = store.data_mut().http();
    let request = http.new_incoming_request(if https { P2Scheme::Https } else { P2Scheme::Http }, request)?;
    let outparam = http.new_response_outparam_from_callback(move |response| {
        *lock(&sandbox.head) = Some(response.map_err(Into::into));
    })?;
    proxy.wasi_http_incoming_handler().call_handle(store, request, outparam).await
}

/// Runs a 0.3 guest: the call returns the response, and the guest continues until its last task has ended.
async fn run_p3<B: RequestBody>(
    store: &mut Store<Ctx>,
    proxy: &p3::bindings::Service,
    request: http::Request<LimitedBody<B>>,
) -> wasmtime::Result<()> {
    let sandbox = Arc::clone(&store.data().sandbox);
    let (request, sent) = p3::Request::from_http(store.data_mut().http().hooks, request);
    let outcome = store.run_concurrent(async |accessor| {
        let response = match proxy.handle(accessor, request).await? {
            Ok(response) => Ok(accessor.with(|mut store| response.into_http(store.as_context_mut(), sent))?),
            Err(code) => Err(code.into()),
        };
        *lock(&sandbox.head) = Some(response);
        poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
        Ok(())
    });
    outcome.await?
}

/// A future of guest code with its limits. CPU time is metered, and a guest that has used much of it only runs while it
/// holds a [`CpuSlot`]. Wall time is checked outside of the guest, where a busy guest cannot delay the check.
/// Incomplete lines of stdout and stderr are logged at the end.
pub(super) struct Guarded<F> {
    future: F,
    sandbox: Arc<Sandbox>,
    deadline: Instant,
    /// Created at the first wait: most responses never wait.
    timer: Option<Pin<Box<Sleep>>>,
    /// The head of the response was taken.
    head_sent: bool,
    /// Set once the guest runs for long, with its place in the queue for the next slot.
    long_running: Option<(LongRunning, Option<oneshot::Receiver<CpuSlot>>)>,
}

impl<F> Guarded<F> {
    pub(super) fn new(future: F, sandbox: Arc<Sandbox>, deadline: Instant) -> Self {
        Self { future, sandbox, deadline, timer: None, head_sent: false, long_running: None }
    }

    /// Records that the head was taken, so that it is sent before the guest has done all that it can.
    pub(super) fn set_head_sent(&mut self) {
        self.head_sent = true;
    }

    /// Ready when the guest may run: at once unless it is long-running.
    fn poll_slot(&mut self, cx: &mut Context<'_>) -> Poll<Option<CpuSlot>> {
        if self.long_running.is_none() {
            let share = &self.sandbox.service.share;
            if !self.sandbox.cpu.is_long(share.has_long_running()) {
                return Poll::Ready(None);
            }
            self.long_running = Some((share.long_running(), None));
        }
        let Some((long_running, waiting)) = &mut self.long_running else { return Poll::Ready(None) };
        let slot = ready!(Pin::new(waiting.get_or_insert_with(|| long_running.wait())).poll(cx));
        *waiting = None;
        Poll::Ready(slot.ok())
    }

    /// A guest that was preempted queues for its next slot before it returns this one, so that weights count.
    fn yield_slot(&mut self, slot: Option<CpuSlot>) {
        if self.sandbox.cpu.take_preempted()
            && let Some((long_running, waiting)) = &mut self.long_running
        {
            *waiting = Some(long_running.wait());
        }
        drop(slot);
    }
}

impl<F: Future + Unpin> Future for Guarded<F> {
    type Output = Result<F::Output, RunError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let begun = this.sandbox.cpu.ticks();
        loop {
            if let Poll::Ready(slot) = this.poll_slot(cx) {
                this.sandbox.cpu.enter();
                // A panic in the engine or in a host call ends this request only, not the connection with other
                // requests on it. It is unwind safe: the state that the panic interrupted is part of the future, which
                // is not polled again.
                let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut this.future).poll(cx)));
                this.sandbox.cpu.leave();
                match polled {
                    Ok(Poll::Ready(output)) => {
                        this.sandbox.detach_outgoing();
                        return Poll::Ready(Ok(output));
                    }
                    Ok(Poll::Pending) => {}
                    Err(panic) => return Poll::Ready(Err(panicked(&*panic))),
                }
                this.yield_slot(slot);
            }
            // A response that the guest waits for has arrived, so the guest runs on, but at most until the next tick,
            // and not while its client waits for the head. The response has woken the task.
            let can_continue = this.sandbox.poll_outgoing(cx);
            let has_head = this.head_sent || lock(&this.sandbox.head).is_some();
            if !can_continue || has_head || this.sandbox.cpu.ticks() > begun {
                break;
            }
        }
        let deadline = this.deadline.into();
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        timer.as_mut().poll(cx).map(|()| Err(RunError::WallTime))
    }
}

impl<F> Drop for Guarded<F> {
    fn drop(&mut self) {
        self.sandbox.drop_outgoing();
        self.sandbox.release_locks();
        stdio::finish(&self.sandbox);
    }
}

/// Returns the error for a panic while a guest ran.
fn panicked(panic: &(dyn Any + Send)) -> RunError {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let cause = format!("the host panicked, which is a bug in Lodge: {}", text.unwrap_or("without a message"));
    RunError::trapped(cause, Vec::new(), None)
}

/// Returns the error for an error of wasmtime.
fn classify(ctx: &Ctx, error: &wasmtime::Error) -> RunError {
    let part = || ctx.parts.as_ref().and_then(|parts| ctx.sandbox.version.part(&parts.positions(error)));
    if error.is::<CpuExhausted>() {
        return RunError::CpuTime(part());
    }
    if let Some(full) = error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>() {
        return RunError::PoolFull(format!("{full}; raise engine.instances"));
    }
    if ctx.limiter.refused {
        return RunError::OverMemory(part());
    }
    if is_full(error) {
        return RunError::trapped(TOO_MANY_HANDLES.into(), frames(error), part());
    }
    if let Some(exit) = error.downcast_ref::<wasmtime_wasi::I32Exit>() {
        let cause = format!("the guest exited with status {}", exit.0);
        return RunError::trapped(cause, Vec::new(), part());
    }
    RunError::trapped(error.root_cause().to_string(), frames(error), part())
}
