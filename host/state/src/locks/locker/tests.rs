//! The locker with a backend that is slow and fails, as servers do.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::clock::SystemClock;
use crate::locks::{Leases, Numbers};
use crate::store::Pending;

/// Locks in memory, behind a connection that takes a while and loses results.
struct Slow {
    locks: Leases,
    /// Attempts and releases whose result is lost; the attempts were made, and the releases not.
    lost_attempts: AtomicU32,
    lost_releases: AtomicU32,
}

/// A deadline that no operation comes to.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// How long the way to the server takes, and the way back.
const WAY: Duration = Duration::from_millis(5);

fn take(from: &AtomicU32) -> bool {
    from.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1)).is_ok()
}

impl Locks for Slow {
    fn attempt<'a>(
        &'a self,
        name: LockName<'a>,
        holder: Holder,
        lease: Lease,
        deadline: Instant,
    ) -> Pending<'a, Attempt> {
        Box::pin(async move {
            sleep(WAY).await;
            let result = self.locks.attempt(name, holder, lease, deadline).await;
            sleep(WAY).await;
            if take(&self.lost_attempts) { Err(Error::Timeout) } else { result }
        })
    }

    fn renew<'a>(&'a self, name: LockName<'a>, holder: Holder, lease: Lease, deadline: Instant) -> Pending<'a, bool> {
        self.locks.renew(name, holder, lease, deadline)
    }

    fn release<'a>(&'a self, name: LockName<'a>, holder: Holder, deadline: Instant) -> Pending<'a, bool> {
        Box::pin(async move {
            sleep(WAY).await;
            if take(&self.lost_releases) {
                return Err(Error::unavailable("the connection was closed"));
            }
            self.locks.release(name, holder, deadline).await
        })
    }
}

fn slow(lost_attempts: u32, lost_releases: u32) -> Locker {
    let locks = Leases::new(Arc::new(SystemClock::new()), Arc::new(Numbers::after(0)));
    let (lost_attempts, lost_releases) = (lost_attempts.into(), lost_releases.into());
    Locker::new(Arc::new(Slow { locks, lost_attempts, lost_releases }), Handle::current())
}

fn name() -> LockName<'static> {
    LockName::new("l").unwrap()
}

fn lease() -> Lease {
    Lease::new(Duration::from_secs(3600)).unwrap()
}

/// The lock gets free without its lease having ended.
async fn gets_free(locker: &Locker) {
    let until = Instant::now() + Duration::from_secs(30);
    assert!(locker.acquire(name(), lease(), until, soon()).await.unwrap().is_some(), "the lock is still held");
}

#[tokio::test]
async fn a_caller_that_is_dropped_during_the_grant_holds_nothing() {
    for patience in 0..14 {
        let locker = slow(0, 0);
        let acquire = locker.acquire(name(), lease(), soon(), soon());
        let _ = tokio::time::timeout(Duration::from_millis(patience), acquire).await;
        gets_free(&locker).await;
    }
}

#[tokio::test]
async fn an_attempt_whose_result_is_lost_is_undone() {
    let locker = slow(1, 0);
    assert!(matches!(locker.acquire(name(), lease(), soon(), soon()).await, Err(Error::Timeout)));
    gets_free(&locker).await;
}

#[tokio::test]
async fn a_failed_release_is_repeated() {
    let locker = slow(0, 2);
    let guard = locker.acquire(name(), lease(), soon(), soon()).await.unwrap().unwrap();
    assert!(guard.release(soon()).await.is_err());
    gets_free(&locker).await;
    let guard = locker.acquire(name(), lease(), soon(), soon()).await.unwrap().unwrap();
    drop(tokio::time::timeout(Duration::from_millis(1), guard.release(soon())).await);
    gets_free(&locker).await;
}

#[tokio::test]
async fn a_guard_can_be_dropped_by_any_thread() {
    let locker = slow(0, 0);
    let guard = locker.acquire(name(), lease(), soon(), soon()).await.unwrap().unwrap();
    std::thread::spawn(|| drop(guard)).join().unwrap();
    gets_free(&locker).await;
}

#[tokio::test]
async fn nothing_is_kept_of_those_who_waited() {
    let locker = slow(0, 0);
    let guard = locker.acquire(name(), lease(), soon(), soon()).await.unwrap();
    let waiters: Vec<_> = (0..10)
        .map(|number| {
            let locker = locker.clone();
            let until = Instant::now() + Duration::from_millis(number * 5);
            tokio::spawn(async move { locker.acquire(name(), lease(), until, soon()).await.unwrap().is_none() })
        })
        .collect();
    for waiter in waiters {
        assert!(waiter.await.unwrap());
    }
    assert!(lock(&locker.0.lines).is_empty());
    assert_eq!(locker.0.waiters.available_permits() as u64, MAX_WAITERS);
    drop(guard);
}

#[tokio::test]
async fn waiters_are_bounded() {
    let locker = slow(0, 0);
    let _guard = locker.acquire(name(), lease(), soon(), soon()).await.unwrap();
    let mut waiting: Vec<_> =
        (0..MAX_WAITERS).map(|_| Box::pin(locker.acquire(name(), lease(), soon(), soon()))).collect();
    for waiter in &mut waiting {
        assert!(waiter.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    let refused = locker.acquire(name(), lease(), soon(), soon()).await;
    assert!(matches!(refused, Err(Error::QuotaExceeded { resource: Resource::Waiters, .. })));
    waiting.pop();
    assert!(locker.acquire(name(), lease(), Instant::now(), soon()).await.is_ok());
}
