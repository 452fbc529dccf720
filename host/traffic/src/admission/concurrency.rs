//! Slots behind a queue that is bounded in length and in time. First come, first served. The number of slots and both
//! bounds can change at any time: when there are to be fewer slots, those in use are retired as they are released.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::Refusal;
use lodge_base::lock::lock;

/// A slot in use. Dropping it releases it.
#[derive(Debug)]
pub struct Slot {
    pool: Arc<Concurrency>,
    /// How long the request waited for the slot; zero when one was free, which takes no clock reading.
    pub waited: Duration,
}

/// A bounded number of slots behind a bounded queue.
#[derive(Debug)]
pub struct Concurrency {
    /// The number of slots, or the number that there are to be.
    size: Mutex<usize>,
    slots: Semaphore,
    /// Slots in use that are to be retired when they are released.
    surplus: AtomicUsize,
    /// The bound of the queue's length, and the longest wait in nanoseconds.
    queue: AtomicUsize,
    wait: AtomicU64,
    waiting: AtomicUsize,
}

/// A place in the queue; dropping it leaves the queue.
struct Waiting<'a>(&'a AtomicUsize);

impl Concurrency {
    /// Returns `slots` free slots behind a queue of at most `queue` requests, each of which waits at most `wait`.
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

    /// Takes a slot, and waits in the queue when none is free.
    ///
    /// # Errors
    /// When the queue is full, or when no slot became free in time.
    pub async fn acquire(self: &Arc<Self>) -> Result<Slot, Refusal> {
        if let Ok(slot) = self.try_acquire() {
            return Ok(slot);
        }
        // In a box: most requests do not wait, and the future of every request would have room for it.
        Box::pin(self.wait()).await
    }

    async fn wait(self: &Arc<Self>) -> Result<Slot, Refusal> {
        let _waiting = Waiting::join(&self.waiting, self.queue.load(Relaxed)).ok_or(Refusal::QueueFull)?;
        let (start, wait) = (Instant::now(), Duration::from_nanos(self.wait.load(Relaxed)));
        match tokio::time::timeout(wait, self.slots.acquire()).await {
            Ok(Ok(permit)) => {
                permit.forget();
                Ok(self.slot(start.elapsed()))
            }
            // The semaphore is never closed, so this is the timeout.
            _ => Err(Refusal::QueueTimeout),
        }
    }

    /// Takes a slot that is free now.
    ///
    /// # Errors
    /// When no slot is free, or when others wait for one.
    pub fn try_acquire(self: &Arc<Self>) -> Result<Slot, Refusal> {
        let permit = self.slots.try_acquire().map_err(|_| Refusal::QueueFull)?;
        permit.forget();
        Ok(self.slot(Duration::ZERO))
    }

    fn slot(self: &Arc<Self>, waited: Duration) -> Slot {
        Slot { pool: Arc::clone(self), waited }
    }

    /// Changes the queue to at most `queue` requests, each of which waits at most `wait`.
    pub fn set_queue(&self, queue: usize, wait: Duration) {
        self.queue.store(queue, Relaxed);
        self.wait.store(nanos(wait), Relaxed);
    }

    /// Changes the number of slots. Slots in use stay in use.
    pub fn resize(&self, slots: usize) {
        let (mut size, slots) = (lock(&self.size), bounded(slots));
        if slots > *size {
            // Slots that were to be retired stay; only the rest is new.
            let more = slots - *size;
            let kept = self.surplus.fetch_update(SeqCst, SeqCst, |surplus| Some(surplus.saturating_sub(more)));
            let (Ok(surplus) | Err(surplus)) = kept;
            self.slots.add_permits(more.saturating_sub(surplus));
        } else {
            self.surplus.fetch_add(*size - slots, SeqCst);
            // A slot that is released now sees the surplus by itself; free slots are retired here.
            while self.slots.available_permits() > 0 && self.retire_one() {
                if self.slots.forget_permits(1) == 0 {
                    self.surplus.fetch_add(1, SeqCst);
                }
            }
        }
        *size = slots;
    }

    /// Takes one slot off the surplus.
    fn retire_one(&self) -> bool {
        self.surplus.fetch_update(SeqCst, SeqCst, |surplus| surplus.checked_sub(1)).is_ok()
    }

    /// Returns the number of slots, or the number that there are to be.
    pub fn size(&self) -> usize {
        *lock(&self.size)
    }

    /// Returns the number of slots in use.
    pub fn taken(&self) -> usize {
        (self.size() + self.surplus.load(Relaxed)).saturating_sub(self.slots.available_permits())
    }

    /// Returns the number of free slots.
    pub fn free(&self) -> usize {
        self.slots.available_permits()
    }

    /// Returns the number of requests in the queue.
    pub fn queued(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Returns the bound of the queue's length.
    pub fn queue(&self) -> usize {
        self.queue.load(Relaxed)
    }

    /// Waits until every slot is free.
    pub async fn wait_until_free(&self) {
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

/// `Semaphore::acquire_many` takes a `u32`.
fn bounded(slots: usize) -> usize {
    slots.min(u32::MAX as usize).min(Semaphore::MAX_PERMITS)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
