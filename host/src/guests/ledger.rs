//! The difference between the files on disk and the served versions, and the actions that follow. Pure: no clock, no I/O.
//!
//! A service keeps its last good version until its file is gone or a better version is ready. Whatever the order of
//! directory states, compilations and failures is, the result is what a restart would serve, plus the last good
//! versions of broken files.

mod change;
mod entry;
mod guard;
mod memory;
mod ruling;
mod view;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::guests::scan::{FileState, ScannedService};
use lodge_manifest::refusal::Refusal;
use lodge_manifest::spec::{GuestSpec, split};

pub use change::Change;
use entry::LedgerEntry;
use guard::Formers;
use ruling::Ruling;
pub use view::Absent;

/// How long a file must be gone before its service is removed, so that tools that replace a file by deleting and
/// creating it lose no request.
pub const GONE: Duration = Duration::from_millis(500);

/// How long a new service without a manifest is held back after its component was first seen, since someone who copies
/// both may copy the component first. It is compiled meanwhile, which takes about as long.
pub const HELD: Duration = Duration::from_millis(80);

/// The state of every service. `G` is a guest.
pub struct Ledger<G> {
    services: BTreeMap<String, LedgerEntry<G>>,
    formers: Formers,
}

/// What a scan has found to do.
struct ScanOutcome<G> {
    /// What is to be compiled.
    wanted: Vec<GuestSpec>,
    changes: Vec<Change>,
    /// What was held back, and is served now.
    arrived: Vec<(GuestSpec, G)>,
}

impl<G> Default for Ledger<G> {
    fn default() -> Self {
        Self { services: BTreeMap::new(), formers: Formers::default() }
    }
}

impl<G: Clone> Ledger<G> {
    /// Applies the result of a scan. Returns the files to compile, and the changes that take effect at once.
    pub fn see(&mut self, found: BTreeMap<String, ScannedService>, now: Instant) -> (Vec<GuestSpec>, Vec<Change>) {
        for (name, service) in &mut self.services {
            if !found.contains_key(name) {
                service.drop_pending();
                (service.changing, service.refused, service.manifest) = (false, None, None);
                (service.disabled, service.pulling, service.trouble) = (false, false, None);
                (service.gone, service.opens) = (service.gone.or(Some(now)), None);
            }
        }
        let has_version = |name: &str| {
            let next = found.range(format!("{name}@")..).next();
            next.is_some_and(|(next, _)| split(next).0 == name)
        };
        self.formers.leave(|name| !found.contains_key(name) && !has_version(name));
        let mut outcome = ScanOutcome { wanted: Vec::new(), changes: Vec::new(), arrived: Vec::new() };
        for (name, scanned) in found {
            let is_sure = scanned.unsure.is_zero();
            self.see_service(name.clone(), scanned, now, &mut outcome);
            self.remember(&name, is_sure);
        }
        let ScanOutcome { wanted, mut changes, arrived } = outcome;
        changes.extend(arrived.into_iter().filter_map(|(spec, guest)| self.serve(spec, guest)));
        changes.extend(self.expire(now));
        (wanted, changes)
    }

    /// Takes in what a scan has found of one service or version.
    fn see_service(&mut self, name: String, scanned: ScannedService, now: Instant, outcome: &mut ScanOutcome<G>) {
        let ruling = self.rule(&name, &scanned);
        let service = self.services.entry(name.clone()).or_default();
        let ScannedService { state, manifest, settled, touched, bare, blank, trouble, unsure } = scanned;
        // The policies of a version are those of its service, which has the line.
        let waits = service.opens.is_some() && service.ruling == Ruling::Wait;
        if ruling == Ruling::Wait && !waits && split(&name).1.is_none() {
            outcome.changes.push(Change::Waiting(name.clone(), unsure));
        }
        let stays = service.keep(manifest, blank.is_none() && unsure.is_zero());
        let looks = stays && !unsure.is_zero() && !matches!(state, FileState::Ready(_));
        service.opens = (ruling == Ruling::Wait || looks).then(|| now + unsure);
        let (state, settled) = match ruling.clone() {
            Ruling::Follow => (state, settled),
            Ruling::Refuse(refusal) => (FileState::Refused(refusal), true),
            // It ends; only its versions wait.
            Ruling::Wait if matches!(state, FileState::Orphan(_)) => (state, settled),
            Ruling::Wait => (FileState::Changing, settled),
        };
        (service.ruling, service.disabled) = (ruling, false);
        service.manifest.take_if(|_| matches!(state, FileState::Ready(_)));
        (service.pulling, service.trouble) = (matches!(state, FileState::Pulling), trouble);
        let was_orphan = std::mem::replace(&mut service.orphan, matches!(state, FileState::Orphan(_)));
        service.changing = match state {
            FileState::Changing | FileState::Pulling => true,
            FileState::Refused(_) | FileState::Orphan(_) => !settled,
            FileState::Ready(_) | FileState::Disabled => false,
        };
        match state {
            FileState::Ready(spec) => {
                service.gone = None;
                // The component exists now, but may take long to compile.
                service.refused.take_if(|_| was_orphan);
                // A component that is being copied differs in every scan, so the time counts from the last
                // difference.
                let held = service.held.as_ref().is_some_and(|(held, _)| *held == spec);
                let first = !held && service.wanted.as_ref() != Some(&spec);
                let since = if first { now } else { service.bare.unwrap_or(now) };
                service.bare = Some(since).filter(|_| bare && service.live.is_none());
                if service.is_due(&spec, now) {
                    outcome.arrived.extend(service.held.take());
                } else {
                    if service.live.is_none() {
                        self.formers.want(&name, &spec.manifest);
                    }
                    outcome.changes.extend(service.want(&name, spec, (settled, touched), now, &mut outcome.wanted));
                }
            }
            FileState::Refused(refusal) => {
                service.gone = None;
                service.drop_pending();
                // The files may be half written.
                if settled {
                    service.refused = Some((None, refusal));
                }
            }
            FileState::Disabled => {
                self.formers.disable(&name);
                outcome.changes.extend(service.disable(unsure, now).map(|_| Change::Removed(name)));
            }
            FileState::Changing | FileState::Pulling => {
                // What is served stays under the previous manifest, and what is new waits for the next one. The
                // component may be the one of earlier attempts: they still count, so that its machine code is kept.
                service.gone = None;
                (service.compiling, service.held, service.bare) = (None, None, None);
                service.attempts.1 = None;
                service.refused.take_if(|_| was_orphan);
            }
            FileState::Orphan(refusal) => {
                service.drop_pending();
                // The manifest may be removed in a moment, too. A service that still serves is not reported before
                // it is gone for good.
                let lasts = service.live.is_none() || now >= *service.gone.get_or_insert(now) + GONE;
                service.refused = (settled && lasts).then_some((None, refusal));
            }
        }
    }

