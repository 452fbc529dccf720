//! Waiting for locks, in the order of arrival, and guards that release them.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::{Error, Resource};
use crate::limits::MAX_WAITERS;
use crate::locks::{Attempt, Holder, Lease, LockName, Locks, Token};
use crate::mutex::lock;

/// How often the first waiter tries again while a lock is busy. It finds out by this that another process has released the
/// lock; a release in this process wakes it at once.
const POLL: Duration = Duration::from_millis(250);
/// How long one attempt to release a lock after its guard was dropped may take.
const RELEASE_TIME: Duration = Duration::from_secs(5);
/// Pauses before these attempts. After the last one the lock stays until its lease ends.
const RELEASE_PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(200), Duration::from_secs(2)];

/// The locks of a namespace, with waiting. A process needs one per namespace: waiters of two of them have no common order.
#[derive(Clone)]
pub struct Locker(Arc<Shared>);

struct Shared {
    locks: Arc<dyn Locks>,
    /// The queues of the locks that have waiters.
    lines: Mutex<HashMap<Arc<str>, Arc<WaitLine>>>,
    waiters: Semaphore,
    runtime: Handle,
}

/// The queue of one lock.
struct WaitLine {
    /// The first waiter has the permit. The semaphore is fair: the others get it in the order of arrival.
    first: Semaphore,
    /// Wakes the first waiter after a release.
    released: Notify,
}

impl Locker {
    /// Waiting for `locks`. Guards that are dropped are released by tasks of `runtime`.
    pub fn new(locks: Arc<dyn Locks>, runtime: Handle) -> Locker {
        let waiters = Semaphore::new(MAX_WAITERS as usize);
        Locker(Arc::new(Shared { locks, lines: Mutex::default(), waiters, runtime }))
    }

    /// Acquires the lock `name`. While it is busy, waits for it until `until`, and returns `None` then; an `until` in the past
    /// is an attempt without waiting, which also gives up if others wait.
    ///
    /// # Errors
    /// [`Error::Timeout`] at `deadline`, which is for the store's operations; [`Error::QuotaExceeded`] for too many locks or
    /// waiters.
    pub async fn acquire(
        &self,
        name: LockName<'_>,
        lease: Lease,
        until: Instant,
        deadline: Instant,
    ) -> Result<Option<Guard>, Error> {
        let holder = Holder::random()?;
        let place = Place::new(&self.0, name)?;
        let Ok(Ok(_first)) = timeout_at(until, place.line.first.acquire()).await else { return Ok(None) };
        loop {
            let expires_in = match self.attempt(&place.name, holder, lease, deadline).await? {
                Ok(guard) => return Ok(Some(guard)),
                Err(expires_in) => expires_in,
            };
            let now = Instant::now();
            if now >= until {
                return Ok(None);
            }
            if now >= deadline {
                return Err(Error::Timeout);
            }
            let again = (now + expires_in.clamp(Duration::from_millis(1), POLL)).min(until).min(deadline);
            // The next attempt shows whether the lock is free, whether or not this waiter was woken.
            let _ = timeout_at(again, place.line.released.notified()).await;
        }
    }

    /// Makes one attempt, which goes on in a task of its own if the backend must wait. So the lock is released even if the
    /// caller is dropped while the backend grants it, since no guard exists then.
    async fn attempt(
        &self,
        name: &Arc<str>,
        holder: Holder,
        lease: Lease,
        deadline: Instant,
    ) -> Result<Result<Guard, Duration>, Error> {
        let (shared, name) = (self.0.clone(), name.clone());
        let mut attempt = Box::pin(async move {
            let attempt = shared.locks.attempt(LockName::checked(&name), holder, lease, deadline).await;
            let guard = |token| Guard { shared, name, holder, token, held: true };
            match attempt {
                Ok(Attempt::Acquired(token)) => Ok(Ok(guard(token))),
                Ok(Attempt::Busy { expires_in }) => Ok(Err(expires_in)),
                Err(error) => {
                    // The lock may be held if the result is not known.
                    if matches!(error, Error::Timeout | Error::Unavailable { .. }) {
                        drop(guard(Token::new(0)));
                    }
                    Err(error)
                }
            }
        });
        if let Poll::Ready(result) = poll_fn(|context| Poll::Ready(attempt.as_mut().poll(context))).await {
            return result;
        }
        let (send, receive) = oneshot::channel();
        self.0.runtime.spawn(async move {
            let _ = send.send(attempt.await);
        });
        receive.await.unwrap_or_else(|_| Err(Error::unavailable("the host is shutting down")))
    }
}

