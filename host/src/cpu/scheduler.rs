//! Who may compute. Guests that use CPU for long are *hogs*, and hogs together have all workers but one: whoever else
//! asks finds a worker that no hog is on.
//!
//! Holding a [`CpuSlot`] is the proof that a hog may run; it lasts to the next tick of the clock. CpuScheduler go to the service
//! that has had the least CPU time for its weight, however many requests it has, and within a service to whoever
//! waits longest. A request that never computes for long meets none of this.
//!
//! On a single core there are two workers all the same, and the kernel shares the core out between them: hello beside 64
//! requests that spin had a p99 of 4 ms so, and of 330 ms with one worker, which looks at its sockets too rarely.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::base::lock::lock;

/// The weight of a service whose manifest names none.
pub const WEIGHT: u32 = 100;

/// Threads that serve: one per core, and never one alone.
pub fn workers() -> usize {
    workers_on(cores())
}

fn workers_on(cores: usize) -> usize {
    cores.max(2)
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The turns of all workers that hogs may have.
#[derive(Debug)]
pub struct CpuScheduler {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Virtual time of the service that got the last turn: who comes later starts here, and catches nothing up.
    now: u64,
    /// One for each service with hogs that wait.
    waiting: Vec<Queue>,
}

#[derive(Debug)]
struct Queue {
    share: Arc<CpuShare>,
    requests: VecDeque<oneshot::Sender<CpuSlot>>,
}

/// A service's part of the CPU. Survives new versions of it.
#[derive(Debug)]
pub struct CpuShare {
    turns: Arc<CpuScheduler>,
    weight: AtomicU32,
    /// Nanoseconds that its guests have computed.
    cpu: AtomicU64,
    /// The same for a service of weight [`WEIGHT`].
    virtual_time: AtomicU64,
    hogs: AtomicUsize,
}

/// A hog among the others of its service.
#[derive(Debug)]
pub struct LongRunning(Arc<CpuShare>);

/// Leave to compute until the next tick. Dropping it passes it on.
#[derive(Debug)]
pub struct CpuSlot(Arc<CpuScheduler>);

impl CpuScheduler {
    /// CpuScheduler for hogs on this many workers.
    pub fn new(workers: usize) -> Arc<Self> {
        let state = State { free: workers.saturating_sub(1).max(1), now: 0, waiting: Vec::new() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// The share of a service that has computed nothing yet.
    pub fn share(self: &Arc<Self>) -> Arc<CpuShare> {
        Arc::new(CpuShare {
            turns: Arc::clone(self),
            weight: AtomicU32::new(WEIGHT),
            cpu: AtomicU64::new(0),
            virtual_time: AtomicU64::new(0),
            hogs: AtomicUsize::new(0),
        })
    }

    /// Hands out what is free. A turn for somebody who has just gone comes back by being dropped.
    fn grant(self: &Arc<Self>) {
        loop {
            let next = lock(&self.state).next();
            let Some(next) = next else { return };
            let _ = next.send(CpuSlot(Arc::clone(self)));
        }
    }
}

impl State {
    fn next(&mut self) -> Option<oneshot::Sender<CpuSlot>> {
        if self.free == 0 {
            return None;
        }
        for queue in &mut self.waiting {
            while queue.requests.pop_front_if(|request| request.is_closed()).is_some() {}
        }
        self.waiting.retain(|queue| !queue.requests.is_empty());
        let queue = self.waiting.iter_mut().min_by_key(|queue| queue.share.virtual_time.load(Relaxed))?;
        self.free -= 1;
        self.now = self.now.max(queue.share.virtual_time.load(Relaxed));
        queue.requests.pop_front()
    }
}

impl CpuShare {
    /// CPU time of all guests of the service so far.
    pub fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu.load(Relaxed))
    }

    /// The service has this weight from now on.
    pub fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Relaxed);
    }

    /// A guest of the service has computed for so many nanoseconds.
    pub fn charge(&self, nanos: u64) {
        self.cpu.fetch_add(nanos, Relaxed);
        let weight = u64::from(self.weight.load(Relaxed).max(1));
        self.virtual_time.fetch_add(nanos.saturating_mul(u64::from(WEIGHT)) / weight, Relaxed);
    }

    /// One more hog.
    pub fn long_running(self: &Arc<Self>) -> LongRunning {
        self.hogs.fetch_add(1, Relaxed);
        LongRunning(Arc::clone(self))
    }

    /// A service that is at it already has no more time to spare for newcomers.
    pub fn has_long_running(&self) -> bool {
        self.hogs.load(Relaxed) > 0
    }
}

impl LongRunning {
    /// Asks for a turn. Dropping the receiver gives up the place in the queue, or the turn.
    pub fn wait(&self) -> oneshot::Receiver<CpuSlot> {
        let share = &self.0;
        let (request, turn) = oneshot::channel();
        let mut state = lock(&share.turns.state);
        match state.waiting.iter_mut().find(|queue| Arc::ptr_eq(&queue.share, share)) {
            Some(queue) => {
                if queue.requests.len() == queue.requests.capacity() {
                    queue.requests.retain(|request| !request.is_closed());
                }
                queue.requests.push_back(request);
            }
            None => {
                share.virtual_time.fetch_max(state.now, Relaxed);
                state.waiting.push(Queue { share: Arc::clone(share), requests: VecDeque::from([request]) });
            }
        }
        drop(state);
        share.turns.grant();
        turn
    }
}

impl Drop for LongRunning {
    fn drop(&mut self) {
        self.0.hogs.fetch_sub(1, Relaxed);
    }
}

impl Drop for CpuSlot {
    fn drop(&mut self) {
        lock(&self.0.state).free += 1;
        self.0.grant();
    }
}

#[cfg(test)]
mod tests;