    /// Applies the result of a compilation, unless it is not wanted any more.
    pub fn compiled(&mut self, spec: GuestSpec, result: Result<G, Refusal>) -> Option<Change> {
        let service = self.services.get_mut(&spec.name)?;
        let settled = service.compiling.take_if(|(wanted, _)| *wanted == spec)?.1;
        let guest = match result.map_err(|refusal| refusal.of(spec.digest)) {
            Ok(guest) => guest,
            Err(refusal) if !settled || refusal.passing => {
                // Tried again at a later scan. Reported now only if the file is not being written.
                service.attempts = (service.attempts.0.saturating_add(1), None);
                service.refused = settled.then_some((None, refusal));
                return None;
            }
            Err(refusal) => {
                service.refused = Some((Some(spec), refusal));
                return None;
            }
        };
        (service.refused, service.wanted, service.attempts) = (None, None, (0, None));
        if service.bare.is_some() {
            service.held = Some((spec, guest));
            return None;
        }
        self.serve(spec, guest)
    }

    /// Serves `guest` from now on.
    fn serve(&mut self, spec: GuestSpec, guest: G) -> Option<Change> {
        let service = self.services.get_mut(&spec.name)?;
        service.bare = None;
        let before = service.live.replace((spec.clone(), guest));
        if let Some((old, _)) = &before {
            self.formers.replaced(old);
        }
        Some(match before {
            Some((old, _)) if old.code_digest() == spec.code_digest() => Change::Reconfigured(spec),
            Some((old, _)) => Change::Replaced(spec, old.code_digest()),
            None => match self.take_renamed(&spec) {
                Some(old) => Change::Renamed(spec, old),
                None => Change::Added(spec),
            },
        })
    }

    /// Tells that what is live was published, except what was refused beside other services: of these the former ones stay.
    pub fn published(&mut self, is_served: impl Fn(&GuestSpec) -> bool) {
        let live = |name: &str| self.services.get(name).and_then(|service| service.live.as_ref());
        self.formers.retain(|name| live(name).is_none_or(|(spec, _)| !is_served(spec)));
    }

    fn expire(&mut self, now: Instant) -> Vec<Change> {
        let mut removed = Vec::new();
        self.services.retain(|name, service| {
            let gone = service.gone.is_some_and(|since| service.live.is_none() || now >= since + GONE);
            if let Some((spec, _)) = service.live.take_if(|_| gone) {
                self.formers.remove(spec, service.left());
                removed.push(Change::Removed(name.clone()));
            }
            // A refusal stays as long as its file, and so does a manifest.
            !gone || service.refused.is_some() || service.manifest().is_some()
        });
        removed
    }

    /// The service that served the same component until its file was removed, if there is one.
    fn take_renamed(&mut self, spec: &GuestSpec) -> Option<String> {
        let same = |service: &LedgerEntry<G>| {
            service.gone.is_some() && service.live.as_ref().is_some_and(|(old, _)| old.digest == spec.digest)
        };
        let name = self.services.iter().find(|(_, service)| same(service)).map(|(name, _)| name.clone())?;
        let service = self.services.get_mut(&name)?;
        let (old, _) = service.live.take()?;
        self.formers.remove(old, service.left());
        // Its manifest may have stayed.
        if service.manifest().is_none() {
            self.services.remove(&name);
        }
        Some(name)
    }
}

#[cfg(test)]
mod tests;
