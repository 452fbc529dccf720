//! `lodge:lock`: locks of a service, with leases and fencing tokens.
//!
//! A lock belongs to the request that has acquired it, and not only to the handle: it is released when the request ends,
//! however that is, also if the guest keeps the handle for the next one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lodge_base::telemetry::traces::{OperationObject, OperationSpan, OutboundTrace};
use lodge_state::{Error as StateError, Lease, LockName, Locker, Token};
use lodge_traffic::service::Service;
use wasmtime::component::{
    Accessor, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceTableError, ResourceType,
};

use super::denied::deny;
use super::handles::TOO_MANY_HANDLES;
use super::held_locks::HeldSlot;
use super::logged_denials::Denial;
use super::outcome::{guest_text, log_if_unavailable, outcome};
use super::{Ctx, GuestCall};

/// What the manifest of a service grants of its locks.
pub struct GrantedLocks {
    /// The locks of the service.
    pub locker: Locker,
    /// The service, whose metrics count the operations.
    pub service: Arc<Service>,
    /// The longest time that an operation on the store may take; waits for other holders are apart.
    pub timeout: Duration,
    /// The longest lease.
    pub lease: Duration,
    /// The most locks that a request may hold or wait for at a time.
    pub held: usize,
}

/// A lock that a guest has a handle for.
struct LockHandle {
    slot: Arc<HeldSlot>,
    token: Token,
    locks: Arc<GrantedLocks>,
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "invalid-argument")]
    InvalidArgument(String),
    #[component(name = "lease-ended")]
    LeaseEnded,
    #[component(name = "quota-exceeded")]
    QuotaExceeded(String),
    #[component(name = "timeout")]
    Timeout,
    #[component(name = "store-unavailable")]
    StoreUnavailable(String),
    #[component(name = "other")]
    Other(String),
}

impl From<StateError> for Error {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Invalid { .. } | StateError::TooLarge { .. } => Self::InvalidArgument(guest_text(&error)),
            StateError::LeaseEnded => Self::LeaseEnded,
            StateError::QuotaExceeded { .. } => Self::QuotaExceeded(guest_text(&error)),
            StateError::Timeout => Self::Timeout,
            StateError::Unavailable { .. } => Self::StoreUnavailable(guest_text(&error)),
            // Those of keys and values.
            StateError::Conflict | StateError::Denied { .. } | StateError::NotANumber | StateError::Overflow => {
                Self::Other(guest_text(&error))
            }
        }
    }
}

/// Attempts to acquire a lock, before its deadlines.
struct Acquisition {
    locks: Arc<GrantedLocks>,
    slot: Arc<HeldSlot>,
    lease: Lease,
    /// The end of the wait for other holders.
    until: tokio::time::Instant,
    /// The end of operations on the store.
    deadline: tokio::time::Instant,
    trace: Option<Arc<OutboundTrace>>,
}

impl Acquisition {
    /// Begins with attempts for `wait`.
    fn begin(ctx: &Ctx, lease_ms: u64, wait: Duration) -> Result<Self, Error> {
        let Some(locks) = ctx.lock.clone() else {
            deny(&ctx.sandbox, Denial::Lock);
            return Err(Error::AccessDenied);
        };
        let lease = locks.lease(lease_ms)?;
        let Some(slot) = ctx.sandbox.locks.take(locks.held) else {
            let held = locks.held;
            return Err(Error::QuotaExceeded(format!(
                "this request holds {held} locks: release one, or raise `held` in [lock] of the manifest"
            )));
        };
        let (now, left) = (Instant::now(), left(ctx));
        let wait = left.map_or(wait, |left| wait.min(left));
        let operations = wait.saturating_add(locks.timeout);
        let operations = left.map_or(operations, |left| operations.min(left));
        // A wait beyond what the clock can express has no end but the request's.
        let at = |after| now.checked_add(after).unwrap_or(now + locks.timeout).into();
        let trace = ctx.sandbox.operation_trace();
        Ok(Self { slot, lease, until: at(wait), deadline: at(operations), locks, trace })
    }

