//! The loop that follows the directory: scan, deploy what is new, publish what can be served.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::absent::Absentees;
use super::builds::{self, BuildState, Builds};
use super::deployments::{DeploymentResult, Deployments, PendingChange};
use super::ledger::Ledger;
use super::login_paths::TakenPath;
use super::publisher::Publisher;
use super::reader::{self, HANGS, Reader};
use super::watch::Ticks;
use crate::audit::{AuditTrail, Event};
use crate::guests::backend::Backend;
use crate::guests::changes::{tell, warn_of};
use crate::guests::deployer::Deployer;
use crate::guests::scan::{self, Scan};
use crate::registry::follow::Pulls;
use lodge_base::config::Config;
use lodge_base::problems::HostProblems;
use lodge_base::telemetry::metrics::Metrics;
use lodge_manifest::refusal::Refusal;
use lodge_manifest::spec::GuestSpec;

/// Keeps the published snapshot in agreement with the directory, until the host ends.
///
/// Guests are compiled concurrently and published one by one, so a slow compilation delays neither the other services
/// nor the next scan.
pub async fn reconcile(
    config: Arc<Config>,
    deployer: Arc<Deployer>,
    publisher: Publisher,
    pulls: Arc<Pulls>,
    (audit, problems): (Option<Arc<AuditTrail>>, HostProblems),
) {
    let (reader, ticks) = match reader::of_directory(&config, &pulls) {
        Ok(reading) => reading,
        Err(error) => {
            return tracing::error!("cannot start the thread that reads {}: {error}", config.guests.display());
        }
    };
    let mut this = Reconciler::new(config, deployer, publisher, reader);
    (this.audit, this.problems) = (audit, problems);
    this.reader.begin();
    loop {
        let next = this.next_scan();
        let hangs = this.reader.since().map(|since| since + HANGS).filter(|_| !this.unreadable);
        tokio::select! {
            biased;
            Some(finished) = this.deployments.tasks.join_next_with_id() => this.end_deployments(finished),
            () = this.builds.changed() => this.follow_builds(),
            // The component of the scan in progress may have come after it was looked at.
            () = pulls.changed() => this.again = Some(Instant::now()),
            scan = this.reader.result(), if this.reader.since().is_some() => match scan {
                Ok(scan) => this.apply(scan),
                Err(error) => this.report_failure(&error),
            },
            () = until(hangs), if hangs.is_some() => this.report_hanging(),
            () = wait(&ticks, next), if this.reader.since().is_none() => this.begin_scan(),
        }
    }
}

/// The state of the loop.
struct Reconciler {
    config: Arc<Config>,
    deployer: Arc<Deployer>,
    publisher: Publisher,
    reader: Reader<Scan>,
    ledger: Ledger<Backend>,
    deployments: Deployments,
    /// The audit trail, which has every change of what is served.
    audit: Option<Arc<AuditTrail>>,
    /// What is wrong with files that settings name.
    problems: HostProblems,
    builds: Arc<Builds>,
    /// Builds that ended before the scan in progress began, so it finds their components.
    unseen: Vec<String>,
    /// The names of the last scan that were ignored, which are logged once.
    ignored: Vec<String>,
    /// When to scan again without a change.
    again: Option<Instant>,
    /// The directory cannot be read, and this was logged.
    unreadable: bool,
    /// The last scan failed. Only a change or the timer starts the next one.
    failed: bool,
    /// After a panic the ledger is new: services that it does not know yet must not stop, so nothing is published.
    restarting: bool,
}

impl Reconciler {
    fn new(config: Arc<Config>, deployer: Arc<Deployer>, publisher: Publisher, reader: Reader<Scan>) -> Self {
        let builds = publisher.builds();
        Self {
            unseen: builds.unseen(),
            builds,
            restarting: publisher.current.snapshot().complete,
            config,
            deployer,
            publisher,
            reader,
            ledger: Ledger::default(),
            deployments: Deployments::default(),
            audit: None,
            problems: HostProblems::default(),
            ignored: Vec::new(),
            again: None,
            unreadable: false,
            failed: false,
        }
    }

    /// Returns when the next scan is due without a change of the directory.
    fn next_scan(&self) -> Option<Instant> {
        [self.again, self.ledger.next_look()].into_iter().flatten().min().filter(|_| !self.failed)
    }

    fn begin_scan(&mut self) {
        self.unseen = self.builds.unseen();
        self.reader.begin();
    }

