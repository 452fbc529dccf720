//! So many at once, so many waiting, and no wait longer than so long. First come, first served. All three can change while
//! it is in use: when there are to be fewer slots, those that are taken go as they come back.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::Refusal;
use crate::base::lock::lock;

/// One of the slots. Dropping it gives it back.
#[derive(Debug)]
pub struct Slot {
    pool: Arc<Concurrency>,
    /// How long it took to get; zero, and without a look at the clock, when one was free.
    pub waited: Duration,
}

/// A bounded number of slots behind a bounded queue.
#[derive(Debug)]
pub struct Concurrency {
    /// How many there are to be.
    size: Mutex<usize>,
    slots: Semaphore,
    /// Places that are taken and are not to come back.
    surplus: AtomicUsize,
    /// How many may wait, and how long in nanoseconds.
    queue: AtomicUsize,
    wait: AtomicU64,
    waiting: AtomicUsize,
}

/// Somebody in the queue, until this is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Concurrency {
    /// `slots` at once; `queue` more wait for one, each for at most `wait`.
    pub fn new(slots: usize, queue: usize, wait: Duration) -> Self {
        let slots = bounded(slots);
        Self {
            size: Mutex::new(slots),
            slots: Semaphore::new(slots),
            surplus: AtomicUsize::new(0),
            queue: AtomicUsize::new(queue),
            wait: AtomicU64::new(nanos(wait)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Takes a slot, waiting for it in the queue when there is none.
    ///
    /// # Errors
    /// When the queue is full, or no slot was free in time.
    pub async fn acquire(self: &Arc<Self>) -> Result<Slot, Refusal> {
        if let Ok(slot) = self.try_acquire() {
            return Ok(slot);
        }
        let _waiting = Waiting::join(&self.waiting, self.queue.load(Relaxed)).ok_or(Refusal::QueueFull)?;
        let (start, wait) = (Instant::now(), Duration::from_nanos(self.wait.load(Relaxed)));
        match tokio::time::timeout(wait, self.slots.acquire()).await {
            Ok(Ok(permit)) => {
                permit.forget();
                Ok(self.slot(start.elapsed()))
            }
            // The semaphore is never closed, so the only other end is the time.
            _ => Err(Refusal::QueueTimeout),
        }
    }

    /// Takes a slot that is free now.
    ///
    /// # Errors
    /// When there is none, or others wait for one.
    pub fn try_acquire(self: &Arc<Self>) -> Result<Slot, Refusal> {
        let permit = self.slots.try_acquire().map_err(|_| Refusal::QueueFull)?;
        permit.forget();
        Ok(self.slot(Duration::ZERO))
    }

    fn slot(self: &Arc<Self>, waited: Duration) -> Slot {
        Slot { pool: Arc::clone(self), waited }
    }

    /// From now on `queue` may wait, each for at most `wait`.
    pub fn set_queue(&self, queue: usize, wait: Duration) {
        self.queue.store(queue, Relaxed);
        self.wait.store(nanos(wait), Relaxed);
    }

    /// From now on there are `slots`. Nobody who has one loses it.
    pub fn resize(&self, slots: usize) {
        let (mut size, slots) = (lock(&self.size), bounded(slots));
        if slots > *size {
            // Those that were to go kept; the rest is new.
            let more = slots - *size;
            let kept = self.surplus.fetch_update(SeqCst, SeqCst, |surplus| Some(surplus.saturating_sub(more)));
            let (Ok(surplus) | Err(surplus)) = kept;
            self.slots.add_permits(more.saturating_sub(surplus));
        } else {
            self.surplus.fetch_add(*size - slots, SeqCst);
            // A slot that comes back now sees that it is surplus; those that are free are taken here.
            while self.slots.available_permits() > 0 && self.retire_one() {
                if self.slots.forget_permits(1) == 0 {
                    self.surplus.fetch_add(1, SeqCst);
                }
            }
        }
        *size = slots;
    }

    /// Takes one off what is surplus.
    fn retire_one(&self) -> bool {
        self.surplus.fetch_update(SeqCst, SeqCst, |surplus| surplus.checked_sub(1)).is_ok()
    }

    /// Places there are, or are to be.
    pub fn size(&self) -> usize {
        *lock(&self.size)
    }

    /// Places that are taken.
    pub fn taken(&self) -> usize {
        (self.size() + self.surplus.load(Relaxed)).saturating_sub(self.slots.available_permits())
    }

    /// Places that are free.
    pub fn free(&self) -> usize {
        self.slots.available_permits()
    }

    /// Who waits for one.
    pub fn queued(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// How many may wait.
    pub fn queue(&self) -> usize {
        self.queue.load(Relaxed)
    }

    /// Waits until every slot is free at once.
    pub async fn all(&self) {
        drop(self.slots.acquire_many(u32::try_from(self.size()).unwrap_or(u32::MAX)).await);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Nothing is surplus but after a resize, so this is mostly a look.
        if self.pool.surplus.load(SeqCst) == 0 || !self.pool.retire_one() {
            self.pool.slots.add_permits(1);
        }
    }
}

impl<'a> Waiting<'a> {
    fn join(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let joined = waiting.fetch_update(Relaxed, Relaxed, |waiting| (waiting < most).then_some(waiting + 1));
        joined.is_ok().then(|| Self(waiting))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// What can be waited for at once is a `u32`.
fn bounded(slots: usize) -> usize {
    slots.min(u32::MAX as usize).min(Semaphore::MAX_PERMITS)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
