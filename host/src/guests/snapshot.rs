//! What is served right now, as one immutable value, and the loop that makes the next one.
//!
//! A [`Snapshot`] is published by [`reconcile`] and read by requests; that is the only place where the two flows
//! meet. A request that has begun keeps the snapshot's target it found, so nothing is ever changed under it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::task::{AbortHandle, JoinSet};

use super::compile::Compiler;
use super::guest::Guest;
use super::ledger::Ledger;
use super::load::{self, Found, GuestSpec, Refusal, SETTLE, Scanner};
use super::watch::Watch;
use crate::admission::{Admission, Commons, Concurrency};
use crate::config::Config;
use crate::logs::CHANGE;
use crate::metrics::Metrics;
use crate::request::route::{Route, Router};

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
    /// What was to be published: `targets` and `refusals` before routes were given out.
    wanted: Vec<Arc<Guest>>,
    refused: Vec<Refusal>,
    /// Every file was compiled or refused. Until then, no route may only mean not yet.
    pub complete: bool,
}

/// A service, and what stands before it.
pub struct Target {
    /// Who answers.
    pub guest: Arc<Guest>,
    /// Who may ask. What it knows survives new versions: who is in flight, what is used of a rate.
    pub admission: Arc<Admission>,
}

/// The reading end: the snapshot of this moment, for the price of an atomic load.
#[derive(Clone)]
pub struct Current(Arc<ArcSwap<Snapshot>>);

/// The writing end. There is one.
pub struct Publisher {
    current: Current,
    commons: Arc<Commons>,
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
        Self { current: Current(Arc::new(ArcSwap::default())), commons: Arc::new(Commons::new(host)) }
    }

    /// What all services share.
    pub fn commons(&self) -> Arc<Commons> {
        Arc::clone(&self.commons)
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
    ///
    /// Of two guests with one route the one that has it already keeps it, else the first by name; the other goes on
    /// with its previous version if that one's routes are free. Until the first complete snapshot nobody has a route
    /// already: who compiles faster must not decide.
    pub fn publish(&self, guests: Vec<Arc<Guest>>, refused: Vec<Refusal>, complete: bool) {
        let previous = self.current.snapshot();
        let generation = previous.generation + 1;
        let (wanted, refusals) = (guests.clone(), refused.clone());
        let mut next = Snapshot { generation, wanted, refused, refusals, complete, ..Snapshot::default() };
        let of = |name: &str| previous.targets.iter().find(|target| &*target.guest.name == name);
        let mut targets: Vec<_> = guests.into_iter().map(|guest| self.target(of(&guest.name), guest)).collect();
        let holds = |target: &Target| {
            previous.complete && of(&target.guest.name).is_some_and(|old| old.guest.routes() == target.guest.routes())
        };
        targets.sort_by_cached_key(|target| (!holds(target), Arc::clone(&target.guest.name)));
        for target in targets {
            let name = Arc::clone(&target.guest.name);
            if let Err(refusal) = next.admit(target) {
                next.refusals.push(refusal);
                if let Some(old) = of(&name) {
                    // It may have lost these as well, and then it is refused already.
                    let _ = next.admit(Arc::clone(old));
                }
            }
        }
        for target in &next.targets {
            target.guest.takes_over();
            target.admission.takes_over();
        }
        self.commons.shedding.reserve(next.targets.iter().any(|target| target.guest.spec.manifest.terms.is_high()));
        next.targets.sort_by(|a, b| a.guest.name.cmp(&b.guest.name));
        next.refusals.sort_by(|a, b| a.file.cmp(&b.file));
        self.current.0.store(Arc::new(next));
    }

    fn target(&self, previous: Option<&Arc<Target>>, guest: Arc<Guest>) -> Arc<Target> {
        if let Some(old) = previous.filter(|old| Arc::ptr_eq(&old.guest, &guest)) {
            return Arc::clone(old);
        }
        let said = (guest.limits(), &guest.spec.manifest.terms);
        let known = previous.map(|old| (&*old.admission, old.guest.digest() != guest.digest()));
        let admission = Admission::new(&guest.name, said, &self.commons, known, Instant::now());
        Arc::new(Target { guest, admission: Arc::new(admission) })
    }
}

impl Snapshot {
    /// Puts a target at all of its routes, or refuses it whole.
    fn admit(&mut self, target: Arc<Target>) -> Result<(), Refusal> {
        let guest = &target.guest;
        let own = guest.spec.host().map(Route::host);
        if let Err((route, owner)) = self.router.own(guest.routes().iter().chain(&own), &target) {
            let reason = format!("its route {route} already belongs to {}", owner.guest.name);
            let remedy = "give one of them another name, or other `routes` in its manifest";
            return Err(Refusal::new(&load::file_name(&guest.spec.path), reason, remedy));
        }
        self.targets.push(target);
        Ok(())
    }
}

