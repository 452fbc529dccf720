//! Follows the references of manifests: pulls what is not there yet, and looks at tags again and again.
//!
//! The scanner asks for the component of a reference and never waits. A component that was pulled stays available while the
//! registry is away, also after a restart; the problem is reported beside it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{interval, sleep_until, timeout};

use super::client::RegistryClient;
use super::content::{ContentStore, InUse, PulledComponent};
use super::{Access, RegistryError};
use lodge_base::config::Config;
use lodge_base::lock::lock;
use lodge_base::telemetry::metrics::Metrics;
use lodge_manifest::digest::Digest;
use lodge_manifest::reference::Reference;

mod schedule;

use self::schedule::{FollowedReference, LATE};

/// The pause after the first failure, and the longest one.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How often other hosts with the same store see what is in use.
const TOUCH: Duration = Duration::from_secs(60 * 60);

/// The references that are followed.
pub struct Pulls {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    /// Whether components that are not in use are removed.
    evicts: bool,
    /// Whether a scan has seen all references.
    scanned: AtomicBool,
    store: OnceLock<Arc<ContentStore>>,
    client: OnceLock<Arc<RegistryClient>>,
    references: Mutex<BTreeMap<Reference, FollowedReference>>,
    /// A reference is new, or has to be pulled again.
    wanted: Notify,
    /// There is something that a scan would find.
    changed: Notify,
    /// An attempt has ended.
    ended: Notify,
}

/// The component of a reference.
#[derive(Debug, PartialEq, Eq)]
pub enum Pulled {
    /// It is there, with its digest. The last pull may have failed.
    Here(PathBuf, Digest, Option<String>),
    /// It is being pulled.
    Coming,
    /// It cannot be pulled at present, and never was.
    Failed(String),
}

impl Pulls {
    /// Follows nothing yet.
    pub fn new(config: Arc<Config>, metrics: Arc<Metrics>) -> Arc<Self> {
        Self::with(config, metrics, true)
    }

    /// Like [`Self::new`], for a command: what others have pulled stays, also if it is too much.
    pub fn of_command(config: Arc<Config>) -> Arc<Self> {
        Self::with(config, Arc::default(), false)
    }

    fn with(config: Arc<Config>, metrics: Arc<Metrics>, evicts: bool) -> Arc<Self> {
        Arc::new(Self {
            config,
            metrics,
            evicts,
            scanned: AtomicBool::new(false),
            store: OnceLock::new(),
            client: OnceLock::new(),
            references: Mutex::default(),
            wanted: Notify::new(),
            changed: Notify::new(),
            ended: Notify::new(),
        })
    }

    /// Opens the store. What prevents that may be mended, so that the next scan tries again.
    fn store(&self) -> Result<Arc<ContentStore>, String> {
        if let Some(store) = self.store.get() {
            return Ok(Arc::clone(store));
        }
        let store = Arc::new(ContentStore::open(&self.config)?);
        Ok(Arc::clone(self.store.get_or_init(|| store)))
    }

    /// Returns the component of a reference, and follows the reference from now on. Blocking: reads the store.
    pub fn component(&self, reference: &Reference) -> Pulled {
        let listed = &self.config.pull.registries;
        if !listed.is_empty() && !listed.contains(&reference.registry) {
            return Pulled::Failed(format!("{} is not in pull.registries", reference.registry));
        }
        let store = match self.store() {
            Ok(store) => store,
            Err(why) => return Pulled::Failed(why),
        };
        // Outside of the lock: a file system may hang.
        let known = lock(&self.references).get(reference).map(|followed| followed.record);
        let (first, is_gone) = match known {
            None => (store.find(reference), false),
            Some(record) => (None, record.is_some_and(|record| !store.has(&record))),
        };
        let mut references = lock(&self.references);
        let followed = references.entry(reference.clone()).or_insert_with(|| {
            // What a digest has led to never changes.
            let due = (first.is_none() || reference.digest.is_none()).then(Instant::now);
            self.wanted.notify_one();
            FollowedReference::new(first, due)
        });
        followed.seen = true;
        if is_gone {
            followed.repeat();
            self.wanted.notify_one();
        }
        match (&followed.record, &followed.problem) {
            (Some(record), problem) => Pulled::Here(store.component(record), record.component, problem.clone()),
            (None, Some(problem)) => Pulled::Failed(problem.clone()),
            (None, None) if followed.late => Pulled::Failed(format!(
                "it has not arrived within {}; the pull goes on",
                humantime::format_duration(LATE)
            )),
            (None, None) => Pulled::Coming,
        }
    }

