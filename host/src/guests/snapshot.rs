//! What is served right now, as one immutable value, and the loop that makes the next one.
//!
//! A [`Snapshot`] is published by [`reconcile`] and read by requests; that is the only place where the two flows
//! meet. A request that has begun keeps the snapshot's target it found, so nothing is ever changed under it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use arc_swap::ArcSwap;

use super::absent::Absentees;
use super::builds::{self, Build, Builds};
use super::compiling::{Compiling, Told};
use super::ledger::Ledger;
use super::reader::{self, HANGS};
use super::target::{self, Target};
use super::watch::Ticks;
use crate::admission::{Admission, Concurrency, SharedLimits};
use crate::config::Config;
use crate::guests::backend::Backend;
use crate::guests::changes::{tell, warn_of};
use crate::guests::scan;
use crate::manifest::policies::Policies;
use crate::manifest::policies::PolicySettings;
use crate::manifest::refusal::Refusal;
use crate::manifest::refusal::file_name;
use crate::manifest::route::Route;
use crate::manifest::share::Percent;
use crate::manifest::spec::host_of;
use crate::routing::router::Router;
use crate::runtime::compile::Compiler;
use crate::telemetry::metrics::Metrics;

/// Everything that can be asked, and by whom it is answered.
#[derive(Default)]
pub struct Snapshot {
    /// Grows with every publication.
    pub generation: u64,
    /// Where requests go.
    pub router: Router<Arc<Target>>,
    /// Who is served, by name.
    pub targets: Vec<Arc<Target>>,
    /// Who is served, by the host whose every path is theirs: what calls between services go by.
    pub hosts: HashMap<String, Arc<Target>>,
    /// The route that these have.
    pub everywhere: Arc<str>,
    /// What is in the directory and not served.
    pub refusals: Vec<Refusal>,
    /// What was to be published: `targets` and `refusals` before routes were given out.
    wanted: Vec<Backend>,
    refused: Vec<Refusal>,
    /// Every file was compiled or refused.
    pub complete: bool,
    /// Services that are in the directory and do not answer.
    pub absent: Absentees,
}

/// The reading end: the snapshot of this moment, for the price of an atomic load.
#[derive(Clone)]
pub struct Current(Arc<ArcSwap<Snapshot>>);

