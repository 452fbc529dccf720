//! Follows the references of manifests: pulls what is not there yet, and looks at tags again and again.
//!
//! The scanner asks for the component of a reference and never waits. A component that was pulled stays available while the
//! registry is away, also after a restart; the problem is reported beside it.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet, spawn_blocking};
use tokio::time::{sleep_until, timeout};

use super::client::RegistryClient;
use super::content::{ContentStore, PulledComponent};
use super::{Access, RegistryError};
use lodge_base::config::Config;
use lodge_base::lock::lock;
use lodge_base::telemetry::metrics::Metrics;
use lodge_manifest::digest::Digest;
use lodge_manifest::reference::Reference;

/// The pause after the first failure, and the longest one.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The references that are followed.
pub struct Pulls {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    store: OnceLock<Result<Arc<ContentStore>, String>>,
    client: OnceLock<Result<Arc<RegistryClient>, String>>,
    references: Mutex<BTreeMap<Reference, FollowedReference>>,
    /// A reference is new, or has to be pulled again.
    wanted: Notify,
    /// There is something that a scan would find.
    changed: Notify,
}

/// A reference that a manifest names.
#[derive(Default)]
struct FollowedReference {
    /// What it has led to.
    record: Option<PulledComponent>,
    /// Why the last attempt failed.
    problem: Option<String>,
    failures: u32,
    /// When the next attempt is due; `None` while one is in progress, or if none is.
    due: Option<Instant>,
    running: Option<AbortHandle>,
    /// Whether the current scan has seen it.
    seen: bool,
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
        Arc::new(Self {
            config,
            metrics,
            store: OnceLock::new(),
            client: OnceLock::new(),
            references: Mutex::default(),
            wanted: Notify::new(),
            changed: Notify::new(),
        })
    }

    fn store(&self) -> Result<Arc<ContentStore>, String> {
        self.store.get_or_init(|| ContentStore::open(&self.config).map(Arc::new)).clone()
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
            FollowedReference { record: first, due, ..FollowedReference::default() }
        });
        followed.seen = true;
        if is_gone {
            followed.repeat();
            self.wanted.notify_one();
        }
        match (&followed.record, &followed.problem) {
            (Some(record), problem) => {
                Pulled::Here(store.component(record.component), record.component, problem.clone())
            }
            (None, Some(problem)) => Pulled::Failed(problem.clone()),
            (None, None) => Pulled::Coming,
        }
    }

    /// Removes a component of the store that is not what it should be, and pulls it again.
    pub fn discard(&self, reference: &Reference, digest: Digest) {
        if let Ok(store) = self.store() {
            store.discard(digest);
        }
        if let Some(followed) = lock(&self.references).get_mut(reference) {
            followed.repeat();
            self.wanted.notify_one();
        }
    }

    /// Ends a scan: references that it has not seen are not followed any more.
    pub fn end_scan(&self) {
        lock(&self.references).retain(|_, followed| {
            let seen = std::mem::take(&mut followed.seen);
            if let Some(running) = followed.running.take_if(|_| !seen) {
                running.abort();
            }
            seen
        });
    }

    /// Waits until a scan would find something new.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether a component is being pulled for the first time.
    pub fn is_pulling(&self) -> bool {
        lock(&self.references).values().any(|followed| followed.record.is_none() && followed.problem.is_none())
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
        loop {
            let next = self.begin(&mut tasks);
            tokio::select! {
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                () = self.wanted.notified() => {}
                () = until(next), if next.is_some() => {}
            }
        }
    }

    /// Starts what is due, as far as there are places. Returns when the next attempt is due, unless all places are in use.
    fn begin(self: &Arc<Self>, tasks: &mut JoinSet<()>) -> Option<Instant> {
        let mut references = lock(&self.references);
        let now = Instant::now();
        let mut due: Vec<_> = references.iter_mut().filter(|(_, followed)| followed.due.is_some()).collect();
        // Services that wait for their first component come before tags.
        due.sort_by_key(|(_, followed)| (followed.record.is_some(), followed.due));
        let mut next: Option<Instant> = None;
        for (reference, followed) in due {
            let Some(at) = followed.due else { continue };
            if at > now {
                next = Some(next.map_or(at, |next| next.min(at)));
            } else if tasks.len() < self.config.pull.concurrent {
                followed.due = None;
                let (this, reference) = (Arc::clone(self), reference.clone());
                followed.running = Some(tasks.spawn(async move { this.attempt(reference).await }));
            }
        }
        if tasks.len() < self.config.pull.concurrent { next } else { None }
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
        if self.end(&reference, result) {
            self.changed.notify_one();
        }
    }

    /// Pulls a reference once.
    async fn pull(&self, reference: &Reference) -> Result<PulledComponent, RegistryError> {
        let client = match self.client.get() {
            Some(client) => client.clone(),
            None => {
                // Reads certificates.
                let (config, at) = (Arc::clone(&self.config), &self.client);
                let made = spawn_blocking(move || RegistryClient::new(&config.pull).map(Arc::new)).await;
                let made = made.map_err(|error| RegistryError::new(error.to_string()))?;
                at.get_or_init(|| made).clone()
            }
        };
        let (client, store) = (client.map_err(RegistryError::new)?, self.store().map_err(RegistryError::new)?);
        let mut session = client.session(reference, Access::Pull);
        let found = session.resolve(reference, self.config.engine.max_file as u64).await?;
        let record = PulledComponent { manifest: found.manifest, component: found.component, size: found.size };
        let blocking = |error: tokio::task::JoinError| RegistryError::new(error.to_string());
        let at = Arc::clone(&store);
        let there = spawn_blocking(move || at.has(&record)).await.map_err(blocking)?;
        if !there {
            let at = Arc::clone(&store);
            let partial = spawn_blocking(move || at.partial(record.component)).await.map_err(blocking)??;
            session.fetch(&found, partial, &store.component(record.component)).await?;
        }
        let mut in_use: HashSet<_> =
            lock(&self.references).values().filter_map(|it| Some(it.record?.component)).collect();
        in_use.insert(record.component);
        let reference = reference.clone();
        let kept = spawn_blocking(move || {
            store.sign(record.component, found.signature.as_deref())?;
            if store.find(&reference) != Some(record) {
                store.keep(&reference, &record)?;
                store.evict(&in_use);
            }
            Ok(record)
        });
        kept.await.map_err(blocking)?
    }

    /// Records the result of an attempt. Returns whether a scan would find something new.
    fn end(&self, reference: &Reference, result: Result<PulledComponent, RegistryError>) -> bool {
        let mut references = lock(&self.references);
        // The manifest may name another one by now.
        let Some(followed) = references.get_mut(reference) else { return false };
        followed.running = None;
        let (before, problem) = (followed.record, followed.problem.take());
        let pause = match result {
            Ok(record) => {
                if problem.is_some() {
                    tracing::info!("{reference}: the registry responds again");
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

impl FollowedReference {
    /// Forgets what is not there any more.
    fn repeat(&mut self) {
        self.record = None;
        if self.running.is_none() {
            self.due = Some(Instant::now());
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
