//! What is sent to services besides the requests of clients: the messages that they consume, and the calls of their schedule.
//!
//! [`follow`] keeps a `Consumer` for every served service with `[consume]`, and a `Scheduler` for every one with
//! `[schedule]`. Both send requests through the path of all requests, so that admission, limits, versions, metrics and traces
//! hold for these as well.

mod consumer;
mod delivery;
mod lost;
mod receiving;
mod requests;
mod schedule;
mod slots;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::consumer::Consumer;
use self::lost::{KEPT, LostSubscriptions};
use self::schedule::{ScheduleHistory, Scheduler};
use self::slots::MessageSlots;
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

/// The longest time that ending a subscription may take, and the pause before it is tried again.
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
    /// Of services with consumers, and of those whose last one has messages to settle.
    slots: HashMap<Arc<str>, MessageSlots>,
    schedules: HashMap<Arc<str>, Trigger<Vec<Schedule>>>,
    lost: LostSubscriptions,
    /// Services with subscriptions to messages that are not stored.
    unstored: HashSet<Arc<str>>,
    /// When it is tried again to end subscriptions, after a failure.
    ending_again: Option<Instant>,
    /// Services whose schedules this host has run: the paths of these, and of former ones that run.
    scheduled: HashMap<Arc<str>, Vec<String>>,
    tasks: JoinSet<()>,
}