    /// Acquires the lock, and returns the handle; `None` if another holder had it until the end of the wait.
    async fn run(self, name: &str) -> Result<Option<LockHandle>, Error> {
        let acquire =
            async { self.locks.locker.acquire(LockName::new(name)?, self.lease, self.until, self.deadline).await };
        let span = span(self.trace.as_ref(), "lock.acquire", &self.locks);
        let acquired = acquire.await;
        span.finish(acquired.as_ref().err().map(outcome));
        let outcome = acquired.as_ref().map_or_else(outcome, |guard| if guard.is_some() { "ok" } else { "busy" });
        self.locks.service.metrics.state.count(outcome);
        if let Err(error) = &acquired {
            log_if_unavailable(&self.locks.service, error);
        }
        let Some(guard) = acquired? else { return Ok(None) };
        let token = guard.token();
        *self.slot.lock().await = Some(guard);
        Ok(Some(LockHandle { slot: self.slot, token, locks: self.locks }))
    }
}

/// An operation on a lock, before its deadline.
struct LockOperation {
    slot: Arc<HeldSlot>,
    locks: Arc<GrantedLocks>,
    deadline: tokio::time::Instant,
    trace: Option<Arc<OutboundTrace>>,
}

impl LockOperation {
    fn begin(ctx: &Ctx, handle: &LockHandle) -> Self {
        let timeout = left(ctx).map_or(handle.locks.timeout, |left| handle.locks.timeout.min(left));
        let deadline = (Instant::now() + timeout).into();
        let trace = ctx.sandbox.operation_trace();
        Self { slot: Arc::clone(&handle.slot), locks: Arc::clone(&handle.locks), deadline, trace }
    }

    async fn renew(self, lease_ms: u64) -> Result<(), Error> {
        let lease = self.locks.lease(lease_ms)?;
        let span = span(self.trace.as_ref(), "lock.renew", &self.locks);
        let renewed = match &mut *self.slot.lock().await {
            Some(guard) => guard.renew(lease, self.deadline).await,
            None => Err(StateError::LeaseEnded),
        };
        self.counted(renewed, span)
    }

    async fn release(self) -> Result<(), Error> {
        let span = span(self.trace.as_ref(), "lock.release", &self.locks);
        let guard = self.slot.lock().await.take();
        let released = match guard {
            Some(guard) => guard.release(self.deadline).await,
            None => Ok(false),
        };
        let held = |held| if held { Ok(()) } else { Err(StateError::LeaseEnded) };
        self.counted(released.and_then(held), span)
    }

    fn counted(&self, result: Result<(), StateError>, span: OperationSpan) -> Result<(), Error> {
        let failure = result.as_ref().err().map(outcome);
        span.finish(failure);
        self.locks.service.metrics.state.count(failure.unwrap_or("ok"));
        if let Err(error) = &result {
            log_if_unavailable(&self.locks.service, error);
        }
        Ok(result?)
    }
}

impl GrantedLocks {
    /// Returns the lease of this many milliseconds.
    fn lease(&self, milliseconds: u64) -> Result<Lease, Error> {
        let lease = Duration::from_millis(milliseconds);
        if lease > self.lease {
            let longest = humantime::format_duration(self.lease);
            return Err(Error::InvalidArgument(format!(
                "the lease is longer than {longest}: renew it, or raise `lease` in [lock] of the manifest"
            )));
        }
        Ok(Lease::new(lease)?)
    }
}

/// Begins the span of an operation, if it is recorded.
fn span(trace: Option<&Arc<OutboundTrace>>, name: &'static str, locks: &GrantedLocks) -> OperationSpan {
    let begin = |trace: &Arc<OutboundTrace>| trace.begin_operation(name, &locks.service.name, OperationObject::Lock);
    trace.map(begin).unwrap_or_default()
}

/// Returns the time that an operation may take. Some of the request's time stays for the guest to respond.
fn left(ctx: &Ctx) -> Option<Duration> {
    let deadline = ctx.sandbox.deadline()?;
    Some(deadline.saturating_duration_since(Instant::now()).mul_f32(0.9))
}

/// Makes a handle of a lock that was acquired.
fn opened(
    ctx: &mut Ctx,
    acquired: Result<Option<LockHandle>, Error>,
) -> wasmtime::Result<Result<Option<Resource<LockHandle>>, Error>> {
    match acquired.map(|handle| handle.map(|handle| ctx.table.push(handle)).transpose()) {
        Ok(Ok(handle)) => Ok(Ok(handle)),
        Ok(Err(ResourceTableError::Full)) => Ok(Err(Error::QuotaExceeded(TOO_MANY_HANDLES.into()))),
        Ok(Err(other)) => Err(other.into()),
        Err(error) => Ok(Err(error)),
    }
}

