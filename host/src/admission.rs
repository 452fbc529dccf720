//! Whether a request may run now. Holding a [`Permit`] is the proof that it may.
//!
//! Two places are needed, in this order: one of the service's `limits.in_flight`, so that a slow service cannot
//! take the host, then one of the host's `engine.instances`, so that the pool always has room. Both waits are
//! bounded in length and in time. The permit lives until the last byte of the answer, not until its head.

mod concurrency;

pub use concurrency::{Concurrency, Place};
use std::sync::Arc;
use std::time::Duration;

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
    service: Place,
    host: Place,
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
        Ok(Permit { service, host })
    }
}

impl Admission {
    /// A place, if there is one without a wait.
    ///
    /// # Errors
    /// When there is none.
    pub fn admit_at_once(&self) -> Result<Permit, Refusal> {
        let service = self.service.enter_at_once()?;
        let host = self.host.enter_at_once()?;
        Ok(Permit { service, host })
    }
}

impl Permit {
    /// How long the request stood in queues.
    pub fn waited(&self) -> Duration {
        self.service.waited + self.host.waited
    }
}

impl Admission {
    /// The places that all services share.
    pub fn host(&self) -> Arc<Concurrency> {
        Arc::clone(&self.host)
    }

    /// Requests of the service that are being answered.
    pub fn in_flight(&self) -> usize {
        self.service.taken()
    }

    /// Requests of the service that wait for its places. Those that have one and wait for the host's are not among them.
    pub fn queued(&self) -> usize {
        self.service.queued()
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