/// Keeps a consumer for each service with `[consume]` and the schedules of each with `[schedule]`, until the host stops. Then
/// lets them finish.
pub async fn follow(handler: Arc<Handler>, stores: Arc<Stores>, active: Arc<ActiveTriggers>, stop: StopSignal) {
    let current = handler.current.clone();
    let (consumers, slots, schedules, lost, unstored, scheduled, tasks) = Default::default();
    let ending_again = None;
    let mut triggers = Triggers {
        handler,
        stores,
        active,
        consumers,
        slots,
        schedules,
        lost,
        unstored,
        ending_again,
        scheduled,
        tasks,
    };
    let mut generation = 0;
    while !stop.is_stopping() {
        let snapshot = current.snapshot();
        let targets = (snapshot.generation != generation).then(|| snapshot.targets.clone());
        generation = snapshot.generation;
        drop(snapshot);
        if let Some(targets) = targets {
            triggers.reconcile(&targets);
        }
        triggers.end_unstored().await;
        triggers.end_lost_subscriptions().await;
        while triggers.tasks.try_join_next().is_some() {}
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = stop.clone().stopping() => {}
        }
    }
    triggers.consumers.clear();
    triggers.end_unstored().await;
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
    fn reconcile(&mut self, targets: &[Arc<Target>]) {
        self.lose(targets);
        retain(&mut self.consumers, targets, |manifest| manifest.consume.as_ref());
        self.slots.retain(|name, slots| self.consumers.contains_key(name) || slots.are_used());
        retain(&mut self.schedules, targets, |manifest| Some(&manifest.schedules));
        for target in targets.iter().filter(|target| target.of.is_none()) {
            let deployment = target.deployment();
            let (name, manifest, limits) = (&deployment.name, &deployment.spec.manifest, deployment.limits());
            let (handler, stores) = (Arc::clone(&self.handler), Arc::clone(&self.stores));
            let parts = || (Arc::clone(&handler), Arc::clone(&stores), Arc::clone(&deployment.service));
            if !manifest.schedules.is_empty() && !self.schedules.contains_key(name) {
                let calls = &deployment.service.schedules;
                let paths: Vec<_> = manifest.schedules.iter().map(|schedule| schedule.path.clone()).collect();
                calls.retain(paths.iter().map(String::as_str));
                let before = self.scheduled.get(name).cloned();
                let gone = before.iter().flatten().filter(|path| !paths.contains(path)).cloned();
                let gone: Vec<_> = gone.collect();
                let known = paths.into_iter().chain(gone.iter().filter(|path| calls.is_running(path)).cloned());
                self.scheduled.insert(Arc::clone(name), known.collect());
                let scheduler = |schedule: &Schedule| {
                    let (handler, stores, service) = parts();
                    let history = match &before {
                        None => ScheduleHistory::default(),
                        Some(before) if before.contains(&schedule.path) => ScheduleHistory::Resumed(Vec::new()),
                        Some(_) => ScheduleHistory::Resumed(gone.clone()),
                    };
                    Scheduler::new(handler, stores, service, (schedule.clone(), limits, history))
                };
                let schedulers: Vec<_> = manifest.schedules.iter().map(scheduler).collect();
                let trigger = self.begin(&manifest.schedules, limits, |stop| schedule::run(schedulers, stop));
                self.schedules.insert(Arc::clone(name), trigger);
            }
            if let Some(consume) = manifest.consume.as_ref().filter(|_| !self.consumers.contains_key(name)) {
                let (handler, stores, service) = parts();
                if consume.at_most_once {
                    self.unstored.insert(Arc::clone(name));
                }
                let count = consume.concurrency;
                let slots = self.slots.entry(Arc::clone(name)).or_insert_with(|| MessageSlots::new(count));
                let consumer = Consumer::new(handler, stores, service, (consume.clone(), limits), slots.resized(count));
                let trigger = self.begin(consume, limits, |stop| consumer.run(stop));
                self.consumers.insert(Arc::clone(name), trigger);
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

    /// Records which services have no `[consume]`, and says which of them had one.
    fn lose(&mut self, targets: &[Arc<Target>]) {
        let deployments = targets.iter().filter(|target| target.of.is_none()).map(|target| target.deployment());
        let services = deployments.map(|deployment| (&deployment.name, deployment.spec.manifest.consume.is_some()));
        let services: Vec<_> = services.collect();
        let kept = |name: &Arc<str>| self.consumers.get(name).is_some_and(|before| !before.settings.at_most_once);
        for (name, _) in services.iter().filter(|(name, consumes)| !consumes && kept(name)) {
            tracing::warn!(
                service = &***name,
                "{name} consumes no messages any more: those that wait are kept for {}",
                humantime::format_duration(KEPT)
            );
        }
        self.lost.served(services.into_iter(), Instant::now());
    }

    /// Ends subscriptions to messages that are not stored as soon as nobody receives by them, so that other hosts get the messages.
    async fn end_unstored(&mut self) {
        let consumers = &self.consumers;
        let receives = |name: &Arc<str>| consumers.get(name).is_some_and(|consumer| consumer.settings.at_most_once);
        let Some(queue) = self.stores.opened_messages(true) else { return };
        for name in self.unstored.extract_if(|name| !receives(name)) {
            let Ok(consumer) = Namespace::new(&name) else { continue };
            // Nothing is sent for this: it cannot fail.
            let _ = queue.unsubscribe(&consumer, Instant::now() + UNSUBSCRIBE).await;
        }
    }

    /// Ends subscriptions of services that have had no `[consume]` for long. Without an open store there is none that matters.
    async fn end_lost_subscriptions(&mut self) {
        let now = Instant::now();
        let due = self.lost.due(now);
        if due.is_empty() || self.ending_again.is_some_and(|again| now < again) {
            return;
        }
        let Some(queue) = self.stores.opened_messages(false) else { return };
        for name in due {
            let Ok(consumer) = Namespace::new(&name) else { continue };
            match queue.unsubscribe(&consumer, Instant::now() + UNSUBSCRIBE).await {
                Ok(had) => {
                    self.ending_again = None;
                    self.lost.ended(&name);
                    if had {
                        tracing::warn!(
                            service = &*name,
                            "{name} consumes no messages any more: those that waited are discarded"
                        );
                    }
                }
                Err(error) => {
                    // The others would fail as well. Said once, until it succeeds.
                    if self.ending_again.is_none() {
                        tracing::warn!(
                            service = &*name,
                            "the subscription of {name} cannot be ended: {error}; trying again"
                        );
                    }
                    self.ending_again = Some(Instant::now() + UNSUBSCRIBE);
                    return;
                }
            }
        }
    }
}
