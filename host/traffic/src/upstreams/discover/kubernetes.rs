//! The endpoints of Services of Kubernetes, as the API server knows them.
//!
//! One watch follows the EndpointSlices of a Service for all services of this host whose manifests name it. While the
//! API server is away, what it said last stays in use. What it says is believed at once, also that there is nothing.

mod api_client;
mod event_turn;
mod events;
mod failure;
#[cfg(test)]
pub(in crate::upstreams) mod fake_server;
#[doc(hidden)]
pub mod fuzz;
mod lines;
mod service_watch;
mod slices;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};

use self::api_client::ApiClient;
pub use self::service_watch::WatchPace;
use self::service_watch::{ServiceFollower, ServiceName, ServiceView};
use self::slices::merge;
use super::follow::{SourceTask, jitter, log_update};
use super::source_state::{Resolution, SourceState};
use lodge_base::config;
use lodge_base::lasting::forever;
use lodge_base::lock::lock;
use lodge_base::telemetry::logs::throttle::LogThrottle;
use lodge_manifest::upstream::kubernetes::ServiceEndpoints;
use lodge_manifest::upstream::source::Source;

/// The most watches of this host, each of which is a connection to the API server.
const WATCHES: usize = 256;

/// The watches of Services, shared by all sources of this host.
pub struct ServiceWatches {
    client: Arc<ApiClient>,
    pace: WatchPace,
    open: Mutex<HashMap<ServiceName, Weak<ServiceWatch>>>,
}

/// A watch of a Service. Dropping it ends the watch.
struct ServiceWatch {
    view: watch::Receiver<ServiceView>,
    _task: JoinSet<()>,
}

impl ServiceWatches {
    /// Creates the state for watches by these settings. Without a URL, the variables of this process name the server.
    pub fn new(settings: &config::Kubernetes, pace: WatchPace) -> Self {
        let client = Arc::new(ApiClient::new(settings, |name| std::env::var(name).ok()));
        Self { client, pace, open: Mutex::default() }
    }

    /// Returns the watch of a Service, and begins it if there is none.
    fn watch(&self, name: &ServiceName) -> Result<Arc<ServiceWatch>, String> {
        let mut open = lock(&self.open);
        if let Some(known) = open.get(name).and_then(Weak::upgrade) {
            return Ok(known);
        }
        open.retain(|_, watch| watch.strong_count() > 0);
        if open.len() >= WATCHES {
            return Err(format!("this host watches {WATCHES} Services already"));
        }
        let (sender, view) = watch::channel(ServiceView::default());
        let (client, pace, service) = (Arc::clone(&self.client), self.pace.clone(), name.clone());
        let sender = Arc::new(sender);
        let follow = move || {
            let (client, view) = (Arc::clone(&client), Arc::clone(&sender));
            ServiceFollower { client, name: service.clone(), pace: pace.clone(), view }.run()
        };
        let mut task = JoinSet::new();
        task.spawn(forever("watch of endpoints", follow));
        let watch = Arc::new(ServiceWatch { view, _task: task });
        open.insert(name.clone(), Arc::downgrade(&watch));
        Ok(watch)
    }
}

/// So many endpoints are merged on another thread than those of requests.
const MANY: usize = 1_000;

/// The endpoints of one source.
struct EndpointsTask {
    task: SourceTask,
    source: Source,
    state: SourceState,
    /// What was left out, as it was logged last.
    note: Option<String>,
    log: LogThrottle,
    begun: bool,
}

/// Follows the endpoints of a Service for ever.
pub(super) async fn follow(task: SourceTask, wanted: ServiceEndpoints, watches: Arc<ServiceWatches>) {
    let pace = task.pace.clone();
    let source = Source::Kubernetes(wanted.clone());
    let (state, log) = (SourceState::default(), LogThrottle::default());
    let mut endpoints = EndpointsTask { task, source, state, note: None, log, begun: false };
    loop {
        let namespace = match &wanted.namespace {
            Some(namespace) => Ok(Arc::clone(namespace)),
            None => watches.client.namespace().await,
        };
        let name = namespace.map(|namespace| ServiceName { namespace, service: Arc::clone(&wanted.service) });
        let watch = name.and_then(|name| Ok((watches.watch(&name)?, name)));
        let next = match watch {
            Ok((watch, name)) => endpoints.follow(&watch, &name, &wanted, watches.client.seed).await,
            Err(why) => endpoints.apply(Resolution::Failed(why), None),
        };
        tokio::time::sleep(next.max(pace.least)).await;
    }
}

impl EndpointsTask {
    /// Follows a watch until it ends, which only a panic of it can do.
    async fn follow(
        &mut self,
        watch: &ServiceWatch,
        name: &ServiceName,
        wanted: &ServiceEndpoints,
        seed: u64,
    ) -> Duration {
        // The name that certificates of Services are for, within the cluster.
        let host: Arc<str> = format!("{}.{}.svc", name.service, name.namespace).into();
        let mut view = watch.view.clone();
        let mut next = Duration::ZERO;
        loop {
            let ServiceView { slices, error } = view.borrow_and_update().clone();
            let merged = match slices {
                Some(slices) => {
                    let (is_large, service) = (slices.endpoints() > MANY, name.to_string());
                    let (wanted, host) = (wanted.clone(), Arc::clone(&host));
                    let merge = move || merge(&slices, &service, (wanted.scheme, &wanted.port), &host, seed);
                    if is_large { spawn_blocking(merge).await.ok() } else { Some(merge()) }
                }
                None => None,
            };
            // What is known stays in use while requests fail, also by a source that is new.
            if let Some(merged) = merged.filter(|it| error.is_none() || it.endpoints != self.state.known()) {
                next = self.apply(Resolution::Good(merged.endpoints, Duration::ZERO), merged.note);
            }
            if let Some(why) = error {
                next = self.apply(Resolution::Failed(why), None);
            }
            if view.changed().await.is_err() {
                return next;
            }
        }
    }

    /// Publishes a result. Returns the time until the next one if this one failed.
    fn apply(&mut self, resolution: Resolution<Vec<super::Endpoint>>, note: Option<String>) -> Duration {
        self.task.shared.source_errors.put(self.task.at, resolution.error().or_else(|| note.clone()));
        let update = self.state.apply(resolution, Instant::now(), &self.task.pace, jitter());
        self.log(update.message);
        if self.note != note {
            self.log(note.clone().map(|note| (note, true)));
            self.note = note;
        }
        if update.changed {
            self.task.shared.put(self.task.at, self.state.known().to_vec());
        }
        if !std::mem::replace(&mut self.begun, true) {
            self.task.shared.finish_first_round();
        }
        update.next
    }

    fn log(&mut self, message: Option<(String, bool)>) {
        let Some((text, bad)) = message else { return };
        if let Some(skipped) = self.log.record(Instant::now()) {
            let skipped = if skipped > 0 { format!("; {skipped} lines before were left out") } else { String::new() };
            log_update(&self.source, Some((text + &skipped, bad)));
        }
    }
}

#[cfg(test)]
mod tests;