/// Adds both interfaces to the linker, the one with async functions only into a `concurrent` engine.
pub(super) fn link(linker: &mut Linker<Ctx>, concurrent: bool) -> wasmtime::Result<()> {
    let mut locks = linker.instance("lodge:lock/locks@0.1.0")?;
    link_handle(&mut locks)?;
    locks.func_wrap_async("acquire", |caller, (name, lease, wait): (String, u64, u64)| {
        Box::new(acquire(caller, name, lease, Duration::from_millis(wait)))
    })?;
    locks.func_wrap_async("try-acquire", |caller, (name, lease): (String, u64)| {
        Box::new(acquire(caller, name, lease, Duration::ZERO))
    })?;
    locks.func_wrap_async("[method]lock.renew", |caller: GuestCall<'_>, (handle, lease): (_, u64)| {
        let operation = caller.data().table.get(&handle).map(|handle| LockOperation::begin(caller.data(), handle));
        Box::new(async move { Ok((operation?.renew(lease).await,)) })
    })?;
    locks.func_wrap_async(
        "[static]lock.release",
        |mut caller: GuestCall<'_>, (handle,): (Resource<LockHandle>,)| {
            let handle = caller.data_mut().table.delete(handle);
            let operation = handle.map(|handle| LockOperation::begin(caller.data(), &handle));
            Box::new(async move { Ok((operation?.release().await,)) })
        },
    )?;
    if concurrent { link_async(linker) } else { Ok(()) }
}

async fn acquire(
    mut caller: GuestCall<'_>,
    name: String,
    lease: u64,
    wait: Duration,
) -> wasmtime::Result<(Result<Option<Resource<LockHandle>>, Error>,)> {
    let acquired = match Acquisition::begin(caller.data(), lease, wait) {
        Ok(acquisition) => acquisition.run(&name).await,
        Err(error) => Err(error),
    };
    Ok((opened(caller.data_mut(), acquired)?,))
}

/// Links the resource, with what does not wait.
fn link_handle(instance: &mut LinkerInstance<'_, Ctx>) -> wasmtime::Result<()> {
    instance.resource("lock", ResourceType::host::<LockHandle>(), |mut caller, rep| {
        caller.data_mut().table.delete(Resource::<LockHandle>::new_own(rep))?;
        Ok(())
    })?;
    instance.func_wrap("[method]lock.token", |caller: GuestCall<'_>, (handle,): (Resource<LockHandle>,)| {
        Ok((caller.data().table.get(&handle)?.token.number(),))
    })
}

fn link_async(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut locks = linker.instance("lodge:lock/async-locks@0.1.0")?;
    link_handle(&mut locks)?;
    locks.func_wrap_concurrent("acquire", |accessor, (name, lease, wait): (String, u64, u64)| {
        Box::pin(acquire_concurrently(accessor, name, lease, Duration::from_millis(wait)))
    })?;
    locks.func_wrap_concurrent("try-acquire", |accessor, (name, lease): (String, u64)| {
        Box::pin(acquire_concurrently(accessor, name, lease, Duration::ZERO))
    })?;
    locks.func_wrap_concurrent("[method]lock.renew", |accessor, (handle, lease): (Resource<LockHandle>, u64)| {
        let operation = accessor.with(|mut access| {
            let ctx: &mut Ctx = access.get();
            ctx.table.get(&handle).map(|handle| LockOperation::begin(ctx, handle))
        });
        Box::pin(async move { Ok((operation?.renew(lease).await,)) })
    })?;
    locks.func_wrap_concurrent("[static]lock.release", |accessor, (handle,): (Resource<LockHandle>,)| {
        let operation = accessor.with(|mut access| {
            let ctx: &mut Ctx = access.get();
            ctx.table.delete(handle).map(|handle| LockOperation::begin(ctx, &handle))
        });
        Box::pin(async move { Ok((operation?.release().await,)) })
    })
}

async fn acquire_concurrently(
    accessor: &Accessor<Ctx>,
    name: String,
    lease: u64,
    wait: Duration,
) -> wasmtime::Result<(Result<Option<Resource<LockHandle>>, Error>,)> {
    let begun = accessor.with(|mut access| Acquisition::begin(access.get(), lease, wait));
    let acquired = match begun {
        Ok(acquisition) => acquisition.run(&name).await,
        Err(error) => Err(error),
    };
    Ok((accessor.with(|mut access| opened(access.get(), acquired))?,))
}
