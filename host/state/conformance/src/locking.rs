//! Locks: single operations, waiting, and fencing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::{Fixture, soon};
use lodge_state::Error;
use lodge_state::locks::{Attempt, Holder, Lease, LockName, Locker, Token};

fn name(text: &str) -> LockName<'_> {
    LockName::new(text).unwrap()
}

fn lease(duration: Duration) -> Lease {
    Lease::new(duration).unwrap()
}

fn token(attempt: Attempt) -> Token {
    match attempt {
        Attempt::Acquired(token) => token,
        Attempt::Busy { expires_in } => panic!("busy for {expires_in:?}"),
    }
}

/// Attempts, renewals and releases, with and without expiry.
pub async fn lock_operations(fixture: &Fixture) {
    let locks = fixture.locks().await;
    let (a, b) = (Holder::random().unwrap(), Holder::random().unwrap());
    let (long, short) = (lease(Duration::from_secs(600)), lease(fixture.short()));
    let odd = "* > a.b/c\0 ä";
    let attempt = |lock, holder, lease| locks.attempt(name(lock), holder, lease, soon());

    let first = token(attempt("l", a, long).await.unwrap());
    let Ok(Attempt::Busy { expires_in }) = attempt("l", b, long).await else { panic!("two holders") };
    assert!(expires_in <= long.duration() && !expires_in.is_zero(), "{expires_in:?}");
    assert_eq!(token(attempt("l", a, long).await.unwrap()), first, "a repeated attempt is the same acquisition");
    token(attempt(odd, b, long).await.unwrap());
    assert_eq!(locks.release(name("l"), b, soon()).await, Ok(false));
    assert_eq!(locks.renew(name("l"), b, long, soon()).await, Ok(false));
    assert_eq!(locks.renew(name("l"), a, long, soon()).await, Ok(true));
    assert_eq!(locks.release(name("l"), a, soon()).await, Ok(true));
    assert_eq!(locks.release(name("l"), a, soon()).await, Ok(false));
    assert_eq!(locks.renew(name("l"), a, long, soon()).await, Ok(false));
    let second = token(attempt("l", b, short).await.unwrap());
    assert!(second > first);

    fixture.pass(fixture.short()).await;
    assert_eq!(locks.renew(name("l"), b, long, soon()).await, Ok(false), "the lease has ended");
    assert_eq!(locks.release(name("l"), b, soon()).await, Ok(false), "the lease has ended");
    let third = token(attempt("l", a, short).await.unwrap());
    assert!(third > second, "tokens grow after an expiry");
    assert_eq!(locks.renew(name("l"), a, long, soon()).await, Ok(true));
    fixture.pass(fixture.short()).await;
    assert!(matches!(attempt("l", b, long).await, Ok(Attempt::Busy { .. })), "the renewed lease holds");

    // Another namespace has other locks.
    let other = fixture.locks().await;
    token(other.attempt(name("l"), b, long, soon()).await.unwrap());
    assert_eq!(other.release(name("l"), b, soon()).await, Ok(true));
    assert!(matches!(attempt("l", b, long).await, Ok(Attempt::Busy { .. })));
}

/// What a lock protects: it accepts writes with a token at least as large as all that it has seen.
struct Fenced(Mutex<Token>);

impl Fenced {
    fn write(&self, token: Token) -> bool {
        let mut seen = self.0.lock().unwrap();
        let accepted = token >= *seen;
        *seen = token.max(*seen);
        accepted
    }
}

/// A holder that pauses for longer than its lease cannot write after the next holder has.
pub async fn fencing(fixture: &Fixture) {
    let locker = Locker::new(fixture.locks().await, Handle::current());
    let resource = Fenced(Mutex::new(Token::new(0)));
    let mut paused = locker.acquire(name("l"), lease(fixture.short()), Instant::now(), soon()).await.unwrap().unwrap();
    assert!(resource.write(paused.token()));
    fixture.pass(fixture.short()).await;
    let next = locker.acquire(name("l"), lease(Duration::from_secs(60)), soon(), soon()).await.unwrap().unwrap();
    assert!(next.token() > paused.token());
    assert!(resource.write(next.token()));
    assert!(!resource.write(paused.token()), "the token of the paused holder is refused");
    assert_eq!(paused.renew(lease(Duration::from_secs(60)), soon()).await, Err(Error::LeaseEnded));
    // The end of the paused holder does not release the lock of the next.
    drop(paused);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(
        locker.acquire(name("l"), lease(fixture.short()), Instant::now(), soon()).await.unwrap().map(drop),
        None
    );
    assert_eq!(next.release(soon()).await, Ok(true));
}

/// Waiters get the lock one after another, in the order of arrival; a guard that is dropped and a waiter that gives up let
/// the next one in.
pub async fn waiting(fixture: &Fixture) {
    let locker = Locker::new(fixture.locks().await, Handle::current());
    let long = lease(Duration::from_secs(600));
    let acquire = |until| {
        let locker = locker.clone();
        async move { locker.acquire(name("l"), long, until, soon()).await.unwrap() }
    };
    let first = acquire(Instant::now()).await.unwrap();
    assert!(acquire(Instant::now()).await.is_none(), "an attempt does not wait");
    let began = Instant::now();
    assert!(acquire(began + Duration::from_millis(100)).await.is_none());
    assert!(began.elapsed() >= Duration::from_millis(100), "waits for its time");

    // Order: each waiter arrives when the one before it waits.
    let (order, inside) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let mut tasks = Vec::new();
    for number in 0..8 {
        let (waiter, order, inside) = (acquire(soon()), order.clone(), inside.clone());
        tasks.push(tokio::spawn(async move {
            let guard = waiter.await.unwrap();
            assert!(!inside.swap(true, Ordering::SeqCst), "two holders");
            tokio::time::sleep(Duration::from_millis(2)).await;
            order.lock().unwrap().push(number);
            assert!(inside.swap(false, Ordering::SeqCst));
            drop(guard);
        }));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tasks.remove(3).abort();
    let began = Instant::now();
    drop(first);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 4, 5, 6, 7]);
    // Seven releases that woke the next waiter, and did not leave that to its polls.
    assert!(began.elapsed() < Duration::from_millis(7 * 200), "{:?}", began.elapsed());
    contention(fixture).await;
}

/// Many tasks that end in all ways: no two hold the lock at a time, and it is free in the end.
async fn contention(fixture: &Fixture) {
    let locker = Locker::new(fixture.locks().await, Handle::current());
    let long = lease(Duration::from_secs(600));
    let (inside, total) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut tasks = Vec::new();
    for number in 0..64u64 {
        let (locker, inside, total) = (locker.clone(), inside.clone(), total.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0..10 {
                let wait = locker.acquire(name("l"), long, soon(), soon());
                // A third is cancelled, most of them while they wait or while the backend grants the lock.
                let patience = Duration::from_micros((number * 37 + round * 101) % 900);
                let guard = match (number + round) % 3 {
                    0 => tokio::time::timeout(patience, wait).await.ok().and_then(|result| result.unwrap()),
                    _ => wait.await.unwrap(),
                };
                let Some(guard) = guard else { continue };
                assert!(!inside.swap(true, Ordering::SeqCst), "two holders");
                total.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                assert!(inside.swap(false, Ordering::SeqCst));
                if round % 2 == 0 {
                    assert_eq!(guard.release(soon()).await, Ok(true));
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(total.load(Ordering::Relaxed) >= 64 * 10 * 2 / 3);
    let last = locker.acquire(name("l"), long, Instant::now() + Duration::from_secs(10), soon()).await.unwrap();
    assert!(last.is_some(), "the lock is not free");
}
