//! So many at once, so many waiting, and no wait longer than so long. First come, first served.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Refusal;

/// A bounded number of places behind a bounded queue.
#[derive(Debug)]
pub struct Concurrency {
    size: u32,
    places: Arc<Semaphore>,
    queue: Semaphore,
    wait: Duration,
}

impl Concurrency {
    /// `places` at once; `queue` more wait for one, each for at most `wait`.
    pub fn new(places: usize, queue: usize, wait: Duration) -> Self {
        let size = u32::try_from(places).unwrap_or(u32::MAX);
        Self { size, places: Arc::new(Semaphore::new(places)), queue: Semaphore::new(queue), wait }
    }

    /// Takes a place, waiting for it in the queue when there is none.
    ///
    /// # Errors
    /// When the queue is full, or no place was free in time.
    pub async fn enter(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        let _waiting = self.queue.try_acquire().map_err(|_| Refusal::QueueFull)?;
        let place = Arc::clone(&self.places).acquire_owned();
        match tokio::time::timeout(self.wait, place).await {
            Ok(Ok(place)) => Ok(place),
            // The semaphore is never closed, so the only other end is the time.
            _ => Err(Refusal::QueueTimeout),
        }
    }

    /// Waits until every place is free at once.
    pub async fn all(&self) {
        drop(self.places.acquire_many(self.size).await);
    }
}

#[cfg(test)]
mod tests;