    /// Removes a component of the store that is not what it should be, and pulls it again.
    pub fn discard(&self, reference: &Reference, digest: Digest) {
        let known = lock(&self.references).get(reference).and_then(|followed| followed.record);
        if let (Ok(store), Some(record)) = (self.store(), known.filter(|record| record.component == digest)) {
            store.discard(&record);
        }
        if let Some(followed) = lock(&self.references).get_mut(reference) {
            followed.repeat();
            self.wanted.notify_one();
        }
    }

    /// Ends a scan: references that it has not seen are not followed any more. Blocking: removes what is not in use from
    /// the store.
    pub fn end_scan(&self) {
        let mut dropped = Vec::new();
        lock(&self.references).retain(|reference, followed| {
            let seen = std::mem::take(&mut followed.seen);
            if let Some(running) = followed.running.take_if(|_| !seen) {
                running.abort();
            }
            if !seen {
                dropped.push(reference.clone());
            }
            seen
        });
        let first = !self.scanned.swap(true, Relaxed);
        // A host without references has no store.
        let Some(store) = self.store.get().filter(|_| self.evicts && (first || !dropped.is_empty())) else { return };
        dropped.iter().for_each(|reference| store.release(reference));
        self.evict(false);
    }

    /// Removes what is not in use from the store, once a scan has seen all references. Blocking.
    fn evict(&self, full: bool) {
        let Some(store) = self.store.get().filter(|_| self.evicts && self.scanned.load(Relaxed)) else { return };
        let mut in_use = InUse::default();
        for (reference, followed) in &*lock(&self.references) {
            let manifests = [followed.record.map(|record| record.manifest), followed.previous, followed.arriving];
            in_use.add(reference, manifests.into_iter().flatten());
        }
        store.evict(&in_use, full);
    }

    /// Notes in the store what is in use.
    fn touch(&self) {
        let Some(store) = self.store.get() else { return };
        let known: Vec<_> = lock(&self.references).keys().cloned().collect();
        known.iter().for_each(|reference| store.touch(reference, SystemTime::now()));
    }

    /// Waits until a scan would find something new.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether the registry of a reference has not been looked at yet, and has to be.
    pub fn is_pulling(&self) -> bool {
        lock(&self.references).values().any(|followed| !followed.looked)
    }

    /// Waits until the registries of all references have been looked at, successfully or not.
    pub async fn looked(&self) {
        loop {
            let ended = self.ended.notified();
            if !self.is_pulling() {
                return;
            }
            ended.await;
        }
    }

    /// Pulls what is due, until it is dropped.
    pub async fn run(self: Arc<Self>) {
        let mut tasks = JoinSet::new();
        // Left by a run that has panicked.
        for followed in lock(&self.references).values_mut() {
            if followed.running.take().is_some() {
                followed.due = Some(Instant::now());
            }
        }
        let mut touch = interval(TOUCH);
        loop {
            let next = self.begin(&mut tasks);
            tokio::select! {
                _ = touch.tick() => {
                    let this = Arc::clone(&self);
                    spawn_blocking(move || this.touch());
                }
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                () = self.wanted.notified() => {}
                () = until(next), if next.is_some() => {}
            }
        }
    }

