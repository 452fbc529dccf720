//! The loop that follows the directory: scan, deploy what is new, publish what can be served.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::absent::Absentees;
use super::builds::{self, BuildState};
use super::deployments::{Deployments, PendingChange};
use super::ledger::Ledger;
use super::publisher::Publisher;
use super::reader::{self, HANGS};
use super::watch::Ticks;
use crate::guests::backend::Backend;
use crate::guests::changes::{tell, warn_of};
use crate::guests::deployer::Deployer;
use crate::guests::scan;
use lodge_base::config::Config;
use lodge_base::telemetry::metrics::Metrics;
use lodge_manifest::refusal::Refusal;

/// Keeps the published snapshot in agreement with the directory, until the host ends.
///
/// Guests are compiled concurrently and published one by one, so a slow compilation delays neither the other services
/// nor the next scan.
pub async fn reconcile(config: Arc<Config>, deployer: Arc<Deployer>, publisher: Publisher) {
    let mut ledger = Ledger::default();
    let (mut reader, ticks) = match reader::of_directory(&config) {
        Ok(reading) => reading,
        Err(error) => {
            return tracing::error!("cannot start the thread that reads {}: {error}", config.guests.display());
        }
    };
    let mut compiling = Deployments::default();
    let (mut blind, mut failed, mut ignored, mut again) = (false, false, Vec::new(), None);
    // After a panic the ledger is new. Services that it does not know yet must not stop.
    let mut restarting = publisher.current.snapshot().complete;
    let mut publish = |ledger: &Ledger<Backend>| {
        restarting &= !ledger.is_settled();
        if !restarting {
            publish(ledger, &publisher, deployer.metrics());
        }
    };
    let builds = publisher.builds();
    // A scan finds what was built before the scan began.
    let mut unseen = builds.unseen();
    reader.begin();
    loop {
        // A due scan stays due while the directory cannot be read; then only a change or the timer starts the next one.
        let next = [again, ledger.next_look()].into_iter().flatten().min().filter(|_| !failed);
        let hangs = reader.since().map(|since| since + HANGS).filter(|_| !blind);
        tokio::select! {
            biased;
            Some(finished) = compiling.tasks.join_next_with_id() => {
                // All finished deployments at once: a thousand guests are not a thousand snapshots.
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
                    // A file that still changes does not count yet, so the component of a build may be missing.
                    let settled = scan.again.is_none();
                    if settled {
                        builds.seen(std::mem::take(&mut unseen));
                    }
                    let later = scan.again.map(|again| now + again);
                    again = if settled && !builds.unseen().is_empty() { Some(now) } else { later };
                    warn_of(&scan.ignored, &mut ignored);
                    let (mut wanted, changes) = ledger.see(scan.found, now);
                    // Small components first, so that a slow compilation does not delay many others.
                    wanted.sort_by_key(|spec| spec.size);
                    wanted.into_iter().for_each(|spec| compiling.begin(&deployer, spec));
                    compiling.retain(|spec| ledger.wants(spec));
                    deployer.release(|digest| ledger.tries(digest));
                    publish(&ledger);
                    tell(changes.into_iter().map(PendingChange::from), &publisher.current.snapshot());
                }
                // The services stay: no one has removed them.
                Err(error) => {
                    failed = true;
                    if !std::mem::replace(&mut blind, true) {
                        tracing::error!("cannot read {}, so the services stay as they are: {error}", config.guests.display());
                    }
                }
            },
            () = until(hangs), if hangs.is_some() => {
                blind = true;
                let (shown, long) = (config.guests.display(), humantime::format_duration(HANGS));
                tracing::error!("reading {shown} takes more than {long}, so the services stay as they are; its file system may hang");
            }
            () = wait(&ticks, next), if reader.since().is_none() => {
                unseen = builds.unseen();
                reader.begin();
            }
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
                    "refused {refusal}; still serving version {}",
                    target.deployment().digest().short()
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