impl fmt::Debug for Locker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locker").finish_non_exhaustive()
    }
}

impl Shared {
    /// Wakes the first waiter for `name`.
    fn wake(&self, name: &str) {
        if let Some(line) = lock(&self.lines).get(name) {
            line.released.notify_one();
        }
    }
}

/// A place in the queue of a lock.
struct Place<'a> {
    shared: &'a Shared,
    name: Arc<str>,
    line: Arc<WaitLine>,
    _waiter: tokio::sync::SemaphorePermit<'a>,
}

impl<'a> Place<'a> {
    fn new(shared: &'a Shared, name: LockName<'_>) -> Result<Place<'a>, Error> {
        let exceeded = |_| Error::QuotaExceeded { resource: Resource::Waiters, used: MAX_WAITERS, limit: MAX_WAITERS };
        let waiter = shared.waiters.try_acquire().map_err(exceeded)?;
        let name: Arc<str> = name.as_str().into();
        let new = || Arc::new(WaitLine { first: Semaphore::new(1), released: Notify::new() });
        let line = lock(&shared.lines).entry(name.clone()).or_insert_with(new).clone();
        Ok(Place { shared, name, line, _waiter: waiter })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut lines = lock(&self.shared.lines);
        // The map has one reference and this place the other: there is no other waiter. New places are made under the same lock.
        if Arc::strong_count(&self.line) == 2 {
            lines.remove(&self.name);
        }
    }
}

/// A lock that is held. Dropping it releases the lock soon after.
#[must_use = "the lock is released when the guard is dropped"]
pub struct Guard {
    shared: Arc<Shared>,
    name: Arc<str>,
    holder: Holder,
    token: Token,
    held: bool,
}

impl Guard {
    /// The fencing token of this acquisition.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Lets the lease end `lease` from now.
    ///
    /// # Errors
    /// [`Error::LeaseEnded`] if it has ended before: another holder may have the lock, so stop what it protects.
    pub async fn renew(&mut self, lease: Lease, deadline: Instant) -> Result<(), Error> {
        let name = LockName::checked(&self.name);
        if self.held && self.shared.locks.renew(name, self.holder, lease, deadline).await? {
            return Ok(());
        }
        self.held = false;
        Err(Error::LeaseEnded)
    }

    /// Releases the lock, and returns whether it was held until now. After an error or a cancellation, it is released as if
    /// the guard was dropped.
    ///
    /// # Errors
    /// [`Error::Timeout`] and [`Error::Unavailable`].
    pub async fn release(mut self, deadline: Instant) -> Result<bool, Error> {
        if !self.held {
            return Ok(false);
        }
        let held = self.shared.locks.release(LockName::checked(&self.name), self.holder, deadline).await?;
        self.held = false;
        self.shared.wake(&self.name);
        Ok(held)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.held {
            return;
        }
        let (shared, name, holder) = (self.shared.clone(), self.name.clone(), self.holder);
        let mut release = Box::pin(async move {
            for pause in RELEASE_PAUSES {
                if !pause.is_zero() {
                    sleep(pause).await;
                }
                let deadline = Instant::now() + RELEASE_TIME;
                if shared.locks.release(LockName::checked(&name), holder, deadline).await.is_ok() {
                    break;
                }
            }
            shared.wake(&name);
        });
        // Embedded backends release at once. A guard can be dropped by a thread that is not the runtime's.
        let _runtime = self.shared.runtime.enter();
        if release.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            self.shared.runtime.spawn(release);
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("token", &self.token).field("held", &self.held).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
