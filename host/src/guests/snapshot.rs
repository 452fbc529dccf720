//! What is served right now, as one immutable value, and the loop that makes the next one.
//!
//! A [`Snapshot`] is published by [`reconcile`] and read by requests; that is the only place where the two flows
//! meet. A request that has begun keeps the snapshot's target it found, so nothing is ever changed under it.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::task::JoinSet;

use super::compile::{Compiler, Guest};
use super::load::{self, Refusal, Scan};
use crate::admission::{Admission, Concurrency};
use crate::config::Config;
use crate::request::route::Router;

/// Everything that can be asked, and by whom it is answered.
#[derive(Default)]
pub struct Snapshot {
    /// Grows with every publication.
    pub generation: u64,
    /// Where requests go.
    pub router: Router<Arc<Target>>,
    /// Who is served, by name.
    pub targets: Vec<Arc<Target>>,
    /// What is in the directory and not served.
    pub refusals: Vec<Refusal>,
    /// Every file was compiled or refused. Until then, no route may only mean not yet.
    pub complete: bool,
}

/// A service, and what stands before it.
pub struct Target {
    /// Who answers.
    pub guest: Arc<Guest>,
    /// Who may ask.
    pub admission: Admission,
}

/// The reading end: the snapshot of this moment, for the price of an atomic load.
#[derive(Clone)]
pub struct Current(Arc<ArcSwap<Snapshot>>);

/// The writing end. There is one.
pub struct Publisher {
    current: Current,
    host: Arc<Concurrency>,
}

impl Current {
    /// The snapshot of this moment. Do not hold it across an await: clone the target out of it.
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.0.load()
    }
}

impl Publisher {
    /// An empty, incomplete snapshot; `host` are the places that all services share.
    pub fn new(host: Arc<Concurrency>) -> Self {
        Self { current: Current(Arc::new(ArcSwap::default())), host }
    }

    /// The reading end.
    pub fn current(&self) -> Current {
        self.current.clone()
    }

    /// A publisher for who only wants to see what would be served.
    pub fn alone(config: &Config) -> Self {
        Self::new(Arc::new(Concurrency::new(config.engine.instances, config.engine.queue, config.limits.queue_wait)))
    }

    /// Publishes the next snapshot: these guests, but for those whose routes are taken, and these refusals.
    pub fn publish(&self, mut guests: Vec<Arc<Guest>>, refused: &[Refusal], complete: bool) {
        // By name, so that of two with one route the same one wins at every start.
        guests.sort_by(|a, b| a.name.cmp(&b.name));
        let previous = self.current.snapshot();
        let mut next = Snapshot {
            generation: previous.generation + 1,
            refusals: refused.to_vec(),
            complete,
            ..Snapshot::default()
        };
        for guest in guests {
            let known = previous.targets.iter().find(|target| Arc::ptr_eq(&target.guest, &guest));
            let target = known.cloned().unwrap_or_else(|| {
                let admission = Admission::new(guest.limits(), Arc::clone(&self.host));
                Arc::new(Target { guest, admission })
            });
            next.admit(target);
        }
        self.current.0.store(Arc::new(next));
    }
}

impl Snapshot {
    /// Puts a target at all of its routes, or refuses it whole.
    fn admit(&mut self, target: Arc<Target>) {
        let guest = &target.guest;
        match self.router.own(&host_of(&guest.name), &guest.spec.manifest.routes, &target) {
            Ok(()) => self.targets.push(target),
            Err((route, owner)) => {
                let reason = format!("its route {route} already belongs to {}", owner.guest.name);
                let remedy = "give one of them another name, or other `routes` in its manifest";
                self.refusals.push(Refusal::new(&load::file_name(&guest.spec.path), reason, remedy));
            }
        }
    }
}

/// The host that a service answers at, whatever its routes: host names have no `_`.
pub fn host_of(name: &str) -> String {
    format!("{}.localhost", name.replace('_', "-").to_ascii_lowercase())
}

/// Makes the published snapshot agree with the directory, compiling in parallel and publishing each guest as
/// soon as it is there, so that one that takes minutes keeps no other from serving.
///
/// # Errors
/// When the directory itself cannot be read; then nothing is published.
pub async fn reconcile(
    path: &Path,
    config: &Arc<Config>,
    compiler: &Arc<Compiler>,
    publisher: &Publisher,
) -> std::io::Result<()> {
    let Scan { specs, mut refusals } = scan(path, config).await?;
    let total = specs.len();
    let mut compiling = JoinSet::new();
    for spec in specs {
        let compiler = Arc::clone(compiler);
        compiling.spawn(async move {
            let start = std::time::Instant::now();
            compiler.compile(spec).await.map(|guest| (guest, start.elapsed()))
        });
    }
    let mut guests: Vec<Arc<Guest>> = Vec::new();
    let mut done = 0;
    while let Some(finished) = compiling.join_next().await {
        done += 1;
        match finished {
            Ok(Ok((guest, took))) => {
                let routes: Vec<_> = guest.spec.manifest.routes.iter().map(ToString::to_string).collect();
                let (name, ms) = (&*guest.name, took.as_millis());
                tracing::info!("[{done}/{total}] {name} at {} and {} ({ms} ms)", routes.join(", "), host_of(name));
                guests.push(Arc::new(guest));
            }
            Ok(Err(refusal)) => refusals.push(refusal),
            Err(crash) => tracing::error!("compiling: {crash}"),
        }
        publisher.publish(guests.clone(), &refusals, false);
    }
    publisher.publish(guests, &refusals, true);
    for refusal in &publisher.current.snapshot().refusals {
        tracing::error!("refused {refusal}");
    }
    Ok(())
}

async fn scan(path: &Path, config: &Arc<Config>) -> std::io::Result<Scan> {
    let (path, config) = (path.to_owned(), Arc::clone(config));
    tokio::task::spawn_blocking(move || load::scan(&path, &config)).await.map_err(std::io::Error::other)?
}
