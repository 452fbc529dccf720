//! A sandbox at work: the only file that drives a Store. `wasi:http` 0.2 and 0.3 look the same from outside.
//!
//! The guest's future owns the Store and is polled by whoever waits for its answer: first for the head, then for
//! each frame of the body. There is no spawn, no queue and no channel hop, and dropping the answer cancels the guest.

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

use super::body::{Limited, RequestBody};
use super::compile::Compiled;
use crate::capabilities::http::Sender;
use crate::capabilities::logged_denials::LoggedDenials;
use crate::capabilities::sandbox::{RequestContext, Sandbox};
use crate::capabilities::{Ctx, stdio};
use lodge_base::clock::Clock;
use lodge_base::cpu::meter::TickAction;
use lodge_base::cpu::scheduler::{CpuSlot, LongRunning};
use lodge_base::lock::lock;
use lodge_traffic::error::{RequestError, Trap};
use lodge_traffic::service::deployment::Deployment;

/// Frames of a guest's backtrace that are kept.
const FRAMES: usize = 32;

/// What all instances of a version have in common, besides their machine code.
pub struct Blueprint {
    pub(super) deployment: Arc<Deployment>,
    /// Sends the requests of the guests.
    pub(super) sender: Arc<dyn Sender>,
    pub(super) denials: Arc<LoggedDenials>,
    /// The clock of the engines.
    pub(super) clock: Clock,
}

/// One Store with one instance in it. Memory, table, stack, CPU and wall limits are set before guest code runs.
pub struct Instance {
    store: Store<Ctx>,
    proxy: Proxy,
    baseline: bool,
    uses: u32,
    /// Its place among the warm ones, from the first time that it went back to them.
    place: Option<OwnedSemaphorePermit>,
    /// What it takes of the engine's pool beyond the usual, given back after its Store.
    room: Option<OwnedSemaphorePermit>,
}

/// A guest at work on a request, in a future that owns its Store.
pub(super) type Running = Guarded<Pin<Box<dyn Future<Output = Finished> + Send>>>;

/// A guest that is done, its Store still alive.
pub(super) struct Finished {
    instance: Instance,
    outcome: wasmtime::Result<()>,
}

/// CPU time is up: raised by the epoch callback inside the guest.
#[derive(Debug, thiserror::Error)]
#[error("CPU time is up")]
struct CpuExhausted;

