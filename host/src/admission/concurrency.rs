//! So many at once, so many waiting, and no wait longer than so long. First come, first served.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Refusal;

/// One of the places. Dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
    /// How long it took to get; zero, and without a look at the clock, when one was free.
    pub waited: Duration,
}

/// A bounded number of places behind a bounded queue.
#[derive(Debug)]
pub struct Concurrency {
    size: u32,
    places: Arc<Semaphore>,
    waiting: usize,
    queue: Semaphore,
    wait: Duration,
}

impl Concurrency {
    /// `places` at once; `queue` more wait for one, each for at most `wait`.
    pub fn new(places: usize, queue: usize, wait: Duration) -> Self {
        let size = u32::try_from(places).unwrap_or(u32::MAX);
        Self { size, places: Arc::new(Semaphore::new(places)), waiting: queue, queue: Semaphore::new(queue), wait }
    }

    /// Takes a place, waiting for it in the queue when there is none.
    ///
    /// # Errors
    /// When the queue is full, or no place was free in time.
    pub async fn enter(&self) -> Result<Place, Refusal> {
        if let Ok(place) = self.enter_at_once() {
            return Ok(place);
        }
        let _waiting = self.queue.try_acquire().map_err(|_| Refusal::QueueFull)?;
        let (start, permit) = (Instant::now(), Arc::clone(&self.places).acquire_owned());
        match tokio::time::timeout(self.wait, permit).await {
            Ok(Ok(permit)) => Ok(Place { _permit: permit, waited: start.elapsed() }),
            // The semaphore is never closed, so the only other end is the time.
            _ => Err(Refusal::QueueTimeout),
        }
    }

    /// Takes a place that is free now.
    ///
    /// # Errors
    /// When there is none, or others wait for one.
    pub fn enter_at_once(&self) -> Result<Place, Refusal> {
        let permit = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Refusal::QueueFull)?;
        Ok(Place { _permit: permit, waited: Duration::ZERO })
    }

    /// Places that are taken.
    pub fn taken(&self) -> usize {
        (self.size as usize).saturating_sub(self.places.available_permits())
    }

    /// Who waits for one.
    pub fn queued(&self) -> usize {
        self.waiting.saturating_sub(self.queue.available_permits())
    }

    /// Waits until every place is free at once.
    pub async fn all(&self) {
        drop(self.places.acquire_many(self.size).await);
    }
}

#[cfg(test)]
mod tests;