/// Keeps the published snapshot in agreement with the directory, for ever: look, compile what is new, publish.
///
/// Guests are compiled side by side and published as they come, so one that takes minutes keeps no other from serving,
/// and nothing keeps the directory from being looked at again.
pub async fn reconcile(config: Arc<Config>, compiler: Arc<Compiler>, publisher: Publisher) {
    let mut ledger = Ledger::default();
    let mut eyes = Eyes { watch: Watch::new(&config.guests, config.watch.poll), scanner: Scanner::new(&config.guests) };
    let mut compiling = Compiling::default();
    let mut blind = false;
    loop {
        let looked = eyes.look(&config);
        let mut again = None;
        match looked {
            Ok(found) => {
                blind = false;
                again = found.values().any(|found| !found.settled).then(|| Instant::now() + SETTLE);
                let (mut wanted, changes) = ledger.see(found, Instant::now());
                changes
                    .iter()
                    .for_each(|change| tracing::info!(target: CHANGE, service = change.service(), "{change}"));
                // Small ones first: one that takes a minute would keep a hundred waiting.
                wanted.sort_by_key(|spec| spec.size);
                wanted.into_iter().for_each(|spec| compiling.begin(&compiler, spec));
                publish(&ledger, &publisher, &compiler.metrics);
            }
            // What was served goes on being served: nobody asked for it to go.
            Err(error) if !blind => {
                blind = true;
                tracing::error!("{} cannot be read, serving what was there: {error}", config.guests.display());
            }
            Err(_) => {}
        }
        let next = [again, ledger.next_look()].into_iter().flatten().min();
        loop {
            tokio::select! {
                biased;
                Some(finished) = compiling.tasks.join_next() => {
                    // All that are done: a thousand guests are not a thousand snapshots.
                    let mut finished = Some(finished);
                    while let Some(done) = finished {
                        compiling.end(done, &mut ledger);
                        finished = compiling.tasks.try_join_next();
                    }
                    publish(&ledger, &publisher, &compiler.metrics);
                }
                () = eyes.watch.tick() => break,
                () = until(next) => break,
            }
        }
    }
}

/// What looks at the directory.
struct Eyes {
    watch: Watch,
    scanner: Scanner,
}

impl Eyes {
    /// Blocking work, on a thread for that: a network file system may keep it waiting.
    fn look(&mut self, config: &Config) -> std::io::Result<BTreeMap<String, Found>> {
        tokio::task::block_in_place(|| {
            self.watch.arm();
            self.scanner.scan(config)
        })
    }
}

/// What a compilation came to, and how long it took.
type Finished = (GuestSpec, Result<Arc<Guest>, Refusal>, Duration);

/// Compilations under way, and how far this burst of them is.
#[derive(Default)]
struct Compiling {
    tasks: JoinSet<Finished>,
    /// The latest of each name.
    latest: HashMap<String, AbortHandle>,
    begun: usize,
    done: usize,
}

impl Compiling {
    fn begin(&mut self, compiler: &Arc<Compiler>, spec: GuestSpec) {
        if self.tasks.is_empty() {
            (self.begun, self.done) = (0, 0);
            self.latest.clear();
        }
        self.begun += 1;
        let (name, compiler) = (spec.name.clone(), Arc::clone(compiler));
        let task = self.tasks.spawn(async move {
            let start = Instant::now();
            let result = compiler.compile(spec.clone()).await;
            (spec, result, start.elapsed())
        });
        // A version that was replaced while it waited for its turn must not take it.
        if let Some(older) = self.latest.insert(name, task) {
            older.abort();
        }
    }

    fn end(&mut self, finished: Result<Finished, tokio::task::JoinError>, ledger: &mut Ledger<Arc<Guest>>) {
        self.done += 1;
        let (spec, result, took) = match finished {
            Ok(finished) => finished,
            Err(end) if end.is_cancelled() => return,
            Err(crash) => return tracing::error!("compiling: {crash}"),
        };
        if let Some(change) = ledger.compiled(spec, result) {
            let (done, begun, ms) = (self.done, self.begun, took.as_millis());
            tracing::info!(target: CHANGE, service = change.service(), "[{done}/{begun}] {change} ({ms} ms)");
        }
    }
}

/// Publishes what the ledger says, if that is anything new, and says once what is refused.
fn publish(ledger: &Ledger<Arc<Guest>>, publisher: &Publisher, metrics: &Metrics) {
    let before = publisher.current.0.load_full();
    let guests: Vec<_> = ledger.guests().collect();
    let complete = before.complete || ledger.is_settled();
    let same = guests.len() == before.wanted.len()
        && guests.iter().zip(&before.wanted).all(|(guest, wanted)| Arc::ptr_eq(guest, wanted));
    if same && complete == before.complete && ledger.refusals() == before.refused {
        return;
    }
    publisher.publish(guests, ledger.refusals(), complete);
    let now = publisher.current.snapshot();
    for refusal in now.refusals.iter().filter(|refusal| !before.refusals.contains(refusal)) {
        let stem = refusal.file.rsplit_once('.').map_or(&*refusal.file, |(stem, _)| stem);
        match now.targets.iter().find(|target| &*target.guest.name == stem) {
            Some(target) => {
                metrics.reload_failures.fetch_add(1, Relaxed);
                tracing::error!(
                    service = stem,
                    "refused {refusal}; version {} goes on serving",
                    target.guest.digest().short()
                );
            }
            None => tracing::error!(service = stem, "refused {refusal}"),
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}