    async fn attempt(self: Arc<Self>, reference: Reference) {
        let time = self.config.pull.timeout;
        let late = || format!("it did not arrive within {}", humantime::format_duration(time));
        let result = match timeout(time, self.pull(&reference)).await {
            Ok(result) => result,
            Err(_) => Err(RegistryError::new(late())),
        };
        let known = lock(&self.references).get(&reference).and_then(|followed| followed.record);
        let outcome = match &result {
            Ok(record) if known == Some(*record) => "unchanged",
            Ok(_) => "ok",
            Err(_) => "failed",
        };
        self.metrics.pulls.count(outcome);
        if let ("ok", Ok(record)) = (outcome, &result) {
            let size = bytesize::ByteSize(record.size).display().iec();
            tracing::info!("pulled {reference}: component {}, {size}", record.component.short());
        }
        let full = result.as_ref().is_err_and(|error| error.is_full);
        if self.end(&reference, result) {
            self.changed.notify_one();
        }
        self.ended.notify_waiters();
        if outcome != "unchanged" {
            // A panic is logged, and costs space only.
            let _ = spawn_blocking(move || self.evict(full)).await;
        }
    }

    async fn client(&self) -> Result<Arc<RegistryClient>, RegistryError> {
        if let Some(client) = self.client.get() {
            return Ok(Arc::clone(client));
        }
        // Reads certificates.
        let config = Arc::clone(&self.config);
        let made = spawn_blocking(move || RegistryClient::new(&config.pull).map(Arc::new)).await.map_err(ended)?;
        let made = made.map_err(RegistryError::new)?;
        Ok(Arc::clone(self.client.get_or_init(|| made)))
    }

    /// Pulls a reference once.
    async fn pull(self: &Arc<Self>, reference: &Reference) -> Result<PulledComponent, RegistryError> {
        let (client, this) = (self.client().await?, Arc::clone(self));
        let store = spawn_blocking(move || this.store()).await.map_err(ended)?.map_err(RegistryError::new)?;
        let mut session = client.session(reference, Access::Pull);
        let found = session.resolve(reference, self.config.engine.max_file as u64).await?;
        let record = PulledComponent::of(&found);
        if let Some(followed) = lock(&self.references).get_mut(reference) {
            followed.arriving = Some(record.manifest);
        }
        let (at, of) = (Arc::clone(&store), reference.clone());
        let partial = spawn_blocking(move || (!at.has(&record)).then(|| at.partial(&of, &record)).transpose());
        if let Some(partial) = partial.await.map_err(ended)?? {
            session.fetch(&found, partial, &store.component(&record)).await?;
        }
        let of = reference.clone();
        spawn_blocking(move || store.keep(&of, &found)).await.map_err(ended)??;
        Ok(record)
    }

    /// Records the result of an attempt. Returns whether a scan would find something new.
    fn end(&self, reference: &Reference, result: Result<PulledComponent, RegistryError>) -> bool {
        let mut references = lock(&self.references);
        // The manifest may name another one by now.
        let Some(followed) = references.get_mut(reference) else { return false };
        (followed.running, followed.arriving, followed.looked) = (None, None, true);
        let (before, problem) = (followed.record, followed.problem.take());
        let pause = match result {
            Ok(record) => {
                if problem.is_some() {
                    tracing::info!("{reference}: the registry responds again");
                }
                if before != Some(record) {
                    followed.previous = before.map(|before| before.manifest);
                }
                (followed.record, followed.failures) = (Some(record), 0);
                reference.digest.is_none().then_some(self.config.pull.interval)
            }
            Err(error) => {
                let backoff = PAUSE.0.saturating_mul(1 << followed.failures.min(10)).min(PAUSE.1);
                followed.failures = followed.failures.saturating_add(1);
                followed.problem = Some(error.to_string());
                Some(error.after().map_or(backoff, |after| after.max(backoff)))
            }
        };
        // Up to a tenth later, so that hosts do not ask at the same moment.
        let jitter = |pause: Duration| pause / 10 * (getrandom::u32().unwrap_or_default() % 1024) / 1024;
        followed.due = pause.map(|pause| Instant::now() + pause + jitter(pause));
        before != followed.record || problem != followed.problem
    }
}

/// The error of work that has panicked.
fn ended(error: tokio::task::JoinError) -> RegistryError {
    RegistryError::new(error.to_string())
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
