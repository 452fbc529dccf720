//! Whether a request may run now. Holding a [`Permit`] is the proof that it may.
//!
//! Two places are needed, in this order: one of the service's `limits.in_flight`, so that a slow service cannot
//! take the host, then one of the host's `engine.instances`, so that the pool always has room. Both waits are
//! bounded in length and in time. The permit lives until the last byte of the answer, not until its head.

mod concurrency;

pub use concurrency::Concurrency;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

use crate::config::limits::Limits;

/// What stands between a request and a service.
#[derive(Debug)]
pub struct Admission {
    service: Concurrency,
    host: Arc<Concurrency>,
}

/// Proof of admission. Not `Clone`; dropping it gives both places back.
#[derive(Debug)]
pub struct Permit {
    _service: OwnedSemaphorePermit,
    _host: OwnedSemaphorePermit,
}

/// Why a request was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too many are waiting already.
    QueueFull,
    /// It waited as long as it may.
    QueueTimeout,
}

impl Admission {
    /// The admission of a service with these limits, in a host with these places.
    pub fn new(limits: &Limits, host: Arc<Concurrency>) -> Self {
        Self { service: Concurrency::new(limits.in_flight, limits.queue, limits.queue_wait), host }
    }

    /// Waits, within bounds, for a place.
    ///
    /// # Errors
    /// When the queue is full, or the wait took too long.
    pub async fn admit(&self) -> Result<Permit, Refusal> {
        let service = self.service.enter().await?;
        let host = self.host.enter().await?;
        Ok(Permit { _service: service, _host: host })
    }
}

impl From<Refusal> for crate::error::RequestError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::QueueFull => Self::QueueFull,
            Refusal::QueueTimeout => Self::QueueTimeout,
        }
    }
}
