//! The idle instances of one version, which serve its next requests.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::instance::{EndedGuest, Instance};
use lodge_base::clock::Clock;
use lodge_base::lock::lock;
use lodge_manifest::{Isolation, Manifest};

/// The idle instances of one version.
pub(super) struct WarmPool {
    /// The number of requests that one instance may serve; 0 if the manifest requires a new instance for each request.
    max_uses: usize,
    /// How long an instance may be idle.
    max_idle: Duration,
    clock: Clock,
    /// The host's permits for idle instances, shared by all pools.
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    /// The version has optimised code, so instances with baseline code are not used again.
    refuses_baseline: AtomicBool,
    /// A guest of this version trapped after a complete response, and that was logged.
    late_trap: AtomicBool,
}

/// An instance between two requests.
struct Idle {
    instance: Instance,
    /// The tick at which its last request ended.
    since: u64,
}

impl WarmPool {
    /// Creates an empty pool for a version with this manifest.
    pub(super) fn new(manifest: &Manifest, clock: Clock, permits: Arc<Semaphore>) -> Self {
        let reuses = manifest.isolation == Isolation::Service;
        Self {
            max_uses: if reuses { manifest.limits.warm_uses } else { 0 },
            max_idle: manifest.limits.warm_idle,
            clock,
            permits,
            idle: Mutex::default(),
            refuses_baseline: AtomicBool::new(false),
            late_trap: AtomicBool::new(false),
        }
    }

    /// Returns the number of idle instances.
    pub(super) fn len(&self) -> usize {
        lock(&self.idle).len()
    }

    /// Takes the instance that was used last, unless it has been idle for too long at the tick `now`. The others can then
    /// expire.
    pub(super) fn take(&self, now: u64) -> Option<Instance> {
        let idle = lock(&self.idle).pop()?;
        (self.clock.between(idle.since, now) < self.max_idle).then_some(idle.instance)
    }

    /// Takes back the instance of a guest of `service` that has sent a complete response. Drops it if it trapped, was
    /// used often enough, or there is no permit for it.
    pub(super) fn take_back(&self, finished: EndedGuest, service: &str) {
        if let Some(failure) = finished.failure() {
            // Guests of wit-bindgen 0.58 do this after every response: it is logged once.
            if !self.late_trap.swap(true, Relaxed) {
                let detail = failure.detail().unwrap_or_default();
                tracing::warn!(service, "trapped after a complete response, which was sent: {detail}");
            }
            return;
        }
        let mut instance = finished.into_instance();
        if instance.uses() >= self.max_uses {
            return;
        }
        let mut idle = lock(&self.idle);
        // Read under the lock, so that `refuse_baseline` drops what was pushed before.
        let outdated = instance.is_baseline() && self.refuses_baseline.load(Relaxed);
        if !outdated && instance.take_permit(&self.permits) {
            idle.push(Idle { instance, since: self.clock.now() });
        }
    }

    /// Drops the instances that have been idle for too long at the tick `now`.
    pub(super) fn drop_expired(&self, now: u64) {
        let expired = |idle: &mut Idle| self.clock.between(idle.since, now) >= self.max_idle;
        let expired: Vec<_> = lock(&self.idle).extract_if(.., expired).collect();
        // Outside the lock: giving memory back takes a while.
        drop(expired);
    }

    /// Drops all idle instances.
    pub(super) fn clear(&self) {
        let idle = std::mem::take(&mut *lock(&self.idle));
        // Outside the lock, as above.
        drop(idle);
    }

    /// Drops all idle instances, and takes back none that runs baseline code from now on.
    pub(super) fn refuse_baseline(&self) {
        self.refuses_baseline.store(true, Relaxed);
        self.clear();
    }
}
