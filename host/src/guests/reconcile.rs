//! The loop that follows the directory: it looks, has components compiled, and publishes what can be served.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::absent::Absentees;
use super::builds::{self, Build};
use super::compiling::{Compiling, Told};
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

/// Keeps the published snapshot in agreement with the directory, for ever: look, compile what is new, publish.
///
/// Guests are compiled side by side and published as they come, so one that takes minutes keeps no other from serving,
/// and nothing keeps the directory from being looked at again.
pub async fn reconcile(config: Arc<Config>, deployer: Arc<Deployer>, publisher: Publisher) {
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
            publish(ledger, &publisher, deployer.metrics());
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
                    // A file that still changes is not there yet, so the component of a build may be missing.
                    let settled = scan.again.is_none();
                    if settled {
                        builds.seen(std::mem::take(&mut unseen));
                    }
                    let later = scan.again.map(|again| now + again);
                    again = if settled && !builds.unseen().is_empty() { Some(now) } else { later };
                    warn_of(&scan.ignored, &mut ignored);
                    let (mut wanted, changes) = ledger.see(scan.found, now);
                    // Small ones first: one that takes a minute would keep a hundred waiting.
                    wanted.sort_by_key(|spec| spec.size);
                    wanted.into_iter().for_each(|spec| compiling.begin(&deployer, spec));
                    compiling.retain(|spec| ledger.wants(spec));
                    deployer.release(|digest| ledger.tries(digest));
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