impl Instance {
    /// Creates a sandbox of this version for its machine code.
    ///
    /// # Errors
    /// When the start code traps or exceeds a limit, or the engine's pool has no room.
    pub(super) async fn new(blueprint: &Blueprint, code: &Compiled, deadline: Instant) -> Result<Self, RequestError> {
        let Blueprint { deployment, sender, denials, clock } = blueprint;
        let (service, limits) = (&deployment.service, deployment.limits());
        let room = match &code.extra {
            Some(extra) => {
                let left = deadline.saturating_duration_since(Instant::now());
                Some(Box::pin(extra.take(limits.queue_wait.min(left))).await?)
            }
            None => None,
        };
        let start = Instant::now();
        let sandbox = Arc::new(Sandbox::new(
            Arc::clone(service),
            (Arc::clone(&deployment.version), Arc::clone(denials)),
            limits,
            clock.clone(),
        ));
        let ctx = Ctx::new(limits, &deployment.spec.manifest.env, Arc::clone(sender), Arc::clone(&sandbox));
        let mut store = Store::new(&code.engine, ctx);
        store.limiter(|ctx| &mut ctx.limiter);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|store| match store.data().sandbox.cpu.tick() {
            TickAction::Continue => Ok(UpdateDeadline::Continue(1)),
            // tokio's own yield, not a bare wake: the worker looks at its sockets before it comes back here.
            TickAction::Yield => Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))),
            TickAction::Over => Err(CpuExhausted.into()),
        });
        store.set_hostcall_fuel(limits.memory);
        if let Some(table) = store.concurrent_resource_table() {
            table.set_max_capacity(limits.resources);
        }
        let instantiated = {
            let instantiating = pin!(code.pre.instantiate_async(&mut store));
            Guarded::new(instantiating, sandbox, deadline).await?
        };
        service.figures.instantiated.record(start.elapsed());
        match instantiated {
            Ok(proxy) => Ok(Self { store, proxy, baseline: code.kind.baseline, uses: 0, place: None, room }),
            Err(error) => Err(blame(store.data(), &error)),
        }
    }

    /// Whether it runs baseline code.
    pub(super) fn is_baseline(&self) -> bool {
        self.baseline
    }

    /// Requests that it has answered.
    pub(super) fn uses(&self) -> usize {
        usize::try_from(self.uses).unwrap_or(usize::MAX)
    }

    /// Takes its place among these, unless it has one, and keeps it for as long as it lives. One that takes more of the pool
    /// takes as many places more: idle instances must leave room for those at work.
    pub(super) fn take_place(&mut self, places: &Arc<Semaphore>) -> bool {
        if self.place.is_none() {
            let units = self.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let count = u32::try_from(units).unwrap_or(u32::MAX).saturating_add(1);
            self.place = Arc::clone(places).try_acquire_many_owned(count).ok();
        }
        self.place.is_some()
    }

    /// Starts a request in this sandbox. The guest runs when the future is polled, and its body may have `body_limit` bytes.
    pub(super) fn start<B: RequestBody>(
        mut self,
        request: http::Request<B>,
        context: RequestContext,
        body_limit: usize,
    ) -> (Arc<Sandbox>, Running) {
        let sandbox = Arc::clone(&self.store.data().sandbox);
        let deadline = context.deadline;
        sandbox.begin(context, self.uses == 0);
        self.uses = self.uses.saturating_add(1);
        let request = request.map(|body| Limited::new(body, body_limit, Arc::clone(&sandbox)));
        let future: Pin<Box<dyn Future<Output = Finished> + Send>> = Box::pin(self.run(request));
        let running = Guarded::new(future, Arc::clone(&sandbox), deadline);
        (sandbox, running)
    }

    async fn run<B: RequestBody>(mut self, request: http::Request<Limited<B>>) -> Finished {
        let outcome = match &self.proxy {
            Proxy::P2(proxy) => run_p2(&mut self.store, proxy, request).await,
            Proxy::P3(proxy) => run_p3(&mut self.store, proxy, request).await,
        };
        Finished { instance: self, outcome }
    }
}

impl Finished {
    /// Why the guest is done, when that was no return of its own.
    pub(super) fn failure(&self) -> Option<RequestError> {
        self.outcome.as_ref().err().map(|error| blame(self.instance.store.data(), error))
    }

    /// The instance, to be used again or dropped.
    pub(super) fn into_instance(self) -> Instance {
        self.instance
    }
}

/// wasi:http 0.2: one call, whose end is the guest's end.
async fn run_p2<B: RequestBody>(
    store: &mut Store<Ctx>,
    proxy: &p2::bindings::Proxy,
    request: http::Request<Limited<B>>,
) -> wasmtime::Result<()> {
    let sandbox = Arc::clone(&store.data().sandbox);
    let https = request.uri().scheme() == Some(&Scheme::HTTPS);
    let mut http = store.data_mut().http();
    let request = http.new_incoming_request(if https { P2Scheme::Https } else { P2Scheme::Http }, request)?;
    let outparam = http.new_response_outparam_from_callback(move |answer| {
        *lock(&sandbox.head) = Some(answer.map_err(Into::into));
    })?;
    proxy.wasi_http_incoming_handler().call_handle(store, request, outparam).await
}

/// wasi:http 0.3: the call returns the answer, and the guest works on until its last task has ended.
async fn run_p3<B: RequestBody>(
    store: &mut Store<Ctx>,
    proxy: &p3::bindings::Service,
    request: http::Request<Limited<B>>,
) -> wasmtime::Result<()> {
    let sandbox = Arc::clone(&store.data().sandbox);
    let (request, sent) = p3::Request::from_http(store.data_mut().http().hooks, request);
    let outcome = store.run_concurrent(async |accessor| {
        let answer = match proxy.handle(accessor, request).await? {
            Ok(answer) => Ok(accessor.with(|mut store| answer.into_http(store.as_context_mut(), sent))?),
            Err(code) => Err(code.into()),
        };
        *lock(&sandbox.head) = Some(answer);
        poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
        Ok(())
    });
    outcome.await?
}

