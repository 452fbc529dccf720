//! Queues from tasks to the threads that use SQLite, and how much may wait in them.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::error::Error;
use crate::mutex::lock;

/// Jobs for threads, in the order of arrival. What may wait is bounded by the [`Ticket`] that every job holds.
pub(super) struct JobQueue<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
}

struct State<T> {
    jobs: VecDeque<T>,
    closed: bool,
    /// Threads that wait for a job. None is woken without need: that costs a system call.
    idle: usize,
}

impl<T> JobQueue<T> {
    pub(super) fn new() -> JobQueue<T> {
        JobQueue { state: Mutex::new(State { jobs: VecDeque::new(), closed: false, idle: 0 }), arrived: Condvar::new() }
    }

    /// Adds a job.
    ///
    /// # Errors
    /// [`Error::Unavailable`] after [`close`](Self::close).
    pub(super) fn push(&self, job: T) -> Result<(), Error> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(closed());
        }
        state.jobs.push_back(job);
        if state.idle > 0 {
            drop(state);
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Takes up to `limit` jobs into `jobs`, and waits at most `wait` for the first. Returns `false` if the queue is closed and
    /// empty.
    pub(super) fn take(&self, jobs: &mut Vec<T>, limit: usize, wait: Duration) -> bool {
        let mut state = lock(&self.state);
        if state.jobs.is_empty() && !state.closed && !wait.is_zero() {
            state.idle += 1;
            let pause = self.arrived.wait_timeout_while(state, wait, |state| state.jobs.is_empty() && !state.closed);
            (state, _) = pause.unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
        let taken = state.jobs.len().min(limit);
        jobs.extend(state.jobs.drain(..taken));
        taken > 0 || !state.closed
    }

    /// Accepts no more jobs. Those that wait are still done.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.arrived.notify_all();
    }

    /// Drops the jobs that wait, which fails the operations of their tasks.
    pub(super) fn abandon(&self) {
        self.close();
        let jobs = std::mem::take(&mut lock(&self.state).jobs);
        drop(jobs);
    }
}

/// The error of operations after the threads have ended.
pub(super) fn closed() -> Error {
    Error::unavailable("the store is closed because the host is shutting down")
}

/// How much may wait in a queue: in all, and for each namespace, so that one service cannot fill the queue of all.
#[derive(Clone)]
pub(super) struct QueueShare {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
    what: &'static str,
}

/// A part of a budget, until it is dropped.
pub(super) struct Ticket {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

impl QueueShare {
    /// A queue for `all` units, and `own` units of its first namespace.
    pub(super) fn new(what: &'static str, all: usize, own: usize) -> QueueShare {
        QueueShare { all: Arc::new(Semaphore::new(all)), own: Arc::new(Semaphore::new(own)), what }
    }

    /// The budget of another namespace, of `own` units, in the same queue.
    pub(super) fn share(&self, own: usize) -> QueueShare {
        QueueShare { all: self.all.clone(), own: Arc::new(Semaphore::new(own)), what: self.what }
    }

    /// Waits for room for `units`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the queue is full until `deadline`.
    pub(super) async fn take(&self, units: u32, deadline: Instant) -> Result<Ticket, Error> {
        let both = async {
            // The share of the namespace first: a waiter for it must not hold a part of the common budget.
            let own = self.own.clone().acquire_many_owned(units).await.ok()?;
            let all = self.all.clone().acquire_many_owned(units).await.ok()?;
            Some(Ticket { _all: all, _own: own })
        };
        let full = || Error::unavailable(format!("the queue of {} is full: send fewer at a time", self.what));
        timeout_at(deadline, both).await.ok().flatten().ok_or_else(full)
    }
}
