//! What is sent to services besides the requests of clients: the messages that they consume, and the calls of their schedule.
//!
//! [`follow`] keeps a `Consumer` for every served service with `[consume]`, and a `Scheduler` for every one with
//! `[schedule]`. Both send requests through the path of all requests, so that admission, limits, versions, metrics and traces
//! hold for these as well.

mod consumer;
mod delivery;
mod requests;
mod schedule;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::consumer::Consumer;
use self::schedule::Scheduler;
use crate::guests::stores::Stores;
use crate::guests::target::Target;
use crate::request::handler::Handler;
use lodge_base::config::limits::Limits;
use lodge_base::drain::StopSignal;
use lodge_manifest::Manifest;
use lodge_manifest::consume::Consume;
use lodge_manifest::schedule::Schedule;
use lodge_state::Namespace;

/// The time between two looks at what is served.
const INTERVAL: Duration = Duration::from_millis(100);

/// The longest time that ending a subscription may take. It is tried again.
const UNSUBSCRIBE: Duration = Duration::from_secs(5);

/// The number of consumers and schedules that have not finished yet.
#[derive(Debug)]
pub struct ActiveTriggers(watch::Sender<usize>);

/// A consumer or schedule that runs, until it is dropped.
struct ActiveGuard(Arc<ActiveTriggers>);

impl ActiveTriggers {
    /// Creates the count of a host that has none.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(0)))
    }

    fn begin(self: &Arc<Self>) -> ActiveGuard {
        self.0.send_modify(|active| *active += 1);
        ActiveGuard(Arc::clone(self))
    }

    /// Waits until all messages that were being processed are settled, and all calls of schedules have ended.
    pub async fn wait_until_none(&self) {
        // The sender is part of `self`.
        let _ = self.0.subscribe().wait_for(|active| *active == 0).await;
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.0.0.send_modify(|active| *active = active.saturating_sub(1));
    }
}

/// A consumer or schedule in its task, and what it was made from.
struct Trigger<T> {
    settings: T,
    limits: Limits,
    /// Dropped to stop it.
    _stop: watch::Sender<()>,
}

/// The consumers and schedules of all services.
struct Triggers {
    handler: Arc<Handler>,
    stores: Arc<Stores>,
    active: Arc<ActiveTriggers>,
    consumers: HashMap<Arc<str>, Trigger<Consume>>,
    schedules: HashMap<Arc<str>, Trigger<Vec<Schedule>>>,
    /// Services whose subscription was ended because their manifest has none.
    without: HashSet<Arc<str>>,
    /// Services whose schedules this host has run.
    scheduled: HashSet<Arc<str>>,
    tasks: JoinSet<()>,
}

/// Keeps a consumer for each service with `[consume]` and the schedules of each with `[schedule]`, until the host stops. Then
/// lets them finish.
pub async fn follow(handler: Arc<Handler>, stores: Arc<Stores>, active: Arc<ActiveTriggers>, stop: StopSignal) {
    let current = handler.current.clone();
    let (consumers, schedules, without, scheduled, tasks) = Default::default();
    let mut triggers = Triggers { handler, stores, active, consumers, schedules, without, scheduled, tasks };
    let mut generation = 0;
    while !stop.is_stopping() {
        let snapshot = current.snapshot();
        let targets = (snapshot.generation != generation).then(|| snapshot.targets.clone());
        generation = snapshot.generation;
        drop(snapshot);
        if let Some(targets) = targets {
            triggers.reconcile(&targets).await;
        }
        while triggers.tasks.try_join_next().is_some() {}
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = stop.clone().stopping() => {}
        }
    }
    triggers.consumers.clear();
    triggers.schedules.clear();
    while triggers.tasks.join_next().await.is_some() {}
    // The host ends when every task has.
    std::future::pending().await
}

/// Stops the triggers that are not those of `targets`.
fn retain<T: PartialEq>(
    triggers: &mut HashMap<Arc<str>, Trigger<T>>,
    targets: &[Arc<Target>],
    settings: impl Fn(&Manifest) -> Option<&T>,
) {
    triggers.retain(|name, trigger| {
        targets.iter().filter(|target| target.of.is_none()).map(|target| target.deployment()).any(|deployment| {
            deployment.name == *name
                && settings(&deployment.spec.manifest) == Some(&trigger.settings)
                && *deployment.limits() == trigger.limits
        })
    });
}

impl Triggers {
    /// Starts and stops consumers and schedules, so that they are those of `targets`.
    async fn reconcile(&mut self, targets: &[Arc<Target>]) {
        retain(&mut self.consumers, targets, |manifest| manifest.consume.as_ref());
        retain(&mut self.schedules, targets, |manifest| Some(&manifest.schedules));
        for target in targets.iter().filter(|target| target.of.is_none()) {
            let deployment = target.deployment();
            let (name, manifest, limits) = (&deployment.name, &deployment.spec.manifest, deployment.limits());
            let (handler, stores) = (Arc::clone(&self.handler), Arc::clone(&self.stores));
            let parts = || (Arc::clone(&handler), Arc::clone(&stores), Arc::clone(&deployment.service));
            if !manifest.schedules.is_empty() && !self.schedules.contains_key(name) {
                let resumed = !self.scheduled.insert(Arc::clone(name));
                let scheduler = |schedule: &Schedule| {
                    let (handler, stores, service) = parts();
                    Scheduler::new(handler, stores, service, (schedule.clone(), limits, resumed))
                };
                let schedulers: Vec<_> = manifest.schedules.iter().map(scheduler).collect();
                let trigger = self.begin(&manifest.schedules, limits, |stop| schedule::run(schedulers, stop));
                self.schedules.insert(Arc::clone(name), trigger);
            }
            match &manifest.consume {
                Some(consume) if !self.consumers.contains_key(name) => {
                    self.without.remove(name);
                    let (handler, stores, service) = parts();
                    let consumer = Consumer::new(handler, stores, service, (consume.clone(), limits));
                    let trigger = self.begin(consume, limits, |stop| consumer.run(stop));
                    self.consumers.insert(Arc::clone(name), trigger);
                }
                Some(_) => {}
                None => self.unsubscribe(name).await,
            }
        }
    }

    /// Runs a consumer or schedule in a task of its own.
    fn begin<T: Clone, R: Future<Output = ()> + Send + 'static>(
        &mut self,
        settings: &T,
        limits: &Limits,
        run: impl FnOnce(watch::Receiver<()>) -> R,
    ) -> Trigger<T> {
        let (stop, stopped) = watch::channel(());
        let (running, guard) = (run(stopped), self.active.begin());
        self.tasks.spawn(async move {
            running.await;
            drop(guard);
        });
        Trigger { settings: settings.clone(), limits: limits.clone(), _stop: stop }
    }

    /// Ends the subscription of a service that has no `[consume]` any more. Without an open store it has none that matters.
    async fn unsubscribe(&mut self, name: &Arc<str>) {
        let Some(queue) = self.stores.opened_messages().filter(|_| !self.without.contains(name)) else { return };
        let Ok(consumer) = Namespace::new(name) else { return };
        match queue.unsubscribe(&consumer, Instant::now() + UNSUBSCRIBE).await {
            Ok(had) => {
                self.without.insert(Arc::clone(name));
                if had {
                    tracing::info!(
                        service = &**name,
                        "{name} consumes no messages any more: its messages are discarded"
                    );
                }
            }
            Err(error) => tracing::warn!(service = &**name, "the subscription of {name} cannot be ended: {error}"),
        }
    }
}
