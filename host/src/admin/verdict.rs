//! Waits until a host has noticed changed files, and returns the result.

use std::time::{Duration, Instant};

use super::contract::{FileReport, Judgement, RefusedFile, ServiceStatus};
use lodge_manifest::digest::Digest;

/// The timeout for serving a new component: a large one may take a minute to compile.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(90);

/// The timeout for noticing a disabled version, before its files are removed anyway.
const DISABLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Until then, a refusal may be that of the previous files: new files are refused only after they have settled.
const RESCAN: Duration = Duration::from_secs(1);

/// The interval between looks at the host.
const POLL: Duration = Duration::from_millis(100);

/// What a host serves and refuses, as it is now, or why it cannot be asked.
pub(crate) type Reports<'a> = &'a dyn Fn() -> Result<Vec<FileReport>, String>;

/// What the host reports about a component.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The component is served.
    Serving,
    /// It is refused, with the reason.
    Refused(String),
    /// The host has not reported it in time.
    TimedOut,
    /// The host cannot be reached, with the reason.
    Unreachable(String),
}

impl Verdict {
    /// Waits for the host to serve or refuse the component, at most `timeout`. `known` is what the host refused before the files were
    /// changed: it does so until it has compiled what replaces them.
    pub(crate) fn wait(
        (reports, timeout): (Reports<'_>, Duration),
        name: &str,
        digest: Digest,
        known: Option<&RefusedFile>,
    ) -> Self {
        let (start, digest) = (Instant::now(), digest.to_string());
        let is_its = |why: &&RefusedFile| match &why.digest {
            Some(its) => *its == digest,
            None => known != Some(*why),
        };
        while start.elapsed() < timeout {
            let entries = match reports() {
                Ok(entries) => entries,
                Err(why) => return Self::Unreachable(why),
            };
            match refusals(&entries, name).find(is_its) {
                Some(why) if start.elapsed() >= RESCAN => return Self::Refused(said(why)),
                None if services_named(&entries, name).any(|service| service.info.digest == digest) => {
                    return Self::Serving;
                }
                _ => {}
            }
            std::thread::park_timeout(POLL);
        }
        Self::TimedOut
    }
}

/// Gives the host time to notice the new files: it may already serve the same component with the previous manifest.
pub(crate) fn wait_for_rescan() {
    let start = Instant::now();
    while let Some(left) = RESCAN.checked_sub(start.elapsed()) {
        std::thread::park_timeout(left);
    }
}

/// Waits until no version of this name is served, since until then it gets its share of requests. Returns whether that is so. Does
/// not wait for a host that cannot be reached.
pub(crate) fn wait_until_gone(reports: Reports<'_>, name: &str) -> bool {
    is_gone(reports, name, TIMEOUT)
}

/// Waits until the host has noticed that a version is disabled.
pub(crate) fn wait_until_disabled(reports: Reports<'_>, name: &str) {
    is_gone(reports, name, DISABLE_TIMEOUT);
}

fn is_gone(reports: Reports<'_>, name: &str, timeout: Duration) -> bool {
    let start = Instant::now();
    while reports().is_ok_and(|entries| services_named(&entries, name).next().is_some()) {
        if start.elapsed() >= timeout {
            return false;
        }
        std::thread::park_timeout(POLL);
    }
    true
}

/// Returns why the host withdrew this version, if it did and can be reached.
pub(crate) fn withdrawn(reports: Reports<'_>, name: &str) -> Option<String> {
    services_named(&reports().ok()?, name).find_map(|service| service.activity.withdrawn.clone())
}

/// Returns by how much this version was judged, if the host can be reached.
pub(crate) fn judgement(reports: Reports<'_>, name: &str) -> Option<Judgement> {
    services_named(&reports().ok()?, name).find_map(|service| service.activity.judged.clone())
}

/// Returns why the host refuses the files of this service or version, if it does and can be reached.
pub(crate) fn refused(reports: Reports<'_>, name: &str) -> Option<RefusedFile> {
    refusals(&reports().ok()?, name).next().cloned()
}

/// Returns why files are refused, as one line.
pub(crate) fn said(why: &RefusedFile) -> String {
    format!("{}; {}", why.reason, why.remedy)
}

fn refusals<'a>(entries: &'a [FileReport], name: &'a str) -> impl Iterator<Item = &'a RefusedFile> {
    let its = move |entry: &&FileReport| entry.file.rsplit_once('.').is_some_and(|(stem, _)| stem == name);
    entries.iter().filter(its).filter_map(|entry| entry.refused.as_ref())
}

fn services_named<'a>(entries: &'a [FileReport], name: &'a str) -> impl Iterator<Item = &'a ServiceStatus> {
    entries.iter().filter_map(|entry| entry.service.as_ref()).filter(move |service| service.info.name == name)
}
