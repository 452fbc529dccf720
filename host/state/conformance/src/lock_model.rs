//! Random schedules of lock operations, with expiry, pauses and lost results, compared with a model.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::{Fixture, Time, soon};
use lodge_state::locks::{Attempt, Holder, Lease, LockName, Locks, Token};

/// Clients that hold and want the locks.
const CLIENTS: usize = 4;
const LOCKS: [&str; 2] = ["l", "lock"];

#[derive(Clone, Debug)]
enum LockStep {
    /// A client attempts to get a lock for some milliseconds. If the result is lost, it does not know whether it holds it.
    Attempt {
        client: usize,
        lock: usize,
        lease: u64,
        lost: bool,
    },
    Renew {
        client: usize,
        lock: usize,
        lease: u64,
    },
    Release {
        client: usize,
        lock: usize,
    },
    /// A client that has lost its state begins anew.
    Crash {
        client: usize,
    },
    /// Time passes: for a client that holds a lock, this is a pause.
    Advance(u64),
}

#[derive(Clone, Copy, Debug)]
struct Held {
    holder: Holder,
    expires: u64,
    token: Option<Token>,
}

fn steps(manual: bool) -> impl Strategy<Value = Vec<LockStep>> {
    let lease = if manual { 1..60u64 } else { 600_000..600_001 };
    let step = prop_oneof![
        4 => (0..CLIENTS, 0..LOCKS.len(), lease.clone(), prop::bool::weighted(0.2))
            .prop_map(|(client, lock, lease, lost)| LockStep::Attempt { client, lock, lease, lost }),
        2 => (0..CLIENTS, 0..LOCKS.len(), lease).prop_map(|(client, lock, lease)| LockStep::Renew { client, lock, lease }),
        2 => (0..CLIENTS, 0..LOCKS.len()).prop_map(|(client, lock)| LockStep::Release { client, lock }),
        1 => (0..CLIENTS).prop_map(|client| LockStep::Crash { client }),
        2 => (0..40u64).prop_map(move |by| LockStep::Advance(if manual { by } else { 0 })),
    ];
    prop::collection::vec(step, 1..80)
}

/// Runs random schedules and checks after every step that exactly the holder of the model has the lock, and that tokens grow.
/// Servers whose locks expire by a clock of their own are tested without expiry here.
pub async fn locks_behave_like_the_model(fixture: &Fixture) {
    let manual = matches!(fixture.time, Time::Manual(_));
    let mut config = Config::with_cases(fixture.schedules.saturating_mul(8));
    config.failure_persistence = None;
    let result = TestRunner::new(config).run(&steps(manual), |steps| crate::wait(schedule(fixture, steps)));
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// The state of the model.
struct LockModel {
    now: u64,
    clients: Vec<Holder>,
    held: BTreeMap<usize, Held>,
    largest: BTreeMap<usize, Token>,
}

async fn schedule(fixture: &Fixture, steps: Vec<LockStep>) -> Result<(), TestCaseError> {
    let locks = fixture.locks().await;
    let clients = (0..CLIENTS).map(|_| Holder::random().unwrap()).collect();
    let mut model = LockModel { now: 0, clients, held: BTreeMap::new(), largest: BTreeMap::new() };
    for step in steps {
        match step {
            LockStep::Crash { client } => model.clients[client] = Holder::random().unwrap(),
            LockStep::Advance(by) => {
                fixture.pass(Duration::from_millis(by)).await;
                model.now += by;
                let now = model.now;
                model.held.retain(|_, held| held.expires > now);
            }
            LockStep::Attempt { client, lock, lease, lost } => {
                model.attempt(&*locks, client, lock, lease, lost).await?
            }
            LockStep::Renew { client, lock, lease } => {
                let holder = model.clients[client];
                let renewed = locks.renew(name(lock), holder, millis(lease), soon()).await.unwrap();
                let held = model.held.get_mut(&lock).filter(|held| held.holder == holder);
                prop_assert_eq!(renewed, held.is_some(), "{:?}", step);
                if let Some(held) = held {
                    held.expires = model.now + lease;
                }
            }
            LockStep::Release { client, lock } => {
                let holder = model.clients[client];
                let released = locks.release(name(lock), holder, soon()).await.unwrap();
                let held = model.held.get(&lock).is_some_and(|held| held.holder == holder);
                prop_assert_eq!(released, held, "{:?}", step);
                if held {
                    model.held.remove(&lock);
                }
            }
        }
    }
    Ok(())
}

impl LockModel {
    async fn attempt(
        &mut self,
        locks: &dyn Locks,
        client: usize,
        lock: usize,
        lease: u64,
        lost: bool,
    ) -> Result<(), TestCaseError> {
        let holder = self.clients[client];
        let attempt = locks.attempt(name(lock), holder, millis(lease), soon()).await.unwrap();
        let held = self.held.get(&lock).copied();
        match attempt {
            Attempt::Busy { expires_in } => {
                let held = held.filter(|held| held.holder != holder);
                prop_assert!(held.is_some(), "busy, but there is no other holder");
                prop_assert!(!expires_in.is_zero() && expires_in <= Duration::from_millis(600_000));
            }
            Attempt::Acquired(token) => {
                prop_assert!(held.is_none_or(|held| held.holder == holder), "{held:?} holds it");
                match held.and_then(|held| held.token) {
                    Some(same) => prop_assert_eq!(token, same),
                    None if held.is_some() => {}
                    None => {
                        let largest = self.largest.get(&lock);
                        prop_assert!(largest.is_none_or(|largest| token > *largest), "{token:?} after {largest:?}");
                    }
                }
                self.largest.insert(lock, token);
                let token = (!lost).then_some(token);
                self.held.insert(lock, Held { holder, expires: self.now + lease, token });
            }
        }
        Ok(())
    }
}

fn name(lock: usize) -> LockName<'static> {
    LockName::new(LOCKS[lock]).unwrap()
}

fn millis(lease: u64) -> Lease {
    Lease::new(Duration::from_millis(lease)).unwrap()
}
