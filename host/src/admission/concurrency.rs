//! So many at once, so many waiting, and no wait longer than so long. First come, first served. All three can change while
//! it is in use: when there are to be fewer places, those that are taken go as they come back.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::Refusal;
use crate::base::lock::lock;

/// One of the places. Dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    door: Arc<Concurrency>,
    /// How long it took to get; zero, and without a look at the clock, when one was free.
    pub waited: Duration,
}

/// A bounded number of places behind a bounded queue.
#[derive(Debug)]
pub struct Concurrency {
    /// How many there are to be.
    size: Mutex<usize>,
    places: Semaphore,
    /// Places that are taken and are not to come back.
    owed: AtomicUsize,
    /// How many may wait, and how long in nanoseconds.
    queue: AtomicUsize,
    wait: AtomicU64,
    waiting: AtomicUsize,
}

/// Somebody in the queue, until this is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Concurrency {
    /// `places` at once; `queue` more wait for one, each for at most `wait`.
    pub fn new(places: usize, queue: usize, wait: Duration) -> Self {
        let places = bounded(places);
        Self {
            size: Mutex::new(places),
            places: Semaphore::new(places),
            owed: AtomicUsize::new(0),
            queue: AtomicUsize::new(queue),
            wait: AtomicU64::new(nanos(wait)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Takes a place, waiting for it in the queue when there is none.
    ///
    /// # Errors
    /// When the queue is full, or no place was free in time.
    pub async fn enter(self: &Arc<Self>) -> Result<Place, Refusal> {
        if let Ok(place) = self.enter_at_once() {
            return Ok(place);
        }
        let _waiting = Waiting::join(&self.waiting, self.queue.load(Relaxed)).ok_or(Refusal::QueueFull)?;
        let (start, wait) = (Instant::now(), Duration::from_nanos(self.wait.load(Relaxed)));
        match tokio::time::timeout(wait, self.places.acquire()).await {
            Ok(Ok(permit)) => {
                permit.forget();
                Ok(self.place(start.elapsed()))
            }
            // The semaphore is never closed, so the only other end is the time.
            _ => Err(Refusal::QueueTimeout),
        }
    }

    /// Takes a place that is free now.
    ///
    /// # Errors
    /// When there is none, or others wait for one.
    pub fn enter_at_once(self: &Arc<Self>) -> Result<Place, Refusal> {
        let permit = self.places.try_acquire().map_err(|_| Refusal::QueueFull)?;
        permit.forget();
        Ok(self.place(Duration::ZERO))
    }

    fn place(self: &Arc<Self>, waited: Duration) -> Place {
        Place { door: Arc::clone(self), waited }
    }

    /// From now on `queue` may wait, each for at most `wait`.
    pub fn queues(&self, queue: usize, wait: Duration) {
        self.queue.store(queue, Relaxed);
        self.wait.store(nanos(wait), Relaxed);
    }

    /// From now on there are `places`. Nobody who has one loses it.
    pub fn resize(&self, places: usize) {
        let (mut size, places) = (lock(&self.size), bounded(places));
        if places > *size {
            // Those that were to go stay; the rest is new.
            let more = places - *size;
            let stay = self.owed.fetch_update(SeqCst, SeqCst, |owed| Some(owed.saturating_sub(more)));
            let (Ok(owed) | Err(owed)) = stay;
            self.places.add_permits(more.saturating_sub(owed));
        } else {
            self.owed.fetch_add(*size - places, SeqCst);
            // A place that comes back now sees that it is owed; those that are free are taken here.
            while self.places.available_permits() > 0 && self.pay() {
                if self.places.forget_permits(1) == 0 {
                    self.owed.fetch_add(1, SeqCst);
                }
            }
        }
        *size = places;
    }

    /// Takes one off what is owed.
    fn pay(&self) -> bool {
        self.owed.fetch_update(SeqCst, SeqCst, |owed| owed.checked_sub(1)).is_ok()
    }

    /// Places there are, or are to be.
    pub fn size(&self) -> usize {
        *lock(&self.size)
    }

    /// Places that are taken.
    pub fn taken(&self) -> usize {
        (self.size() + self.owed.load(Relaxed)).saturating_sub(self.places.available_permits())
    }

    /// Places that are free.
    pub fn free(&self) -> usize {
        self.places.available_permits()
    }

    /// Who waits for one.
    pub fn queued(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// How many may wait.
    pub fn queue(&self) -> usize {
        self.queue.load(Relaxed)
    }

    /// Waits until every place is free at once.
    pub async fn all(&self) {
        drop(self.places.acquire_many(u32::try_from(self.size()).unwrap_or(u32::MAX)).await);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nothing is owed but after a resize, so this is mostly a look.
        if self.door.owed.load(SeqCst) == 0 || !self.door.pay() {
            self.door.places.add_permits(1);
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
fn bounded(places: usize) -> usize {
    places.min(u32::MAX as usize).min(Semaphore::MAX_PERMITS)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
