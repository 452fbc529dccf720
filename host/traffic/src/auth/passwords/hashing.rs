//! Computes the hashes of passwords: few at a time, one for all requests with the same password, and few for each client.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::{PasswordHash, PasswordTag, Results};
use lodge_base::lock::lock;
use lodge_base::slots::{Slots, TakenSlot};
use lodge_base::telemetry::metrics::Metrics;

/// The most hashes that are computed at a time, and the most that are computed or wait for it, in all of the host.
const HASHES: usize = 2;
const PERMITS: usize = 64;

/// The most of these permits that one client has.
const PERMITS_OF_CLIENT: usize = 4;

/// The longest wait for a hash to begin.
const PATIENCE: Duration = Duration::from_secs(10);

/// What computes hashes, for all services of a host.
#[derive(Clone, Debug)]
pub(in crate::auth) struct Hashing {
    pub(super) running: Arc<Semaphore>,
    permits: Arc<Slots<HashPayer>>,
    metrics: Arc<Metrics>,
}

/// Whom a hash is charged to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HashPayer {
    /// A client, by the key of its address.
    Client(u64),
    /// A service of this host that calls.
    Service(String),
}

/// A password whose hash is not computed yet.
pub struct PasswordAttempt {
    tag: PasswordTag,
    password: String,
    hash: Arc<PasswordHash>,
    results: Arc<Results>,
    hashing: Hashing,
}

/// A hash that is being computed, or waits for it.
pub(in crate::auth) struct PendingHash {
    done: watch::Receiver<()>,
    /// Whether this request has begun it, and not joined it.
    pub(in crate::auth) is_own: bool,
}

/// The entry of a hash among those that are being computed.
struct PendingEntry {
    tag: PasswordTag,
    results: Arc<Results>,
    /// Its receivers are the requests that wait. They go on when it is dropped.
    sender: Arc<watch::Sender<()>>,
}

impl Hashing {
    pub(in crate::auth) fn new(metrics: &Arc<Metrics>) -> Self {
        Self {
            running: Arc::new(Semaphore::new(HASHES)),
            permits: Slots::new(PERMITS, PERMITS_OF_CLIENT),
            metrics: Arc::clone(metrics),
        }
    }
}

impl PasswordAttempt {
    pub(super) fn new(
        tag: PasswordTag,
        password: String,
        hash: Arc<PasswordHash>,
        results: Arc<Results>,
        hashing: Hashing,
    ) -> Self {
        Self { tag, password, hash, results, hashing }
    }

    /// Begins to compute the hash, or joins another request that waits for it. `None` if the result is known meanwhile, or
    /// there is no permit for it. `take` is called if a hash begins for this request.
    ///
    /// # Errors
    /// That of `take`; no hash is computed then.
    pub(in crate::auth) fn begin<E>(
        self,
        payers: Vec<HashPayer>,
        take: impl FnOnce() -> Result<(), E>,
    ) -> Result<Option<PendingHash>, E> {
        let results = Arc::clone(&self.results);
        let mut pending = lock(&results.pending);
        if let Some(sender) = pending.get(&self.tag) {
            return Ok(Some(PendingHash { done: sender.subscribe(), is_own: false }));
        }
        if results.get(&self.tag, SystemTime::now()).is_some() {
            return Ok(None);
        }
        let Some(permit) = self.hashing.permits.take(payers) else { return Ok(None) };
        take()?;
        let (sender, done) = watch::channel(());
        let sender = Arc::new(sender);
        pending.insert(self.tag, Arc::clone(&sender));
        drop(pending);
        let entry = PendingEntry { tag: self.tag, results, sender };
        // Not a part of this request: others that have joined it still wait if this one is cancelled.
        tokio::spawn(self.compute(entry, permit));
        Ok(Some(PendingHash { done, is_own: true }))
    }

    /// Computes the hash, unless all requests that wait for it are cancelled before it begins.
    async fn compute(self, entry: PendingEntry, admitted: TakenSlot<HashPayer>) {
        let permit = tokio::select! {
            biased;
            () = entry.abandoned() => return,
            permit = timeout(PATIENCE, Arc::clone(&self.hashing.running).acquire_owned()) => permit,
        };
        let Ok(Ok(permit)) = permit else { return };
        let _ = tokio::task::spawn_blocking(move || {
            let right = self.hash.is_of(&self.password);
            self.hashing.metrics.password_hashes.count(if right { "right" } else { "wrong" });
            entry.results.remember(self.tag, right, SystemTime::now());
            drop((permit, admitted, entry));
        })
        .await;
    }
}

impl PendingHash {
    /// Waits until the hash is computed, or there was no time for it.
    pub(in crate::auth) async fn finished(mut self) {
        // No value is ever sent: this ends when the sender is dropped.
        let _ = self.done.changed().await;
    }
}

impl PendingEntry {
    /// Waits until no request waits. None can join any more then.
    async fn abandoned(&self) {
        loop {
            self.sender.closed().await;
            let mut pending = lock(&self.results.pending);
            if self.sender.receiver_count() == 0 {
                pending.remove(&self.tag);
                return;
            }
        }
    }
}

impl Drop for PendingEntry {
    fn drop(&mut self) {
        let mut pending = lock(&self.results.pending);
        // After `abandoned`, another request may have begun anew.
        if pending.get(&self.tag).is_some_and(|sender| Arc::ptr_eq(sender, &self.sender)) {
            pending.remove(&self.tag);
        }
    }
}