/// The writing end, for one task.
#[derive(Clone)]
pub struct Publisher {
    current: Current,
    shared_limits: Arc<SharedLimits>,
    builds: Arc<Builds>,
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
        let current = Current(Arc::new(ArcSwap::default()));
        Self { current, shared_limits: Arc::new(SharedLimits::new(host)), builds: Arc::default() }
    }

    /// What all services share.
    pub fn shared_limits(&self) -> Arc<SharedLimits> {
        Arc::clone(&self.shared_limits)
    }

    /// What it shows of builds.
    pub fn builds(&self) -> Arc<Builds> {
        Arc::clone(&self.builds)
    }

    /// The reading end.
    pub fn current(&self) -> Current {
        self.current.clone()
    }

    /// A publisher for who only wants to see what would be served.
    pub fn alone(config: &Config) -> Self {
        Self::new(Arc::new(Concurrency::new(config.engine.instances, config.engine.queue, config.limits.queue_wait)))
    }

    /// Publishes the next snapshot: these backends, but for those whose routes are taken, and these refusals.
    ///
    /// Of two services with one route the one that has it already keeps it, else the first by name; the other goes on
    /// with its previous version if that one's routes are free. Until the first complete snapshot nobody has a route
    /// already: who compiles faster must not decide.
    pub fn publish(&self, backends: Vec<Backend>, refused: Vec<Refusal>, complete: bool) {
        self.publish_beside(backends, refused, complete, Absentees::default());
    }

    /// The same where these services do not answer.
    fn publish_beside(&self, backends: Vec<Backend>, refused: Vec<Refusal>, complete: bool, absent: Absentees) {
        let previous = self.current.snapshot();
        let generation = previous.generation + 1;
        let (wanted, refusals) = (backends.clone(), refused.clone());
        let mut next = Snapshot {
            generation,
            wanted,
            refused,
            refusals,
            complete,
            absent,
            everywhere: Arc::from("/*"),
            ..Snapshot::default()
        };
        let mut targets = self.targets(&previous, backends, &mut next.refusals);
        let holds = |target: &Target| {
            let old = previous.target(&target.backend.name);
            previous.complete && old.is_some_and(|old| old.backend.routes() == target.backend.routes())
        };
        targets.sort_by_cached_key(|target| (!holds(target), Arc::clone(&target.backend.name)));
        for target in targets {
            let name = Arc::clone(&target.backend.name);
            if let Err(refusal) = next.admit(target) {
                next.refusals.push(refusal);
                if let Some(old) = previous.target(&name) {
                    // It may have lost these as well, and then it is refused already.
                    let _ = next.admit(Arc::clone(old));
                }
            }
        }
        let served = next.targets.iter().map(|target| (target.backend.routes(), target.backend.spec.host()));
        next.absent.beside(served);
        for target in &next.targets {
            target.backend.activate();
            // Versions have their service's.
            if target.of.is_none() {
                target.admission.activate();
            }
        }
        let is_high = |target: &Arc<Target>| target.backend.spec.manifest.policies.is_high();
        self.shared_limits.shedding.set_reserved(next.targets.iter().any(is_high));
        next.targets.sort_by(|a, b| a.backend.name.cmp(&b.backend.name));
        next.refusals.sort_by(|a, b| a.file.cmp(&b.file));
        self.current.0.store(Arc::new(next));
    }

    /// Every service with its versions, and the versions themselves; those that cannot be are refused.
    fn targets(&self, previous: &Snapshot, backends: Vec<Backend>, refusals: &mut Vec<Refusal>) -> Vec<Arc<Target>> {
        let mut targets = Vec::new();
        let (mut versions, services): (Vec<_>, Vec<_>) =
            backends.into_iter().partition(|backend| backend.spec.version_of().is_some());
        for backend in services {
            let old = previous.target(&backend.name);
            let admission = match old {
                Some(old) if old.backend.is(&backend) => Arc::clone(&old.admission),
                _ => {
                    let said = (backend.limits(), &backend.spec.manifest.policies);
                    let known = old.map(|old| (&*old.admission, backend.is_another(&old.backend)));
                    Arc::new(Admission::new(&backend.name, said, &self.shared_limits, known, Instant::now()))
                }
            };
            let mut beside = Vec::new();
            let mut left = Percent::ALL.0;
            let its = |version: &mut Backend| version.spec.version_of().is_some_and(|(of, _)| *of == *backend.name);
            for version in versions.extract_if(.., its) {
                let last = previous.target(&version.name);
                let new = self.version(last, version, &backend, &admission);
                // Its last good version, if what is wanted now is too much; but behind what stands there now.
                let last_good =
                    || last.map(|last| self.version(Some(last), last.backend.clone(), &backend, &admission));
                let fit = |target: Arc<Target>| {
                    let share = target.share();
                    left.checked_sub(share.percent.0).map(|rest| (rest, share, target))
                };
                let fitting = fit(Arc::clone(&new)).or_else(|| {
                    refusals.push(target::too_much(&new, Percent(left)));
                    last_good().and_then(fit)
                });
                if let Some((rest, share, target)) = fitting {
                    left = rest;
                    targets.push(Arc::clone(&target));
                    beside.push((share, target));
                }
            }
            targets.push(Target::service(old, backend, admission, beside));
        }
        refusals.extend(versions.iter().map(target::alone));
        targets
    }

    /// A version of a service whose admission is this: they share its places.
    fn version(
        &self,
        old: Option<&Arc<Target>>,
        backend: Backend,
        service: &Backend,
        admission: &Arc<Admission>,
    ) -> Arc<Target> {
        if let Some(old) = old.filter(|old| old.backend.is(&backend) && Arc::ptr_eq(&old.admission, admission)) {
            return Arc::clone(old);
        }
        let shown = backend.spec.manifest.share.as_ref().is_some_and(|share| share.mirror > Percent(0));
        let said = (backend.limits(), &Policies::default());
        let known = old.and_then(|old| old.shadow.as_ref()).map(|known| (known, false));
        let shadow = shown.then(|| Admission::new(&backend.name, said, &self.shared_limits, known, Instant::now()));
        shadow.iter().for_each(Admission::activate);
        let of = Some(Arc::clone(&service.service));
        Arc::new(Target { backend, admission: Arc::clone(admission), split: None, shadow, of })
    }
}