/// A future of guest code: its CPU time is metered, and once that is much it is only polled in turn with other hogs. Its
/// wall time is checked from outside, where a busy guest cannot keep the check from running, and what it leaves on
/// stdout and stderr is logged when it is over.
pub(super) struct Guarded<F> {
    future: F,
    sandbox: Arc<Sandbox>,
    deadline: Instant,
    /// Registered at the first wait: most answers never wait.
    timer: Option<Pin<Box<Sleep>>>,
    /// The head of its answer has been taken.
    answered: bool,
    /// It computes for long, and this is its place in the queue for the next turn.
    hog: Option<(LongRunning, Option<oneshot::Receiver<CpuSlot>>)>,
}

impl<F> Guarded<F> {
    pub(super) fn new(future: F, sandbox: Arc<Sandbox>, deadline: Instant) -> Self {
        Self { future, sandbox, deadline, timer: None, answered: false, hog: None }
    }

    /// The head of its answer is taken, and goes to its client before the guest has done all that it can.
    pub(super) fn answered(&mut self) {
        self.answered = true;
    }

    /// Ready when the guest may run: at once unless it is a hog.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Option<CpuSlot>> {
        if self.hog.is_none() {
            let share = &self.sandbox.service.share;
            if !self.sandbox.cpu.is_long(share.has_long_running()) {
                return Poll::Ready(None);
            }
            self.hog = Some((share.long_running(), None));
        }
        let Some((hog, waiting)) = &mut self.hog else { return Poll::Ready(None) };
        let turn = ready!(Pin::new(waiting.get_or_insert_with(|| hog.wait())).poll(cx));
        *waiting = None;
        Poll::Ready(turn.ok())
    }

    /// A hog that would go on asks for its next turn before it passes this one on, so that weights count.
    fn rest(&mut self, turn: Option<CpuSlot>) {
        if self.sandbox.cpu.take_preempted()
            && let Some((hog, waiting)) = &mut self.hog
        {
            *waiting = Some(hog.wait());
        }
        drop(turn);
    }
}

impl<F: Future + Unpin> Future for Guarded<F> {
    type Output = Result<F::Output, RequestError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let begun = this.sandbox.cpu.ticks();
        loop {
            if let Poll::Ready(turn) = this.poll_turn(cx) {
                this.sandbox.cpu.enter();
                // A panic in the engine or in a host call ends this request. It would end the connection, on which others are.
                // Whatever was being changed is part of the future, which is not polled again.
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
                this.rest(turn);
            }
            // What it waited for is here, and it goes on, but not past a tick, nor while its client waits for what it has made.
            // It is woken by the answer.
            let goes_on = this.sandbox.poll_outgoing(cx);
            let made = this.answered || lock(&this.sandbox.head).is_some();
            if !goes_on || made || this.sandbox.cpu.ticks() > begun {
                break;
            }
        }
        let deadline = this.deadline.into();
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        timer.as_mut().poll(cx).map(|()| Err(RequestError::WallTime))
    }
}

impl<F> Drop for Guarded<F> {
    fn drop(&mut self) {
        self.sandbox.drop_outgoing();
        stdio::finish(&self.sandbox);
    }
}

/// What a panic below a guest means to its caller.
fn panicked(panic: &(dyn Any + Send)) -> RequestError {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let cause =
        format!("a panic in the host ended it, which is a fault of Lodge: {}", text.unwrap_or("without a message"));
    RequestError::Trapped(Trap { cause, ..Trap::default() })
}

/// What an error out of wasmtime means to the caller.
fn blame(ctx: &Ctx, error: &wasmtime::Error) -> RequestError {
    if error.is::<CpuExhausted>() {
        return RequestError::CpuTime;
    }
    if let Some(full) = error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>() {
        return RequestError::PoolFull(format!("{full}; raise engine.instances"));
    }
    if ctx.limiter.refused {
        return RequestError::OverMemory;
    }
    if let Some(exit) = error.downcast_ref::<wasmtime_wasi::I32Exit>() {
        let cause = format!("it exited with status {}", exit.0);
        return RequestError::Trapped(Trap { cause, ..Trap::default() });
    }
    let backtrace = error.downcast_ref::<wasmtime::WasmBacktrace>();
    let frames = backtrace.into_iter().flat_map(|backtrace| backtrace.frames()).take(FRAMES);
    let unnamed = |frame: &wasmtime::FrameInfo| format!("<wasm function {}>", frame.func_index());
    let frames = frames.map(|frame| frame.func_name().map_or_else(|| unnamed(frame), str::to_owned)).collect();
    RequestError::Trapped(Trap { cause: error.root_cause().to_string(), frames })
}