    /// Applies a finished deployment and all others that have finished: a thousand guests are not a thousand snapshots.
    fn end_deployments(&mut self, finished: DeploymentResult) {
        let (mut finished, mut changes) = (Some(finished), Vec::new());
        while let Some(done) = finished {
            changes.extend(self.deployments.end(done, &mut self.ledger));
            finished = self.deployments.tasks.try_join_next_with_id();
        }
        self.publish();
        tell(changes, &self.publisher.current.snapshot(), &self.config, self.audit.as_deref());
    }

    fn follow_builds(&mut self) {
        if !self.builds.unseen().is_empty() {
            self.again = Some(Instant::now());
        }
        self.publish();
    }

    fn apply(&mut self, scan: Scan) {
        (self.unreadable, self.failed) = (false, false);
        if let Some(audit) = &self.audit {
            scan.keys.into_iter().for_each(|change| audit.record(Event::keys(change)));
        }
        self.problems.set("trust.keys", scan.key_problems);
        let now = Instant::now();
        // A file that still changes does not count yet, so the component of a build may be missing.
        let settled = scan.again.is_none();
        if settled {
            self.builds.seen(std::mem::take(&mut self.unseen));
        }
        let later = scan.again.map(|again| now + again);
        self.again = if settled && !self.builds.unseen().is_empty() { Some(now) } else { later };
        warn_of(&scan.ignored, &mut self.ignored);
        let (mut wanted, changes) = self.ledger.see(scan.found, now);
        // Small components first, so that a slow compilation does not delay many others.
        wanted.sort_by_key(|spec| spec.size);
        wanted.into_iter().for_each(|spec| self.deployments.begin(&self.deployer, spec));
        self.deployments.retain(|spec| self.ledger.wants(spec));
        self.deployer.release(|digest| self.ledger.tries(digest));
        self.publish();
        let changes = changes.into_iter().map(PendingChange::from);
        tell(changes, &self.publisher.current.snapshot(), &self.config, self.audit.as_deref());
    }

    /// Logs once that the directory cannot be read. The services stay: their files were not removed.
    fn report_failure(&mut self, error: &std::io::Error) {
        self.failed = true;
        if !std::mem::replace(&mut self.unreadable, true) {
            let shown = self.config.guests.display();
            tracing::error!("cannot read {shown}, so the services stay as they are: {error}");
        }
    }

    fn report_hanging(&mut self) {
        self.unreadable = true;
        let (shown, long) = (self.config.guests.display(), humantime::format_duration(HANGS));
        tracing::error!(
            "reading {shown} takes more than {long}, so the services stay as they are; its file system may hang"
        );
    }

    fn publish(&mut self) {
        self.restarting &= !self.ledger.is_settled();
        if !self.restarting {
            publish(&self.ledger, &self.publisher, self.deployer.metrics());
            let snapshot = self.publisher.current.snapshot();
            let target = |spec: &GuestSpec| snapshot.target(&spec.name);
            self.ledger.published(|spec| target(spec).is_some_and(|target| target.deployment().spec == *spec));
        }
    }
}

/// Publishes the state of the ledger if it has changed, and logs each refusal once.
fn publish(ledger: &Ledger<Backend>, publisher: &Publisher, metrics: &Metrics) {
    let before = publisher.current.0.load_full();
    let backends: Vec<_> = ledger.live().collect();
    let same = backends.len() == before.wanted.len()
        && backends.iter().zip(&before.wanted).all(|(backend, wanted)| backend.is(wanted));
    let mut pending = publisher.builds.pending();
    let mut refused = ledger.refusals();
    // A service that is not built yet has no component for that reason.
    let lacks = |refusal: &Refusal, name: &str| {
        refusal.reason == scan::NO_COMPONENT && refusal.file.strip_suffix(".toml") == Some(name)
    };
    refused.retain(|refusal| !pending.keys().any(|name| lacks(refusal, name)));
    refused.extend(pending.values().filter_map(BuildState::refusal).cloned());
    pending.retain(|name, _| !backends.iter().any(|backend| *backend.deployment.name == **name));
    let built = pending.values().all(|build| build.refusal().is_some());
    let complete = before.complete || (ledger.is_settled() && built);
    // While the files of a service are missing, its build has the better reason.
    let found = ledger.absent().filter(|absent| absent.manifest.is_some() || !pending.contains_key(absent.name));
    let absent = Absentees::new(found.chain(builds::absent(&pending)), ledger.names());
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
                    "refused {refusal}; still serving version {}",
                    target.deployment().version
                );
            }
            None => tracing::error!(service = stem, "refused {refusal}"),
        }
    }
    let known = before.taken_paths();
    for TakenPath { service, problem } in now.taken_paths().into_iter().filter(|taken| !known.contains(taken)) {
        tracing::warn!(service, "{problem}");
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