impl Snapshot {
    /// The service, or version of one, that has this name.
    pub fn target(&self, name: &str) -> Option<&Arc<Target>> {
        let place = self.targets.binary_search_by(|target| (*target.backend.name).cmp(name)).ok()?;
        self.targets.get(place)
    }

    /// Puts a target at all of its routes, or refuses it whole.
    fn admit(&mut self, target: Arc<Target>) -> Result<(), Refusal> {
        let backend = &target.backend;
        let called = host_of(&backend.name);
        // Where both have a host of their own the router says so.
        let unhosted = |owner: &&Arc<Target>| backend.spec.host().is_none() || owner.backend.spec.host().is_none();
        if let Some(owner) = self.hosts.get(&called).filter(unhosted) {
            let reason = format!("{} has the same name to who calls it", owner.backend.name);
            return Err(Refusal::new(&file_name(&backend.spec.path), reason, "give one of them another name"));
        }
        let host = |host| Route { cache: backend.spec.manifest.cache, ..Route::host(host) };
        let own = backend.spec.host().map(host);
        let guarded = backend.spec.manifest.policies.service != PolicySettings::default();
        if let Err((route, owner)) = self.router.insert(backend.routes().iter().chain(&own), &target, guarded) {
            let reason = format!("its route {route} already belongs to {}", owner.backend.name);
            let remedy = "give one of them another name, or other `routes` in its manifest";
            return Err(Refusal::new(&file_name(&backend.spec.path), reason, remedy));
        }
        self.hosts.insert(called, Arc::clone(&target));
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
    let (mut reader, ticks) = match reader::of_directory(&config) {
        Ok(reading) => reading,
        Err(error) => return tracing::error!("no thread reads {}: {error}", config.guests.display()),
    };
    let mut compiling = Compiling::default();
    let (mut blind, mut failed, mut ignored, mut again) = (false, false, Vec::new(), None);
    // After a panic the ledger is new, and what it does not know yet must not stop serving.
    let mut restarting = publisher.current.snapshot().complete;
    let mut publish = |ledger: &Ledger<Backend>| {
        restarting &= !ledger.is_settled();
        if !restarting {
            publish(ledger, &publisher, &compiler.metrics);
        }
    };
    let builds = publisher.builds();
    // What was built before a look began, that look finds.
    let mut unseen = builds.unseen();
    reader.begin();
    loop {
        // What is due stays due while the directory cannot be read: then only a change or the timer brings the next look.
        let next = [again, ledger.next_look()].into_iter().flatten().min().filter(|_| !failed);
        let hangs = reader.since().map(|since| since + HANGS).filter(|_| !blind);
        tokio::select! {
            biased;
            Some(finished) = compiling.tasks.join_next_with_id() => {
                // All that are done: a thousand guests are not a thousand snapshots.
                let (mut finished, mut changes) = (Some(finished), Vec::new());
                while let Some(done) = finished {
                    changes.extend(compiling.end(done, &mut ledger));
                    finished = compiling.tasks.try_join_next_with_id();
                }
                publish(&ledger);
                tell(changes, &publisher.current.snapshot());
            }
            () = builds.changed() => {
                if !builds.unseen().is_empty() {
                    again = Some(Instant::now());
                }
                publish(&ledger);
            }
            scan = reader.result(), if reader.since().is_some() => match scan {
                Ok(scan) => {
                    (blind, failed) = (false, false);
                    let now = Instant::now();
                    builds.seen(std::mem::take(&mut unseen));
                    again = if builds.unseen().is_empty() { scan.again.map(|again| now + again) } else { Some(now) };
                    warn_of(&scan.ignored, &mut ignored);
                    let (mut wanted, changes) = ledger.see(scan.found, now);
                    // Small ones first: one that takes a minute would keep a hundred waiting.
                    wanted.sort_by_key(|spec| spec.size);
                    wanted.into_iter().for_each(|spec| compiling.begin(&compiler, spec));
                    compiling.retain(|spec| ledger.wants(spec));
                    compiler.release(|digest| ledger.tries(digest));
                    publish(&ledger);
                    tell(changes.into_iter().map(Told::from), &publisher.current.snapshot());
                }
                // What was served goes on being served: nobody asked for it to go.
                Err(error) => {
                    failed = true;
                    if !std::mem::replace(&mut blind, true) {
                        tracing::error!("{} cannot be read, serving what was there: {error}", config.guests.display());
                    }
                }
            },
            () = until(hangs), if hangs.is_some() => {
                blind = true;
                let (shown, long) = (config.guests.display(), humantime::format_duration(HANGS));
                tracing::error!("{shown} is not read within {long}, serving what was there; its file system may hang");
            }
            () = wait(&ticks, next), if reader.since().is_none() => {
                unseen = builds.unseen();
                reader.begin();
            }
        }
    }
}

/// Publishes what the ledger says, if that is anything new, and says once what is refused.
fn publish(ledger: &Ledger<Backend>, publisher: &Publisher, metrics: &Metrics) {
    let before = publisher.current.0.load_full();
    let backends: Vec<_> = ledger.live().collect();
    let same = backends.len() == before.wanted.len()
        && backends.iter().zip(&before.wanted).all(|(backend, wanted)| backend.is(wanted));
    let mut pending = publisher.builds.pending();
    let mut refused = ledger.refusals();
    // What is not built yet lacks its component for that reason.
    let lacks = |refusal: &Refusal, name: &str| {
        refusal.reason == scan::NO_COMPONENT && refusal.file.strip_suffix(".toml") == Some(name)
    };
    refused.retain(|refusal| !pending.keys().any(|name| lacks(refusal, name)));
    refused.extend(pending.values().filter_map(Build::refusal).cloned());
    pending.retain(|name, _| !backends.iter().any(|backend| *backend.name == **name));
    let built = pending.values().all(|build| build.refusal().is_some());
    let complete = before.complete || (ledger.is_settled() && built);
    // Of a service whose files say nothing yet, its build says more.
    let found = ledger.absent().filter(|absent| absent.spec.is_some() || !pending.contains_key(absent.name));
    let absent = Absentees::new(found.chain(builds::absent(&pending)));
    if same && complete == before.complete && refused == before.refused && absent.are(&before.absent) {
        return;
    }
    publisher.publish_beside(backends, refused, complete, absent);
    let now = publisher.current.snapshot();
    for refusal in now.refusals.iter().filter(|refusal| !before.refusals.contains(refusal)) {
        let stem = refusal.file.rsplit_once('.').map_or(&*refusal.file, |(stem, _)| stem);
        match now.target(stem) {
            Some(target) => {
                metrics.reload_failures.fetch_add(1, Relaxed);
                tracing::error!(
                    service = stem,
                    "refused {refusal}; version {} goes on serving",
                    target.backend.digest().short()
                );
            }
            None => tracing::error!(service = stem, "refused {refusal}"),
        }
    }
}

async fn wait(ticks: &Ticks, next: Option<Instant>) {
    tokio::select! {
        () = ticks.tick() => {}
        () = until(next) => {}
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
