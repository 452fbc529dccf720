//! The tasks that run beside requests for as long as the host.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::Host;
use super::housekeeping::{self, Housekeeping};
use super::systemd::Systemd;
use crate::admin::problems::HostFiles;
use crate::admin::readiness::HostReadiness;
use crate::admin::scrape::Scrape;
use crate::admin::{self, Admin};
use crate::cluster;
use crate::guests::reconcile;
use crate::guests::remote::ServicesElsewhere;
use crate::listener::intake::Buffers;
use crate::messages::{self, ActiveTriggers};
use lodge_base::drain::StopSignal;
use lodge_base::lasting::forever;
use lodge_runtime::compile::WASMTIME;
use lodge_traffic::admission::rate::FailedAttempts;

/// What the tasks and the listeners of a running host share.
pub(super) struct RunningHost {
    /// The memory for data that clients send.
    pub(super) buffers: Arc<Buffers>,
    /// Whether the host is stopping.
    pub(super) stop_signal: StopSignal,
    /// An operator asks the host to stop.
    pub(super) stop_requested: Arc<Notify>,
    /// The messages and calls of schedules in progress.
    pub(super) consuming: Arc<ActiveTriggers>,
}

impl Host {
    /// Starts the tasks. They end when the set is dropped.
    pub(super) fn start_tasks(&mut self, running: &RunningHost) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let (current, reset) = (self.publisher.current(), self.reset);
        if let Some(listener) = self.admin.take() {
            let (listener, admin) = (Arc::<TcpListener>::new(listener), Arc::new(self.operators(running)));
            tasks.spawn(forever("admin listener", move || admin::serve(Arc::clone(&listener), Arc::clone(&admin))));
        }
        let (config, deployer) = (Arc::clone(&self.config), Arc::clone(&self.deployer));
        let (publisher, followed) = (self.publisher.clone(), Arc::clone(&self.pulls));
        let (audit, problems) = (self.handler.audit.clone(), self.problems.clone());
        tasks.spawn(forever("directory", move || {
            reconcile::reconcile(
                Arc::clone(&config),
                Arc::clone(&deployer),
                publisher.clone(),
                Arc::clone(&followed),
                (audit.clone(), problems.clone()),
            )
        }));
        let pulls = Arc::clone(&self.pulls);
        tasks.spawn(forever("registries", move || Arc::clone(&pulls).run()));
        let (snapshots, metrics) = (current.clone(), Arc::clone(&self.handler.metrics));
        let (limits, responses) = (self.publisher.shared_limits(), self.handler.responses.clone());
        tasks.spawn(forever("housekeeping", move || {
            Housekeeping::new(snapshots.clone(), Arc::clone(&metrics), Arc::clone(&limits), responses.clone()).run()
        }));
        let (snapshots, cluster) = (current.clone(), self.cluster.clone());
        tasks.spawn(forever("stores", move || housekeeping::read_stores(snapshots.clone(), cluster.clone())));
        tasks.spawn(forever("swap watcher", move || housekeeping::watch_swap(reset)));
        if let Some((_, tls)) = &self.listeners.secure {
            let (tls, problems) = (Arc::clone(tls), self.problems.clone());
            tasks.spawn(forever("certificates", move || Arc::clone(&tls).follow(problems.clone())));
        }
        if let Some(acme) = &self.acme {
            let acme = Arc::clone(acme);
            tasks.spawn(forever("acme", move || Arc::clone(&acme).run()));
        }
        if let Some(cluster) = &self.cluster {
            let (cluster, stores) = (Arc::clone(cluster), Arc::clone(&self.deployer.stores));
            let load = cluster::LocalServices { current: current.clone(), slots: Arc::clone(&self.slots) };
            let (leading, snapshots) = (Arc::clone(&cluster), current.clone());
            tasks.spawn(forever("cluster", move || Arc::clone(&cluster).run(Arc::clone(&stores), load.clone())));
            tasks.spawn(forever("work of the leader", move || Arc::clone(&leading).sweep_objects(snapshots.clone())));
        }
        let stop_signal = running.stop_signal.clone();
        let (handler, stores) = (Arc::clone(&self.handler), Arc::clone(&self.deployer.stores));
        let consuming = Arc::clone(&running.consuming);
        tasks.spawn(forever("messages", move || {
            let (handler, stores, consuming) = (Arc::clone(&handler), Arc::clone(&stores), Arc::clone(&consuming));
            messages::follow(handler, stores, consuming, stop_signal.clone())
        }));
        if let Some(systemd) = Systemd::from_environment() {
            let (systemd, stop_signal) = (Arc::new(systemd), running.stop_signal.clone());
            let readiness = self.readiness();
            tasks
                .spawn(forever("systemd", move || Arc::clone(&systemd).report(readiness.clone(), stop_signal.clone())));
        }
        tasks
    }

    /// Returns what the host waits for when it starts.
    pub(super) fn readiness(&self) -> HostReadiness {
        HostReadiness { current: self.publisher.current(), cluster: self.cluster.clone() }
    }

    /// Returns the parts of the host that operators see and change.
    fn operators(&self, running: &RunningHost) -> Admin {
        let (current, shared_limits) = (self.publisher.current(), self.publisher.shared_limits());
        Admin {
            config: Arc::clone(&self.config),
            audit: self.handler.audit.clone(),
            directory: self.directory.clone(),
            listen: self.address(),
            current: current.clone(),
            readiness: self.readiness(),
            stop_signal: running.stop_signal.clone(),
            stop: Arc::clone(&running.stop_requested),
            elsewhere: ServicesElsewhere::new(self.deployer.upstreams.serving_hosts(), &self.config),
            reset: self.reset,
            responses: self.handler.responses.clone(),
            scrape: Scrape {
                current,
                shared_limits,
                metrics: Arc::clone(&self.handler.metrics),
                unsent: Arc::clone(&self.handler.unsent),
                compression: Arc::clone(&self.handler.compression),
                validation: Arc::clone(&self.handler.validation.memory),
                unmatched: Arc::clone(&self.handler.unmatched),
                logs: Arc::clone(&self.logs),
                audit: self.handler.audit.clone(),
                tracer: self.tracer.clone(),
                buffers: Arc::clone(&running.buffers),
                tls: self.listeners.secure.as_ref().map(|(_, tls)| Arc::clone(tls)),
                acme: self.acme.clone(),
                files: HostFiles {
                    settings: self.problems.clone(),
                    keys: self.operator_keys.clone(),
                    handler: Arc::clone(&self.handler),
                },
                cluster: self.cluster.clone(),
                started: self.started,
                versions: [env!("CARGO_PKG_VERSION"), WASMTIME],
            },
            logs: Arc::clone(&self.logs),
            followers: Arc::new(Semaphore::new(admin::FOLLOWERS)),
            data: Arc::new(Semaphore::new(admin::data::OPERATIONS)),
            stores: Arc::clone(&self.deployer.stores),
            keys: self.operator_keys.clone(),
            handler: Arc::clone(&self.handler),
            refusals: Mutex::default(),
            attempts: FailedAttempts::new(self.config.auth_failures, Instant::now()),
            slots: admin::slots::OperatorSlots::default(),
        }
    }
}
